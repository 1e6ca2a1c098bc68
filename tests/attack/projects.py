"""The projects of the attacked worker: a healthy one, one whose model does as it is told, and hostile repositories."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HEALTHY_MODEL = """
import json, os, pathlib
said = json.loads(pathlib.Path(os.environ["RUNSTORE_INPUTS"]).read_bytes())["said"]
print("saying", said)
pathlib.Path(os.environ["RUNSTORE_OUTPUTS"]).write_text(json.dumps({"said": said}))
"""
OBEDIENT_MODEL = """
import json, os, pathlib
exec(json.loads(pathlib.Path(os.environ["RUNSTORE_INPUTS"]).read_bytes())["code"])
"""


@dataclass
class Projects:
    """Where the projects lie; `hostile` are those of hostile repositories."""

    folder: Path
    repositories: dict[str, Path]
    hostile: list[str]

    @property
    def settings(self) -> Path:
        return self.folder / "runstore.toml"

    @property
    def canary(self) -> Path:
        """A folder beside the repositories in which nothing may appear, change or go."""
        return self.folder / "canary"


def git(repository: Path, *words: str, stdin: bytes = b"", **env: str) -> str:
    """Call git on a repository as whoever wrote it would."""
    who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *words],
        cwd=repository,
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": str(repository), **who, **env},
        input=stdin,
        capture_output=True,
        check=True,
    )
    return done.stdout.decode(errors="surrogateescape").strip()


def repository(folder: Path, model: str) -> Path:
    """Make a repository with one model."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "model.py").write_text(model)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "A model")
    return folder


def make(folder: Path) -> Projects:
    """Make all projects and the settings that name them."""
    from tests.attack.kinds import hostile_repositories

    made = Projects(folder, {}, [])
    made.repositories["healthy"] = repository(folder / "healthy", HEALTHY_MODEL)
    made.repositories["obedient"] = repository(folder / "obedient", OBEDIENT_MODEL)
    made.canary.mkdir()
    (made.canary / "kept").write_text("as it was")
    for name, write in hostile_repositories.WRITERS.items():
        place = repository(folder / name, HEALTHY_MODEL)
        write(place, made.canary)
        made.repositories[name] = place
        made.hostile.append(name)
    made.settings.write_text(
        "".join(
            f'[projects.{name}]\nrepository = "{place}"\ncommand = ["{sys.executable}", "model.py"]\n'
            f"timeout_s = {300 if name == 'obedient' else 30}\ngrace_s = 0.5\n"
            for name, place in made.repositories.items()
        )
    )
    return made
