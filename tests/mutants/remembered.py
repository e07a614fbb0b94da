"""What earlier hunts found, which holds while the files are the same that their tests import.

What a test reads without importing it, and what processes of its own import, isn't known here:
`make clean` forgets everything.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutants.modules import files_of

_ALWAYS = ("constraints.txt", "pyproject.toml")

NOTICED, SURVIVED, BROKEN = 1, 0, 3
"""How a mutant's process exits; BROKEN: it could not be put to the test."""


@dataclass(frozen=True)
class Tried:
    """A mutant that was put to the test."""

    key: str
    line: int
    status: int
    """How its process exited."""


@dataclass(frozen=True)
class Memory:
    """What was found, in a file for each module."""

    folder: Path
    root: Path
    """The project's."""

    def keep(self, module: str, imported: Iterable[str], tried: Sequence[Tried]) -> None:
        """Remember what was found by tests that imported those files, named from the root."""
        kept = {"state": self._state(module, imported), "tried": [asdict(each) for each in tried]}
        self._file(module).write_text(json.dumps(kept))

    def find(self, module: str) -> list[Tried] | None:
        """Return what was found; None: nothing is known, or something is different now."""
        if not self._file(module).is_file():
            return None
        kept = json.loads(self._file(module).read_text())
        state = kept["state"]
        if state != self._state(module, state["files"]):
            return None
        return [Tried(**each) for each in kept["tried"]]

    def _file(self, module: str) -> Path:
        return self.folder / f"{module}.json"

    def _state(self, module: str, imported: Iterable[str]) -> Mapping[str, object]:
        names = {*imported, *_ALWAYS}
        digests = {name: _digest(self.root / name) for name in sorted(names)}
        return {"python": sys.version, "tests": files_of(module), "files": digests}


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
