"""The projects of `runstore.toml`, each a table `[projects.NAME]`, read strictly.

A misspelt setting stops the process at start and names the nearest right one; a wrong type is named by its place.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from runstore_worker.environment import RESERVED
from runstore_worker.source import RepositoryError, Source, locate
from runstore_worker.tail import KEEP_BYTES

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
MONTH_S = 30 * 24 * 3600
Word = Annotated[str, Meta(pattern=r"^[^\x00]*$")]
Variable = Annotated[str, Meta(pattern=r"^[^\x00=]+$")]


class ConfigError(Exception):
    """The configuration file cannot be used; the text is a sentence that says what to mend."""

    retry = False


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """One project that the worker can run."""

    name: str
    """The table's name: up to 100 letters, digits and `._/-`, the first a letter or digit."""
    folder: Path
    """The configuration file's folder, from which a relative `repository` counts."""
    repository: Annotated[str, Meta(min_length=1)]
    """A path or URL (file, git, http, https, ssh) of a git repository. Required."""
    command: Annotated[tuple[Word, ...], Meta(min_length=1)]
    """The program and its arguments, started in the checkout without a shell. Required."""
    timeout_s: Annotated[float, Meta(gt=0, le=MONTH_S)] = 600.0
    """How long a run may take before it ends as `timed_out`. Unit: seconds; default 600, at most 30 days."""
    attempts: Annotated[int, Meta(ge=1, le=100)] = 1
    """How often a run is begun when its worker is lost. Default 1: never again; at most 100."""
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    """How long a run may take to end after SIGTERM before it is killed. Unit: seconds; default 10, 0 kills at once."""
    env: dict[Variable, Word] = {}
    """Variables for the command, beside those the worker sets. Default none."""

    @property
    def source(self) -> Source:
        """Where the repository is."""
        return locate(self.repository, self.folder)


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works."""

    projects: dict[str, Project] = {}
    """What it serves, by name, as `read_projects` gives them; a worker needs one at least."""
    data_dir: Path = Path(".runstore/worker")
    """Its folder: mirrors of repositories in `mirrors`, work in progress in `work`. Workers may share it."""
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 2
    """How many runs it executes at once. Default 2."""
    name: str = ""
    """What it is called in events, up to 200 characters. Default the host's name and the process's number."""
    lease_ms: Annotated[int, Meta(ge=100)] = 15_000
    """After how long its runs go to another attempt when nothing is heard of it. Unit: milliseconds; default 15,000."""
    grace_s: Annotated[float, Meta(ge=0)] = 30.0
    """How long its runs may go on after it was told to stop. Unit: seconds; default 30."""
    kill_after_s: Annotated[float, Meta(ge=0)] = 10.0
    """How long a run may take to end that is ended because the worker stops. Unit: seconds; default 10."""
    last_words_s: Annotated[float, Meta(gt=0)] = 10.0
    """How long a worker that stops tries to publish while Redis is away. Unit: seconds; default 10."""
    keep_bytes: Annotated[int, Meta(ge=1024)] = KEEP_BYTES
    """How much of the end of stdout is kept, and of stderr. Unit: bytes; default 64 MiB, as for a whole output."""
    logs_every_s: Annotated[float, Meta(gt=0)] = 0.25
    """How often the logs of a run are sent on. Unit: seconds; default 0.25."""
    logs_bytes: Annotated[int, Meta(ge=1024)] = 256 * 1024
    """How much of the logs is sent on at once; more is left out in the middle. Unit: bytes; default 256 KiB."""
    deadline_slack_s: Annotated[float, Meta(gt=0)] = 30.0
    """How long above its time and grace a run may last before the store itself ends it. Unit: seconds; default 30."""
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """A port on which numbers are given out for Prometheus; 0 picks a free one. Default none."""
    metrics_host: str = "127.0.0.1"
    """Address of that port. It asks for no token."""


SETTINGS = tuple(field for field in Project.__struct_fields__ if field not in {"name", "folder"})


def read_projects(path: Path) -> dict[str, Project]:
    """Read a configuration file's projects.

    Raises: ConfigError.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # also bytes that are no UTF-8
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return parse_projects(data, path)


def parse_projects(data: Mapping[str, Any], path: Path) -> dict[str, Project]:
    """Take the projects out of a configuration that was read already; its other tables are not looked at.

    Raises: ConfigError.
    """
    if "projects" not in data and (near := difflib.get_close_matches("projects", data, 1, 0.8)):
        raise ConfigError(f"{path} has no setting {near[0]}; did you mean projects?")
    tables = data.get("projects", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"projects in {path} must be tables, [projects.NAME]")
    return {name: _project(name, table, path) for name, table in tables.items()}


def _project(name: str, table: object, path: Path) -> Project:
    place = f"projects.{name}"
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{place!r} in {path} names no project: up to 100 letters, digits and ._/-, the first a letter or digit"
        )
    if not isinstance(table, dict):
        raise ConfigError(f"{place} in {path} must be a table, [{place}]")
    for key in table:
        if key not in SETTINGS:
            raise ConfigError(f"{place} in {path} has no setting {key!r}{_nearest(key)}")
    try:
        project = msgspec.convert({**table, "name": name, "folder": path.absolute().parent}, Project)
        _ = project.source
    except msgspec.ValidationError as error:
        raise ConfigError(_placed(str(error), place, path)) from error
    except RepositoryError as error:
        raise ConfigError(f"{place}.repository in {path}: {error}") from error
    if taken := RESERVED.intersection(project.env):
        raise ConfigError(f"{place}.env in {path} may not set {min(taken)}, which the worker sets itself")
    return project


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, SETTINGS, 1, 0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(SETTINGS)}"


def _placed(said: str, place: str, path: Path) -> str:
    """Turn msgspec's "Expected `int`, got `str` - at `$.attempts`" into a sentence about the file."""
    what, _, where = said.partition(" - at `")
    inner = where.rstrip("`").removeprefix("key in ").removeprefix("$")
    return f"{place}{inner} in {path}: {what[:1].lower()}{what[1:].replace('`', '')}"
