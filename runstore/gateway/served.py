"""Which projects are served: asked for at most a few times a second, however many runs are asked for."""

import asyncio
import time
from difflib import get_close_matches
from typing import Final

from runstore.core.errors import UnknownProject
from runstore.core.principal import Principal
from runstore.ports import Served

KEPT_S: Final = 5.0
_ASK_AT_MOST_EVERY_S: Final = 0.1


class ServedProjects:
    """The projects that workers serve. What was served a moment ago is taken for served."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._known: frozenset[str] = frozenset()
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def check(self, project_name: str, principal: Principal) -> None:
        """Check that a project is served.

        Raises: UnknownProject, naming the nearest one that the caller may use; StoreUnavailable.
        """
        if project_name in self._known and time.monotonic() - self._asked_at < KEPT_S:
            return
        await self._ask(_ASK_AT_MOST_EVERY_S)
        if project_name not in self._known:
            mine = sorted(name for name in self._known if principal.reaches(name))
            near = get_close_matches(project_name, mine, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "no worker has registered it"
            raise UnknownProject(f"unknown project {project_name!r}: {hint}")

    async def served_to(self, principal: Principal) -> tuple[str, ...]:
        """Return the projects that are served and that a caller may use, in order.

        Raises: StoreUnavailable.
        """
        await self._ask(KEPT_S)
        return tuple(sorted(name for name in self._known if principal.reaches(name)))

    async def _ask(self, at_most_every_s: float) -> None:
        async with self._lock:
            if time.monotonic() - self._asked_at >= at_most_every_s:
                self._known = await self._served.projects_served()
                self._asked_at = time.monotonic()
