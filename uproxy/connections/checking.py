"""Checks what is open again: when another snapshot is put in force, or a certificate expires.

`recheck` decides about one connection; this goes through all of them, lets the event loop have
turns meanwhile, and cuts those that may not stay.  Tunnels are checked like connections, and
their streams too, each by itself: a stream may end while its tunnel stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from uproxy.connections.recheck import ConnectionInfo, not_after, recheck
from uproxy.contract import Connection, Refusal
from uproxy.snapshot import Snapshot
from uproxy.tasks import background
from uproxy.transport import failures

SLICE = 200
"""Connections checked before the event loop gets a turn; some milliseconds."""
LONGEST_WAIT_S = 60.0
"""The longest wait for the next expiry: the wall clock may jump."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Entry:
    """An open connection, or a tunnel, and what is known of it."""

    connection: Connection
    info: ConnectionInfo
    since: datetime
    """When it opened, UTC."""
    was_cut: bool = field(default=False, kw_only=True)
    """`close` was called."""
    has_ended: bool = field(default=False, kw_only=True)

    def cut(self, refusal: Refusal) -> None:
        """End it, unless it was told to end before."""
        if not self.was_cut:
            self.was_cut = True
            self.connection.close(refusal)


class Checks:
    """Which snapshot is in force, and whether each entry may stay open under it."""

    def __init__(
        self,
        snapshot: Snapshot,
        clock: Callable[[], datetime],
        entries: Callable[[], Iterator[Entry]],
    ) -> None:
        """`clock` is the wall clock, UTC; `entries` yields whatever is open."""
        self.snapshot = snapshot
        """The one in force."""
        self._clock = clock
        self._entries = entries
        self._next_expiry: datetime | None = None  # None where expiry closes nothing
        self._changed = False  # another snapshot is in force, and the pass hasn't begun
        self._wake = asyncio.Event()  # set with `_changed`, and when an expiry comes earlier
        self._task: asyncio.Task[None] | None = None  # from start to stop

    def replace(self, snapshot: Snapshot) -> None:
        """Put another snapshot in force, and check every entry again."""
        self.snapshot = snapshot
        self._changed = True
        self._wake.set()

    def began(self, entry: Entry, revision: int) -> None:
        """Check an entry that has just opened, if another snapshot is in force than `revision`'s,
        which decided on it; have it checked again when a certificate of it expires."""
        if revision != self.snapshot.revision:
            self._check(entry)
        else:
            self._note_expiry(entry)

    async def start(self) -> None:
        """Begin to check whenever a snapshot or an expiry demands it."""
        self._task = background(self._keep_checking(), "connections")

    async def stop(self) -> None:
        """Stop checking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep_checking(self) -> None:
        while True:
            # not wait_for: before Python 3.12 it may swallow the cancellation of `stop`
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait_seconds()):
                    await self._wake.wait()
            self._wake.clear()
            if self._changed or self._something_expired():
                self._changed = False
                await self._check_all()

    def _something_expired(self) -> bool:
        return self._next_expiry is not None and self._clock() > self._next_expiry

    async def _check_all(self) -> None:
        """Check each entry again; let the loop have a turn after each SLICE."""
        entries, self._next_expiry = tuple(self._entries()), None
        cut = 0
        for number, entry in enumerate(entries, start=1):
            if not entry.was_cut and not entry.has_ended:
                cut += self._check(entry)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        if cut:
            _log.warning("%d of %d open connections may not stay open", cut, len(entries))

    def _check(self, entry: Entry) -> bool:
        """Cut an entry that may not stay open, or of which a defect leaves unknown whether it may;
        return whether it was cut."""
        try:
            refusal = recheck(self.snapshot, entry.info, entry.connection, self._clock())
            if refusal is None:
                self._note_expiry(entry)
            else:
                entry.cut(refusal)
        except Exception:  # noqa: BLE001  a defect with one: the others are still to be checked
            _log.exception("a defect: connection %d is cut unchecked", entry.connection.arrival.id)
            entry.cut(failures.DEFECT)
        return entry.was_cut

    def _wait_seconds(self) -> float:
        """Return the seconds until the next expiry, LONGEST_WAIT_S at most."""
        if self._next_expiry is None:
            return LONGEST_WAIT_S
        left = (self._next_expiry - self._clock()).total_seconds()
        # notAfter itself is still valid (RFC 5280 section 4.1.2.5): look just behind it
        return min(max(left, 0.0) + 0.001, LONGEST_WAIT_S)

    def _note_expiry(self, entry: Entry) -> None:
        """Have the entry checked when its first certificate has expired."""
        if entry.was_cut or self.snapshot.actions.on_expiry != "close":
            return
        expires = not_after(entry.info, entry.connection)
        if expires is None:
            return
        if self._next_expiry is None or expires < self._next_expiry:
            self._next_expiry = expires
            self._wake.set()
