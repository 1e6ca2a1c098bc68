"""Query parameters of a request, read and checked."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection
from typing import Final, Protocol

import msgspec
from aiohttp import web
from multidict import MultiMapping

from runstore.core.errors import InvalidRequest
from runstore.core.event import MAX_TAG_CHARACTERS, MAX_TAGS
from runstore.core.ids import check_project_name
from runstore.core.principal import Principal
from runstore.core.status import Status
from runstore.core.times import from_iso
from runstore.ports import ListPosition, ListQuery
from runstore.wire.explain import unknown

MAX_LIMIT: Final = 200
DEFAULT_LIMIT: Final = 50
_MAX_TEXT: Final = 200
_SPACED_OFFSET: Final = re.compile(r"([Tt ]\S+) (\d\d(?::?\d\d)?)$")
_POSITIONS: Final = msgspec.msgpack.Decoder(ListPosition)
_PACK: Final = msgspec.msgpack.Encoder()


class Queried(Protocol):
    """What query parameters are read of: a request, or what stands for one."""

    @property
    def query(self) -> MultiMapping[str]:
        """The parameters, each as often as it was given."""
        ...


def check_names(request: web.Request, known: Collection[str]) -> None:
    """Check that every query parameter is known to the route.

    Raises: InvalidRequest, naming the nearest known one.
    """
    for name in request.query:
        if name not in known:
            raise InvalidRequest(unknown("query parameter", name, known))


def one(request: Queried, name: str) -> str | None:
    """Read a parameter that may be given once.

    Raises: InvalidRequest where it is given more often.
    """
    given = request.query.getall(name, ())
    if len(given) > 1:
        raise InvalidRequest(f"{name} can be given once, not {len(given)} times")
    return given[0] if given else None


def read_limit(request: Queried) -> int:
    """Read how many runs a page may have.

    Raises: InvalidRequest.
    """
    told = one(request, "limit")
    if told is None:
        return DEFAULT_LIMIT
    if not (told.isascii() and told.isdigit() and len(told) < 10 and 1 <= int(told) <= MAX_LIMIT):
        raise InvalidRequest(f"limit must be a whole number from 1 to {MAX_LIMIT}, not {told[:20]!r}")
    return int(told)


def read_list_query(request: Queried, principal: Principal) -> ListQuery | None:
    """Read the filters of a listing (None: the caller may read nothing of what is asked for).

    Raises: InvalidRequest.
    """
    projects = principal.projects
    project_name = one(request, "project_name")
    if project_name is not None:
        check_project_name(project_name)
        projects = frozenset({project_name}) if principal.reaches(project_name) else frozenset()
    tags = frozenset(_tag(tag) for tag in request.query.getall("tag", ()))
    if len(tags) > MAX_TAGS:
        raise InvalidRequest(f"a run has at most {MAX_TAGS} tags: no run can have {len(tags)}")
    query = ListQuery(
        projects=projects,
        statuses=frozenset(_status(status) for status in request.query.getall("status", ()) if status),
        commit_sha=_commit(one(request, "commit_sha")),
        tags=tags,
        created_after_us=_time(request, "created_after"),
        created_before_us=_time(request, "created_before"),
        finished_after_us=_time(request, "finished_after"),
    )
    return query if projects is None or projects else None


def read_position(request: Queried) -> ListPosition | None:
    """Read the cursor of a walk.

    Raises: InvalidRequest where no listing gave it.
    """
    told = one(request, "cursor")
    if told is None:
        return None
    try:
        if len(told) > _MAX_TEXT:
            raise ValueError
        position = _POSITIONS.decode(urlsafe_b64decode(told.encode("ascii") + b"=" * (-len(told) % 4)))
        if len(position.packed_id) != 16 or not 0 <= position.created_ms < 2**48:
            raise ValueError
    except (ValueError, msgspec.MsgspecError):
        raise InvalidRequest(f"{told[:40]!r} is no cursor of a listing: give next_cursor as it was received") from None
    return position


def write_position(position: ListPosition) -> str:
    """Write the cursor of a walk."""
    return urlsafe_b64encode(_PACK.encode(position)).rstrip(b"=").decode()


def _status(told: str) -> Status:
    try:
        return Status(told)
    except ValueError:
        raise InvalidRequest(unknown("status", told, [status.value for status in Status])) from None


def _tag(told: str) -> str:
    if not 1 <= len(told) <= MAX_TAG_CHARACTERS:
        raise InvalidRequest(f"a tag has 1 to {MAX_TAG_CHARACTERS} characters, not {len(told)}")
    return told


def _commit(told: str | None) -> str | None:
    if told is not None and not 1 <= len(told) <= _MAX_TEXT:
        raise InvalidRequest(f"commit_sha must be a commit or its beginning, 1 to {_MAX_TEXT} characters")
    return told


def _time(request: Queried, name: str) -> int | None:
    told = one(request, name)
    if told is None:
        return None
    try:
        # a `+` that was not percent-encoded arrives as a space: before the offset, and nowhere else behind a `T`
        return from_iso(_SPACED_OFFSET.sub(r"\1+\2", told))
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {error.detail}") from None
