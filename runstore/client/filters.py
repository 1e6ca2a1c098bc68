"""What a listing can be narrowed to."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, TypedDict

_REPEATABLE: Final = frozenset({"status", "tag"})


class Filters(TypedDict, total=False):
    """What a listing is narrowed to; all of it must hold.

    `status`: any of these; `tag`: all of these; `commit_sha`: the commit or its beginning. Times are exclusive, ISO
    8601 text or datetimes (a naive one is UTC); `finished_after` is for catching up on what was missed.
    """

    project_name: str | None
    status: str | Iterable[str] | None
    commit_sha: str | None
    tag: str | Iterable[str] | None
    created_after: str | datetime | None
    created_before: str | datetime | None
    finished_after: str | datetime | None


def list_params(filters: Filters) -> list[tuple[str, str]]:
    """Write filters as parameters of a request.

    Raises: TypeError for a filter that there is not.
    """
    params: list[tuple[str, str]] = []
    for name, value in filters.items():
        if name not in Filters.__annotations__:
            known = ", ".join(Filters.__annotations__)
            raise TypeError(f"there is no filter {name!r}: there are {known}")
        if isinstance(value, datetime):
            aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
            params.append((name, aware.isoformat()))
        elif isinstance(value, str):
            params.append((name, value))
        elif isinstance(value, Iterable) and name in _REPEATABLE:
            params += [(name, str(item)) for item in value]
        elif value is not None:
            raise TypeError(f"{name} cannot be {value!r}")
    return params
