"""The command line. Everything is imported when it is needed, so that `--help` and short commands begin at once."""

import sys
from collections.abc import Sequence

from runstore.cli.exits import Exit


def main(words: Sequence[str] | None = None) -> int:
    """Run one command, say in a sentence what went wrong, and return the exit code of the contract."""
    from runstore.cli.app import run
    from runstore.cli.streams import make_usable

    make_usable()
    code = run(list(sys.argv[1:] if words is None else words))
    return int(code if code is not None else Exit.SUCCESS)
