"""The sample project `forecasts`, made into a git repository of its own at first start.

Author, dates and files are fixed, so the commit has the same sha on every machine. The repository is built beside its
place and then renamed, so it is there whole or not at all; one that exists is the user's and stays as it is.
"""

import shutil
import tempfile
from pathlib import Path

from runstore_worker.git import git

NAME = "forecasts"
FILES = ("model.py", "README.md")
WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in {
        "NAME": "runstore",
        "EMAIL": "sample@runstore.invalid",
        "DATE": "2026-01-01T00:00:00+00:00",
    }.items()
}


async def ensure_sample(folder: Path) -> Path:
    """Make the repository `forecasts` in a folder if it is not there, and say where it is.

    Raises: GitFailed, RepositoryError (no git), OSError.
    """
    place = folder / NAME
    if place.exists():
        return place
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=folder) as scratch:
        made = Path(scratch) / NAME
        await _build(made)
        try:
            made.rename(place)
        except OSError:
            if not place.exists():  # else another process was first
                raise
    return place


async def _build(made: Path) -> None:
    made.mkdir()  # noqa: ASYNC240
    for name in FILES:
        shutil.copyfile(Path(__file__).parent / NAME / name, made / name)
        (made / name).chmod(0o644)
    at = ("-C", made)
    await git(*at, "init", "--quiet", "--template=", "--initial-branch=main")
    await git(*at, "add", "--", *FILES)
    await git(*at, "commit", "--quiet", "--no-verify", "--message", "Forecast monthly revenue", env=WHO)
