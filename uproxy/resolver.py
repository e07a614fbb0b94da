"""Looks names up at intervals and passes their records on.

It keeps no records: the snapshot in force has the last good ones, so a failed look-up changes
nothing.  Rules: every name is looked up at start, after a reload and every 30 s; names don't wait
for each other; a name that begins to fail is said once, and once more when it works again.
Literal addresses never come here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol

from uproxy.errors import in_words
from uproxy.lookups import Lookups
from uproxy.model import TcpAddress
from uproxy.tasks import background

INTERVAL_S = 30.0
"""The system's resolver doesn't tell a record's TTL; this is the promise to users."""

FIRST_S = 5.0
"""How long a reload waits for the first answers about names that are new in it."""

Lookup = Callable[[TcpAddress], Awaitable[tuple[TcpAddress, ...]]]
"""Every record of a name, in the resolver's order; raises OSError."""

_log = logging.getLogger(__name__)


class Names(Protocol):
    """Whoever has names to look up, and takes the answers."""

    @property
    def names(self) -> frozenset[TcpAddress]:
        """The names to look up at present."""

    def resolved(self, name: TcpAddress, records: tuple[TcpAddress, ...]) -> None:
        """Take an answer: every record of `name`, at least one."""


class Resolver:
    """Looks every name up every INTERVAL_S seconds."""

    def __init__(
        self,
        names: Names,
        *,
        lookup: Lookup | None = None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._names = names
        self._lookup = lookup or Lookups()
        self._interval_s = interval_s
        # logged as failing, and not yet as working again; with why the last look-up failed, and
        # when (monotonic) the first of them did
        self._failing: dict[TcpAddress, tuple[str, float]] = {}
        self._looking: dict[TcpAddress, asyncio.Task[None]] = {}  # by name, while a look-up runs
        self._due = asyncio.Event()  # set when a reload may have brought new names
        self._task: asyncio.Task[None] | None = None  # from start to stop

    @property
    def failing(self) -> frozenset[TcpAddress]:
        """The names whose last look-up failed."""
        return frozenset(self._failing)

    def why_failing(self, name: TcpAddress) -> str | None:
        """Return why the last look-up of a name failed; None: it didn't."""
        return self._failing[name][0] if name in self._failing else None

    def failing_s(self, name: TcpAddress) -> float | None:
        """Return for how many seconds a name's look-ups have failed; None: the last didn't."""
        return time.monotonic() - self._failing[name][1] if name in self._failing else None

    def start(self) -> None:
        """Look every name up now, and then every INTERVAL_S seconds."""
        self._task = background(self._run(), "resolver")

    def refresh(self) -> None:
        """Look every name up now: the configuration has changed."""
        self._due.set()

    async def ask(
        self, names: Iterable[TcpAddress], limit_s: float = FIRST_S
    ) -> dict[TcpAddress, tuple[TcpAddress, ...]]:
        """Return the records of names that aren't in use yet, of those that are known within
        `limit_s` seconds."""
        tasks = {name: asyncio.ensure_future(self._lookup(name)) for name in names}
        if not tasks:
            return {}
        try:
            await asyncio.wait(tasks.values(), timeout=limit_s)
        finally:
            for task in tasks.values():
                task.cancel()
        # what failed is looked up again later, and logged then
        found = await asyncio.gather(*tasks.values(), return_exceptions=True)
        return {
            name: records
            for name, records in zip(tasks, found, strict=True)
            if not isinstance(records, BaseException) and records
        }

    async def stop(self) -> None:
        """Stop looking up."""
        tasks = [*self._looking.values(), *(() if self._task is None else (self._task,))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None

    async def _run(self) -> None:
        while True:
            self._due.clear()
            names = self._names.names
            self._failing = {name: why for name, why in self._failing.items() if name in names}
            # a look-up that is still running isn't started once more
            for name in names - self._looking.keys():
                task = asyncio.create_task(self._resolve(name), name=f"looking {name} up")
                self._looking[name] = task
                task.add_done_callback(partial(self._looked, name))
            # not wait_for: before Python 3.12 it may swallow the cancellation of `stop`
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._due.wait()

    def _looked(self, name: TcpAddress, _task: asyncio.Task[None]) -> None:
        del self._looking[name]

    async def _resolve(self, name: TcpAddress) -> None:
        try:
            async with asyncio.timeout(self._interval_s):
                records = await self._lookup(name)
        except OSError as error:
            late = f"no answer in {self._interval_s:g} s"
            self._say_failing(name, late if isinstance(error, TimeoutError) else in_words(error))
            return
        if not records:
            self._say_failing(name, "it has no address")
            return
        self._names.resolved(name, records)
        if name in self._failing:
            del self._failing[name]
            _log.info("%s resolves again: %s", name, ", ".join(map(str, records)))

    def _say_failing(self, name: TcpAddress, why: str) -> None:
        is_new = name not in self._failing
        since = time.monotonic() if is_new else self._failing[name][1]
        self._failing[name] = why, since
        if is_new:
            _log.warning(
                "%s can't be resolved: %s; its last good addresses stay in use, next try in %g s",
                name, why, self._interval_s,
            )  # fmt: skip
