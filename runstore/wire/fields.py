"""An object of known fields, read from JSON that a caller wrote."""

from typing import Final, TypeVar

import msgspec

from runstore.core.errors import InvalidRequest
from runstore.core.event import MAX_JSON_DEPTH
from runstore.wire.event import check_depth
from runstore.wire.explain import explain, unknown

_KEYS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_T = TypeVar("_T", bound=msgspec.Struct)


def read_fields(
    text: bytes,
    decoder: msgspec.json.Decoder[_T],
    *,
    what: str = "the body",
    field: str = "field",
    max_depth: int = MAX_JSON_DEPTH,
) -> _T:
    """Read an object of known fields. `what` is what the object is called, and `field` each part of it.

    Raises: InvalidRequest, naming the nearest field where one is not known.
    """
    check_depth(text, what, max_depth)
    fields = decoder.type.__struct_fields__
    try:
        for name in _KEYS.decode(text):
            if name not in fields:
                raise InvalidRequest(unknown(field, name, fields))
        return decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{what} cannot be read: {explain(error, text)}") from None
