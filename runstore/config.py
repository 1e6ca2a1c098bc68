"""Settings: flags, then `RUNSTORE_*` variables, then `runstore.toml`, then defaults; each role's in one frozen record.

A table of the file is named for its role and holds the fields of the role's record (`[auth.jwt]` is a table in a
table); the variable of a setting is `RUNSTORE_TABLE_SETTING` (`RUNSTORE_AUTH_JWT_ISSUER`), but for the tables `client`
and `store`, whose variables leave the table's name out (`RUNSTORE_URL`, `RUNSTORE_REDIS_URL`). A misspelt setting stops
the process and names the nearest right one.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from runstore.core.errors import InvalidRequest

if TYPE_CHECKING:
    from runstore.publish import PublisherConfig

FILE: Final = "runstore.toml"
PREFIX: Final = "RUNSTORE_"
ARCHIVE: Final = "archive"
TABLES: Final = ("client", "store", "gateway", "projector", "reaper", "worker", "projects", "auth", "log", ARCHIVE)
JWT: Final = "auth.jwt"
_UNPREFIXED: Final = frozenset({"client", "store"})
_OF_OTHERS: Final = frozenset(
    {"RUNSTORE_PROJECT", "RUNSTORE_CONFIG", "RUNSTORE_RUN_ID", "RUNSTORE_INPUTS", "RUNSTORE_OUTPUTS"}
    | {"RUNSTORE_RUN_MARK", "RUNSTORE_SPOOL_DIR"}
)
_KUBERNETES: Final = re.compile(r"RUNSTORE_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP)(_\w+)?)?)")
"""What Kubernetes sets in every pod beside a service named `runstore…`: `RUNSTORE_GATEWAY_PORT=tcp://10.0.0.7:8080`."""

T = TypeVar("T", bound=msgspec.Struct)


class SettingUnusable(InvalidRequest):
    """A setting is misspelt, of the wrong kind, or in a file that cannot be read."""


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[client]`: where commands that talk to a gateway find it."""

    url: str | None = None
    """The gateway's address, such as `http://127.0.0.1:8080`. Unset: a `runstore dev` on this folder."""

    token: str | None = None
    """The API token or JWT to send to that address, and to no other. Unset: none, or that of the `dev` found."""


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[store]`: where the store is, and what its acknowledgements mean."""

    redis_url: str | None = None
    """The primary's address (`redis://`, `rediss://`, `unix://`), that of Sentinels
    (`redis+sentinel://host:port,host:port/service`) or of a cluster (`redis+cluster://host:port,host:port`).
    Unset: a `runstore dev` on this folder."""

    durability: Literal["acknowledged", "fsynced", "replicated"] = "acknowledged"
    """What a write waits for, and how safe a thing must be before anybody is told of it: Redis has it, its disk has it
    (needs `appendfsync always`), or `min_replicas` replicas have it."""

    min_replicas: Annotated[int, Meta(ge=1, le=100)] = 1
    """How many replicas must have a write under `replicated`."""

    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 5.0
    """Seconds that one question to Redis may take."""

    def opening(self) -> dict[str, Any]:
        """Return what `RedisStore.open` is told besides the address."""
        return {"durability": self.durability, "min_replicas": self.min_replicas, "timeout_s": self.timeout_s}

    def publishing(self) -> "PublisherConfig":
        """Return what a publisher of this store is told."""
        from runstore.publish import PublisherConfig

        return PublisherConfig(durability=self.durability, min_replicas=self.min_replicas)


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[log]`: how the services log. No token and no payload is ever logged."""

    format: Literal["console", "json"] = "console"
    """`console` is a line for people, `json` an object a line with the event's name and fields."""

    level: Literal["debug", "info", "warning", "error"] = "warning"
    """What is logged: events of this level and above it. `runstore dev` writes `info` into its file all the same."""

    access: bool = False
    """Whether a gateway logs each request too, with its id, address without the query, status and time."""


class Settings:
    """What the file and the environment say, before any role asks for its record."""

    def __init__(self, data: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> None:
        self.data = data
        self.path = path
        self._environ = environ

    @classmethod
    def load(cls, environ: Mapping[str, str], path: Path | None = None) -> "Settings":
        """Read the file: the one given, that of RUNSTORE_CONFIG, or `runstore.toml` in the working folder if it exists.

        Raises: SettingUnusable.
        """
        named = path or (Path(told) if (told := environ.get("RUNSTORE_CONFIG")) else None)
        place = named or Path(FILE)
        data: dict[str, Any] = {}
        try:
            data = tomllib.loads(place.read_text("utf-8"))
        except FileNotFoundError:
            if named is not None:
                raise SettingUnusable(f"there is no file {place} to read settings from") from None
        except OSError as error:
            raise SettingUnusable(f"{place} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise SettingUnusable(f"{place} is not valid TOML: {error}") from None
        for name, table in data.items():
            if name not in TABLES:
                raise SettingUnusable(f"{place} has an unknown table [{name}]{nearest(name, TABLES)}")
            if not isinstance(table, dict):
                raise SettingUnusable(f"{name} in {place} must be a table, [{name}]")
        return cls(data, place, environ)

    def record(
        self,
        table: str,
        kind: type[T],
        flags: Mapping[str, Any] | None = None,
        *,
        defaults: Mapping[str, Any] | None = None,
        fixed: Mapping[str, Any] | None = None,
    ) -> T:
        """Make a role's record; a flag that is None was not given.

        `defaults` stand in for those of the record; `fixed` are fields that are no settings.

        Raises: SettingUnusable.
        """
        fixed = fixed or {}
        fields = {field.name: field.type for field in msgspec.structs.fields(kind) if field.name not in fixed}
        given = self._table(table)
        for name in given:
            if name not in fields:
                raise SettingUnusable(f"[{table}] in {self.path} has no setting {name!r}{nearest(name, fields)}")
        merged = {name: self._from_file(table, name, fields[name], value) for name, value in given.items()}
        merged |= self._variables(table, fields)
        for name, value in (flags or {}).items():
            if value is not None:
                merged[name] = _convert(value, fields[name], f"--{name.replace('_', '-')}")
        return kind(**{**(defaults or {}), **merged, **fixed})

    def check_variables(self, tables: Mapping[str, type[msgspec.Struct]]) -> None:
        """Check that the variables with our prefix are ones that there are; `tables` are those of this process.

        Variables of tables that are not this process's own are left to those that read them.

        Raises: SettingUnusable.
        """
        known = set(_OF_OTHERS)
        mine: dict[str, type[msgspec.Struct]] = {
            "client": ClientSettings,
            "store": StoreSettings,
            "log": LogSettings,
            **tables,
        }
        for table, kind in mine.items():
            known.update(variable(table, field) for field in kind.__struct_fields__)
        outer = {table.partition(".")[0] for table in mine}
        foreign = tuple(f"{PREFIX}{table.upper()}_" for table in TABLES if table not in outer)
        for name, value in self._environ.items():
            ours = name.startswith(PREFIX) and not name.startswith(foreign) and not _is_of_kubernetes(name, value)
            if ours and name not in known:
                raise SettingUnusable(f"the variable {name} is no setting of runstore{nearest(name, known)}")

    def _table(self, table: str) -> Mapping[str, Any]:
        outer, _, inner = table.partition(".")
        found: Mapping[str, Any] = self.data.get(outer, {})
        if not inner:
            return found
        for name in found:
            if name != inner:
                raise SettingUnusable(f"{self.path} has an unknown table [{outer}.{name}]{nearest(name, [inner])}")
        within = found.get(inner, {})
        if not isinstance(within, dict):
            raise SettingUnusable(f"{inner} of [{outer}] in {self.path} must be a table, [{table}]")
        return within

    def _variables(self, table: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, kind in fields.items():
            variable_name = variable(table, name)
            value = self._environ.get(variable_name)
            if value and not _is_of_kubernetes(variable_name, value):
                found[name] = _convert(value, kind, f"the variable {variable_name}", text=True)
        return found

    def _from_file(self, table: str, name: str, kind: Any, value: Any) -> Any:
        return _convert(value, kind, f"{name} of [{table}] in {self.path}")


def variable(table: str, field: str) -> str:
    """Name the variable of a setting."""
    return PREFIX + (field if table in _UNPREFIXED else f"{table.replace('.', '_')}_{field}").upper()


def nearest(word: str, known: Iterable[str]) -> str:
    """End a sentence about a word that is not known: the nearest one that is, or all of them."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, 1, 0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(words)}" if words else ""


def _convert(value: Any, kind: Any, place: str, *, text: bool = False) -> Any:
    try:
        if text and _holds_several(kind):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return msgspec.convert(value, kind, strict=not text, dec_hook=_read_path)
    except msgspec.ValidationError as error:
        said = str(error).replace("`", "")
        raise SettingUnusable(f"{place}: {said[:1].lower()}{said[1:]}") from None


def _read_path(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise NotImplementedError(f"a setting cannot be {kind}")


def _holds_several(kind: Any) -> bool:
    origin = getattr(kind, "__origin__", kind)
    return (
        isinstance(origin, type) and issubclass(origin, (frozenset, tuple, list, set, Sequence)) and origin is not str
    )


def _is_of_kubernetes(name: str, value: str) -> bool:
    return _KUBERNETES.fullmatch(name) is not None and (
        not name.endswith("_PORT") or "://" in value or "SERVICE" in name
    )
