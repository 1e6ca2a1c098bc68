"""The complete example of a hook's page, as its reader has it: files that begin with their name, and commands."""

import re
from pathlib import Path
from typing import Final

from tests.hooks.site import ROOT

BROKER: Final = "redis://127.0.0.1:6379/1"
"""The broker of every page's example; the reader's own, here the site's."""
_FILE: Final = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_COMMAND: Final = re.compile(r"^\$ (.*)$", re.MULTILINE)


def write_example(framework: str, folder: Path, broker_url: str) -> list[list[str]]:
    """Write the files of a page's example into a folder, and return the commands that the page tells to run there."""
    page = (ROOT / "docs" / "hooks" / f"{framework}.md").read_text(encoding="utf-8").replace(BROKER, broker_url)
    folder.mkdir()
    for name, text in _FILE.findall(page):
        (folder / name).write_text(text, encoding="utf-8")
    return [command.partition(" #")[0].split() for command in _COMMAND.findall(page)]
