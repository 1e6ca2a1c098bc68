"""API tokens: `rst_`, 30 random characters, and a checksum by which a secret scanner knows one from chance.

Only the SHA-256 of a token is ever stored. A token that a person chose (`runstore dev --token`) has no such shape.
"""

import re
from binascii import crc32
from hashlib import sha256
from typing import Final

from runstore.core.errors import InvalidRequest

PREFIX: Final = "rst_"
RANDOM_BYTES: Final = 32
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM: Final = 30
_CHECKSUM: Final = 6
_MADE: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM + _CHECKSUM}}}")
_CHOSEN: Final = re.compile(r"[A-Za-z0-9_.~-]{20,200}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def make_token(random: bytes) -> str:
    """Make a token of random bytes.

    Needs: at least 32 bytes from a source fit for secrets.
    """
    secret = _base62(int.from_bytes(random), _RANDOM)
    return f"{PREFIX}{secret}{_checksum(secret)}"


def is_made(token: str) -> bool:
    """Whether a token has the shape and the checksum of one that was made here."""
    if not _MADE.fullmatch(token):
        return False
    secret = token[len(PREFIX) : len(PREFIX) + _RANDOM]
    return token.endswith(_checksum(secret))


def check_chosen(token: str) -> str:
    """Return a token that a person chose, if it can be one.

    Raises: InvalidRequest.
    """
    if not _CHOSEN.fullmatch(token):
        raise InvalidRequest("a token must be 20 to 200 letters, digits, '-', '_', '.' or '~'")
    return token


def check_token_name(name: str) -> str:
    """Return the name of a token, if it can be one.

    Raises: InvalidRequest.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:60]!r} is no name for a token: 1 to 64 letters, digits, '.', '_', '@' or '-', "
            "the first a letter or digit"
        )
    return name


def hash_token(token: str) -> str:
    """Return what is stored of a token: its SHA-256 in hex."""
    return sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _checksum(secret: str) -> str:
    return _base62(crc32(secret.encode()), _CHECKSUM)


def _base62(number: int, characters: int) -> str:
    digits = []
    for _ in range(characters):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
