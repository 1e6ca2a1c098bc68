"""A request to run, as anybody may make it (section 2 of the contract)."""

from typing import Annotated, Any, Final, Literal

import msgspec

from runstore.wire.event import Tags
from runstore.wire.schema import ProjectName, WholeRunId

MAX_SECONDS: Final = 7 * 24 * 3600
Seconds = Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS)]


class RunBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to run. `parameters` is taken for `inputs` too; a `run_id` chosen by the client works as a key."""

    project_name: ProjectName
    inputs: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    mode: Literal["async", "sync"] = "async"
    timeout_s: Seconds | None = None
    queue_timeout_s: Seconds | None = None
    commit_sha: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{7,40}$")] | None = None
    branch: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    tags: Tags | None = None
    run_id: WholeRunId | None = None
