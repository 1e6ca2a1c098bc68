"""What reaches a terminal, and what a pipe."""

import io

import pytest

from runstore.cli.screen import Screen, harmless


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_escape_codes_are_made_visible() -> None:
    assert harmless("\x1b[2J\x9b31m\x07\x7f") == "\\x1b[2J\\x9b31m\\x07\\x7f"
    assert harmless("a\u202eb\ud800") == "a\\u202eb\\ud800"


def test_a_line_stays_one_line() -> None:
    assert harmless("a\nb\tc") == "a\\nb\\tc"
    assert harmless("a\nb\tc", lines=True) == "a\nb\tc"


def test_ordinary_text_of_any_language_stays() -> None:
    assert harmless("naïve 予測 ✓ 👍") == "naïve 予測 ✓ 👍"


def test_a_pipe_gets_plain_text() -> None:
    stream = io.StringIO()

    Screen(stream).line(("ok", "bold green"), " [red]x[/red]")

    assert stream.getvalue() == "ok [red]x[/red]\n"


def test_a_terminal_gets_colour_and_no_markup_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()

    Screen(stream).line(("ok", "green"), " [red]x[/red] :+1: \x1b[31m")

    assert stream.getvalue() == "\x1b[32mok\x1b[0m [red]x[/red] :+1: \\x1b[31m\n"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()

    Screen(stream).line(("ok", "green"))

    assert stream.getvalue() == "ok\n"


def test_json_into_a_pipe_is_byte_for_byte_and_on_a_terminal_equal_and_harmless() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    line = '{"a":"' + "\x9b1m\u202eé" + '"}'

    Screen(pipe).json(line.encode())
    Screen(terminal).json(line.encode())

    assert pipe.getvalue() == line + "\n"
    assert terminal.getvalue() == '{"a":"\\u009b1m\\u202eé"}\n'


def test_logs_into_a_pipe_are_what_the_model_wrote() -> None:
    pipe, terminal = io.StringIO(), Terminal()

    Screen(pipe).raw("\x1b[31mred\n")
    Screen(terminal).raw("\x1b[31mred\n")

    assert pipe.getvalue() == "\x1b[31mred\n"
    assert terminal.getvalue() == "\\x1b[31mred\n"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    stream = io.StringIO()

    Screen(stream).table(["A", "B"], [["予測", ("x", "green")], ["a", "y\n"]])

    assert stream.getvalue() == "A     B\n予測  x\na     y\\n\n"
