"""JSON schemas of the tools, made from the types that are read and answered with.

They are written without `$ref`: many agent hosts resolve none, and the older era of the protocol has no place for
definitions.
"""

from typing import Any, Final

import msgspec

from runstore.wire.views import OutputView, RunView

_REF: Final = "#/$defs/"


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Write the schema of a type: an object at its root, nothing referred to."""
    (root,), parts = msgspec.json.schema_components((kind,), ref_template=_REF + "{name}")
    if RunView.__name__ in parts:
        (output,), more = msgspec.json.schema_components((OutputView,), ref_template=_REF + "{name}")
        parts |= more
        parts[RunView.__name__]["properties"]["output"] = {"anyOf": [output, {"type": "null"}]}
    schema = _inline(root, parts)
    assert isinstance(schema, dict)
    return schema


def _bare(part: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a type says of itself to us."""
    return {name: value for name, value in part.items() if name not in {"title", "description"}}


def _inline(schema: Any, parts: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inline(item, parts) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        part = _bare(parts[schema["$ref"].removeprefix(_REF)])
        return _inline(part | {name: value for name, value in schema.items() if name != "$ref"}, parts)
    return {name: _inline(value, parts) for name, value in schema.items()}
