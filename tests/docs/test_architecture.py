"""The documents say what the code does."""

from pathlib import Path

from runstore.core.status import draw

ROOT = Path(__file__).parent.parent.parent


def test_the_state_diagram_in_the_architecture_is_drawn_from_the_table() -> None:
    assert f"```mermaid\n{draw()}\n```" in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
