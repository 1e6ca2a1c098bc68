"""Who is asking: scopes and projects, and what they allow."""

from enum import StrEnum

import msgspec

from runstore.core.ids import RunId


class Scope(StrEnum):
    """What a credential may do."""

    READ = "runs:read"
    WRITE = "runs:write"
    PUBLISH = "runs:publish"
    ADMIN = "admin"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The caller of a request, whatever the kind of credential.

    `projects` None means every project; `run_id` is set for a run token; `expires_at_s` is a UNIX time.
    """

    name: str
    scopes: frozenset[Scope]
    projects: frozenset[str] | None = None
    run_id: RunId | None = None
    expires_at_s: float | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope; `admin` has them all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def may_see(self, project_name: str, run_id: RunId) -> bool:
        """Whether a run lies within the caller's reach."""
        if self.run_id is not None:
            return run_id == self.run_id
        return self.reaches(project_name)

    def reaches(self, project_name: str) -> bool:
        """Whether the caller may use a project."""
        return self.projects is None or project_name in self.projects

    @property
    def sees_all(self) -> bool:
        """Whether no run lies out of the caller's reach."""
        return self.run_id is None and self.projects is None
