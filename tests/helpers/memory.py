"""How much memory processes gain while something happens."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from uproxy.lab.memory import private_dirty

_INTERVAL = 0.05


def steps(seen: Sequence[int]) -> list[int]:
    """Return the growth from each value to the next."""
    return [after - before for before, after in itertools.pairwise(seen)]


class Growth:
    """Watches the private memory of processes inside the `with` block; `peak` has the largest
    growth of each."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._before = {pid: private_dirty(pid) for pid in pids}
        self.peak = dict.fromkeys(pids, 0)
        """The most bytes above the beginning, by pid."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def look(self) -> None:
        """Measure now."""
        for pid, before in self._before.items():
            self.peak[pid] = max(self.peak[pid], private_dirty(pid) - before)

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self.look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            self.look()
