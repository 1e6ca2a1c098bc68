"""API tokens: `rst_`, 30 characters of base62, and 6 more that are the CRC-32 of all before them.

The prefix and the checksum let secret scanners find a token and tell it from a look-alike. Only the SHA-256 is stored;
a token has 178 random bits, so a slow hash would protect nothing more. An operator may also fix a token of another
form, so a store accepts whatever text has the right hash.
"""

import re
import string
from hashlib import sha256
from typing import Final
from zlib import crc32

from runstore.core.errors import InvalidRequest

PREFIX: Final = "rst_"
RANDOM_CHARACTERS: Final = 30
MIN_FIXED_CHARACTERS: Final = 20
MAX_FIXED_CHARACTERS: Final = 4096
_CHECK_CHARACTERS: Final = 6
_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
COMBINATIONS: Final = len(_DIGITS) ** RANDOM_CHARACTERS
"""How many tokens there are: `make_token` takes a random number below this."""

_FORM: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{RANDOM_CHARACTERS + _CHECK_CHARACTERS}}}")
_FIXED: Final = re.compile(rf"[A-Za-z0-9._~-]{{{MIN_FIXED_CHARACTERS},{MAX_FIXED_CHARACTERS}}}")
_SEEN: Final = re.compile(r"(?<![0-9A-Za-z])(rst_|rrt_|eyJ|runstore\.bearer\.)[0-9A-Za-z._~-]{8,}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,63}")


def make_token(number: int) -> str:
    """Write a number below `COMBINATIONS` as a token. Needs: a number from a source fit for secrets."""
    if not 0 <= number < COMBINATIONS:
        raise ValueError("the number lies outside the tokens there are")
    body = PREFIX + _base62(number, RANDOM_CHARACTERS)
    return body + _check(body)


def is_token(text: str) -> bool:
    """Whether a text has the form of a token, checksum included; whether it is known, only a store can say."""
    return _FORM.fullmatch(text) is not None and _check(text[:-_CHECK_CHARACTERS]) == text[-_CHECK_CHARACTERS:]


def hash_token(text: str) -> str:
    """Hash a token as it is stored: SHA-256, in hex."""
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def mask_tokens(text: str) -> str:
    """Cut what has the form of a token to its beginning: API tokens, run tokens, JWTs, and what a subprotocol carries.

    A token that somebody fixed has no form to be known by: it must not get where this would be needed.
    """
    return _SEEN.sub(r"\1…", text)


def check_fixed_token(text: str) -> str:
    """Return a token that somebody chose, if it may be one: any that is long enough, and fits into a header.

    Raises: InvalidRequest.
    """
    if not _FIXED.fullmatch(text):
        raise InvalidRequest(
            f"a token has {MIN_FIXED_CHARACTERS} to {MAX_FIXED_CHARACTERS} URL-safe characters: "
            "letters, digits, '-', '_', '.', '~'"
        )
    return text


def check_token_name(name: str) -> str:
    """Return a name if it can be a token's.

    Raises: InvalidRequest.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:60]!r} is no name for a token: 1 to 64 letters, digits, '.', '_', '-', '@' or '/', "
            "the first a letter or digit"
        )
    return name


def _check(body: str) -> str:
    return _base62(crc32(body.encode()), _CHECK_CHARACTERS)


def _base62(number: int, characters: int) -> str:
    written = ""
    for _ in range(characters):
        number, digit = divmod(number, len(_DIGITS))
        written = _DIGITS[digit] + written
    return written
