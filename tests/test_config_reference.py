"""The page for people is what the table says today."""

from __future__ import annotations

from pathlib import Path

from uproxy.config import reference_markdown
from uproxy.config.reload import RESTART_KEYS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "configuration.md"


def test_the_reference_in_the_docs_is_current() -> None:
    assert PAGE.read_text() == reference_markdown()


def test_every_row_is_a_row_of_four_cells() -> None:
    rows = [line for line in reference_markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)


def test_every_key_that_needs_a_restart_is_marked() -> None:
    page = reference_markdown()
    assert all(f"| `{key}` ↻ |" in page for key in RESTART_KEYS)
    assert page.count("↻ |") == len(RESTART_KEYS)
