"""The versions of Python that uProxy is for: pyproject.toml's classifiers."""

from __future__ import annotations

import re
from pathlib import Path

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def pythons() -> list[str]:
    """Return the versions, as `3.11`, from the oldest to the newest."""
    return re.findall(r"Programming Language :: Python :: (3\.\d+)", _PROJECT.read_text())
