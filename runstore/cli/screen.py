"""What is written to the terminal or into a pipe.

A model's output, a project's name or a worker's error message may hold escape codes: on their way to people they are
made visible. Colour goes to terminals only, and not where NO_COLOR is set; a pipe gets plain text.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from runstore.cli.exits import Exit, Trouble
from runstore.cli.streams import let_go_of

if TYPE_CHECKING:
    from rich.console import Console

Words = str | tuple[str, str]
"""Plain words, or words and their style."""

_KEPT: Final = frozenset("\n\t")
_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0))
_UNSEEN: Final = (
    *range(0x200B, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
    *range(0xD800, 0xE000),
)
"""What moves the cursor, changes the direction of writing, or shows nothing; lone surrogates cannot be written."""

_SHOWN: Final = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*_CONTROLS, *_UNSEEN)
    if chr(code) not in _KEPT
}
_ON_ONE_LINE: Final = _SHOWN | {ord("\n"): "\\n", ord("\t"): "\\t"}
_IN_JSON: Final = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *_UNSEEN)}


def harmless(text: str, *, lines: bool = False) -> str:
    """Make visible what would do something to a terminal; `lines` keeps the ends of lines and tabs."""
    return text.translate(_SHOWN if lines else _ON_ONE_LINE)


class Screen:
    """One of the two streams: lines of words, each with or without a style."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()
        self._console: Console | None = None

    @property
    def has_colour(self) -> bool:
        """Whether styles are shown."""
        return self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def line(self, *words: Words, lines: bool = False) -> None:
        """Write words as one line, or as several where they may hold ends of lines."""
        parts = [(word, "") if isinstance(word, str) else word for word in words]
        if not self.has_colour:
            self._put("".join(harmless(text, lines=lines) for text, _ in parts) + "\n")
            return
        from rich.text import Text

        text = Text.assemble(*((harmless(text, lines=lines), style) for text, style in parts))
        self._rich().print(text, soft_wrap=True)
        self.stream.flush()

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Words]]) -> None:
        """Write rows under a head, each column as wide as its widest cell."""
        from rich.cells import cell_len

        cells = [[(name, "bold") for name in head], *([_cell(cell) for cell in row] for row in rows)]
        widths = [max(cell_len(row[column][0]) for row in cells) for column in range(len(head))]
        for row in cells:
            padded = [
                (text + " " * (width - cell_len(text)) + "  ", style)
                for (text, style), width in zip(row, widths, strict=True)
            ]
            padded[-1] = row[-1]
            self.line(*padded)

    def json(self, compact: bytes) -> None:
        """Write one line of compact JSON, byte for byte into a pipe; a terminal gets unseen characters escaped."""
        text = compact.decode("utf-8", "surrogateescape")
        self._put((text.translate(_IN_JSON) if self.is_terminal else text) + "\n")

    def raw(self, text: str) -> None:
        """Write text as it is into a pipe, harmless to a terminal; nothing is added."""
        self._put(harmless(text, lines=True) if self.is_terminal else text)

    @contextmanager
    def waiting(self, sentence: str) -> Iterator[None]:
        """Show that something is awaited, while it is, on a terminal only."""
        if not self.has_colour:
            yield
            return
        with self._rich().status(harmless(sentence)):
            yield

    def _put(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:
            raise  # the reader has left, which is no trouble
        except OSError as error:
            raise Trouble(f"the output cannot be written: {error.strerror}", Exit.UNWRITABLE) from None

    def _rich(self) -> "Console":
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=self.stream, highlight=False, markup=False, emoji=False)
        return self._console


def _cell(words: Words) -> tuple[str, str]:
    text, style = (words, "") if isinstance(words, str) else words
    return harmless(text), style


def out() -> Screen:
    """Return what answers are written to."""
    return Screen(sys.stdout)


def err() -> Screen:
    """Return what errors, hints and progress are written to."""
    return Screen(sys.stderr)


def complain(sentence: str) -> None:
    """Say what went wrong, if there is anybody to tell; the exit code says it too."""
    try:
        err().line(("runstore: ", "bold red"), sentence, lines=True)
    except (BrokenPipeError, Trouble):
        let_go_of(sys.stderr)
