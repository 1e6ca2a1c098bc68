"""A request to run, as anybody may make it (section 2 of the contract)."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from runstore.core.errors import InvalidRequest
from runstore.wire.event import Tags
from runstore.wire.schema import ProjectName, WholeRunId

MAX_SECONDS: Final = 7 * 24 * 3600
Seconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]


class RunBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to run. `parameters` is taken for `inputs` too; a `run_id` chosen by the client works as a key."""

    project_name: Annotated[ProjectName, Meta(description="The project whose model is executed.")]
    inputs: Annotated[dict[str, Any] | None, Meta(description="What the model is given, a JSON object.")] = None
    parameters: Annotated[dict[str, Any] | None, Meta(description="Another name of inputs; give one of them.")] = None
    mode: Annotated[
        Literal["async", "sync"] | None,
        Meta(description="async: answer at once. sync: wait for the run's end first."),
    ] = "async"
    timeout_s: Annotated[Seconds | None, Meta(description="Seconds that the run may take.")] = None
    queue_timeout_s: Annotated[
        Seconds | None, Meta(description="Seconds that it may stay pending before it ends as timed_out.")
    ] = None
    commit_sha: Annotated[
        Annotated[str, Meta(pattern="^[0-9a-fA-F]{7,40}$")] | None,
        Meta(description="The git commit to execute; without it, the default branch's head."),
    ] = None
    branch: Annotated[
        Annotated[str, Meta(min_length=1, max_length=255)] | None,
        Meta(description="The branch whose head is executed, in place of a commit."),
    ] = None
    tags: Annotated[Tags | None, Meta(description="Words to find the run by.")] = None
    run_id: Annotated[
        WholeRunId | None, Meta(description="A UUID of the caller's own for the run; it works as an idempotency key.")
    ] = None

    @property
    def given_inputs(self) -> dict[str, Any] | None:
        """The inputs, by whichever name they were given.

        Raises: InvalidRequest where both names were.
        """
        if self.inputs is not None and self.parameters is not None:
            raise InvalidRequest("parameters is another name of inputs: give one of them")
        return self.inputs if self.parameters is None else self.parameters
