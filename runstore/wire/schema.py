"""Texts with a form of their own, as the OpenAPI document describes them.

Nothing is checked by these: each form has one place that reads it, with an error that says more than "matches no
pattern".
"""

from typing import Annotated, Any

from msgspec import Meta


def _described(**schema: Any) -> Meta:
    return Meta(extra_json_schema=schema)


RunIdText = Annotated[str, _described(format="uuid")]
WholeRunId = Annotated[str, _described(pattern="^(-*[0-9A-Fa-f]){32}-*$", maxLength=64)]
RunIdPrefix = Annotated[str, _described(pattern="^(-*[0-9A-Fa-f]){4,32}-*$", maxLength=64)]
TimeText = Annotated[str, _described(format="date-time")]
ProjectName = Annotated[str, _described(pattern="^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")]
CursorText = Annotated[str, _described(pattern="^[A-Za-z0-9_-]+={0,2}$")]
