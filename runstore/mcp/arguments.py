"""The arguments of the tools: their types, from which the input schemas are made, and how they are read."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from runstore.core.errors import InvalidRequest
from runstore.core.event import MAX_JSON_DEPTH
from runstore.core.status import Status
from runstore.wire.event import Commit, Tag
from runstore.wire.fields import read_fields
from runstore.wire.request import RunBody
from runstore.wire.schema import CursorText, ProjectName, RunIdPrefix, TimeText

MOST_WAIT_S: Final = 50
"""Seconds that a tool may wait: clients of MCP give a call up after a minute."""

MOST_LISTED: Final = 200
Encoding = Literal["auto", "json", "text", "base64"]
RunIdArgument = Annotated[
    RunIdPrefix, Meta(description="A run id, or its first hex digits: 4 or more, dashes optional.")
]
T = TypeVar("T", bound=msgspec.Struct)
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


class GetRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of `get_run`."""

    run_id: RunIdArgument
    wait_s: Annotated[
        float,
        Meta(ge=0, le=MOST_WAIT_S, description="Wait up to so many seconds; the answer comes the moment the run ends."),
    ] = 0


class GetOutput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of `get_run_output`."""

    run_id: RunIdArgument
    output_name: Annotated[
        str | None, Meta(description="A key of the run's `outputs`; without it, all that the run left, uncut.")
    ] = None
    encoding: Annotated[
        Encoding,
        Meta(
            description="json: the value itself. text: a string, or the JSON text of any other value. base64: the bytes"
            " of that text. auto: text for a string, json for anything else."
        ),
    ] = "auto"


class ListRuns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of `list_runs`."""

    project_name: Annotated[ProjectName | None, Meta(description="Runs of this project.")] = None
    status: Annotated[tuple[Status, ...] | Status, Meta(description="Runs in any of these; none given means any.")] = ()
    commit_sha: Annotated[Commit | None, Meta(description="Runs of this commit, or of those that begin so.")] = None
    tag: Annotated[tuple[Tag, ...] | Tag, Meta(description="Runs that have all of these tags.")] = ()
    created_after: Annotated[TimeText | None, Meta(description="Runs created after this time.")] = None
    created_before: Annotated[TimeText | None, Meta(description="Runs created before this time.")] = None
    finished_after: Annotated[TimeText | None, Meta(description="Runs that ended after this time.")] = None
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED, description="Most runs of a page.")] = 50
    cursor: Annotated[CursorText | None, Meta(description="`next_cursor` of the page before.")] = None

    @property
    def filters(self) -> list[tuple[str, str]]:
        """What the listing is narrowed to, each as a parameter of a request."""
        given: list[tuple[str, str]] = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, tuple):
                given += [(name, str(item)) for item in value]
            elif value is not None and name not in {"limit", "cursor"}:
                given.append((name, str(value)))
        return given


class RunProject(RunBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of `run`: those of the request over HTTP, and its key."""

    idempotency_key: Annotated[
        str | None,
        Meta(
            description="A text of your own, no spaces: a repeat with the same key and arguments gives the same run.",
            extra_json_schema={"pattern": f"^{_KEY.pattern}$"},
        ),
    ] = None

    def __post_init__(self) -> None:
        """Check the key as the header of HTTP is checked."""
        if self.idempotency_key is not None and not _KEY.fullmatch(self.idempotency_key):
            raise ValueError("idempotency_key must be 1 to 255 visible ASCII characters, no spaces")


class CancelRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of `cancel_run`."""

    run_id: RunIdArgument


def read_arguments(kind: type[T], tool: str, given: Mapping[str, Any] | None) -> T:
    """Read the arguments of a tool.

    Raises: InvalidRequest, naming the nearest argument where one is not known.
    """
    what = f"the arguments of {tool}"
    try:
        text = msgspec.json.encode(given or {})
    except UnicodeEncodeError:
        raise InvalidRequest(rf"{what} have half of a surrogate pair such as \ud800 in a text: leave it out") from None
    except RecursionError:
        raise InvalidRequest(f"{what} are nested deeper than {MAX_JSON_DEPTH} levels") from None
    return read_fields(text, msgspec.json.Decoder(kind), what=what, field="argument")
