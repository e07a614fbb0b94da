"""The registry of connections: who is open, what they moved, how they ended.

Doors report to it (`admitted`, `opened`, `closed`), operators ask it, shutdown waits for it.
When the snapshot in force or the time changes it judges every open connection again and
closes those that may not stay; what may stay is decided in `recheck`.  Everything runs on
the event loop's thread; a pass over many connections lets the loop breathe in between.

No connection slips through while the snapshot is replaced.  In the same step of the loop every
listener is given a door of the new one: an engine lets nobody in, not even by the first byte,
unless the listener still has the door that decided.  Whoever got in before is open here and
judged by the pass that follows, or is reported later and then judged at `opened`, because the
decision names another revision.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from uproxy.accesslog import DENIALS, AccessLog, access_record
from uproxy.connections.denials import Denial, Denials
from uproxy.connections.presence import Presence
from uproxy.connections.recheck import ConnectionInfo, not_after, recheck
from uproxy.contract import Arrival, Connection, Ending, Refusal
from uproxy.lifecycle import State
from uproxy.metrics import Flow, FlowLabels, Metrics
from uproxy.model import Direction, Outcome, TcpAddress, Transport
from uproxy.snapshot import Snapshot

SLICE = 200
"""Connections judged between two breaths of the event loop; some milliseconds."""
LONGEST_NAP_S = 60.0
"""The wall clock may jump, so expiry is looked for at least this often."""

_utc_now = partial(datetime.now, UTC)
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class OpenConnection:
    """An open connection and what is known of it."""

    connection: Connection
    info: ConnectionInfo
    since: datetime
    """When it opened, UTC."""
    flow: Flow
    told_received: int = 0
    told_sent: int = 0
    """Bytes that the metrics know already."""
    cut: bool = False
    """It was told to close and hasn't ended yet."""

    def tell_bytes(self, received: int, sent: int) -> None:
        """Move the metrics to these totals."""
        self.flow.moved(received - self.told_received, sent - self.told_sent)
        self.told_received, self.told_sent = received, sent


class Connections:
    """Every connection of this process, from its admission to its end."""

    def __init__(
        self,
        snapshot: Snapshot,
        metrics: Metrics,
        access: AccessLog,
        *,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        """`clock` is the wall clock, UTC."""
        self._snapshot = snapshot
        self._metrics = metrics
        self._access = access
        self._clock = clock
        # with the revision of the snapshot that decided; by arrival, until opened or closed
        self._admitted: dict[int, tuple[ConnectionInfo, int]] = {}
        self._open: dict[int, OpenConnection] = {}  # by arrival, oldest first
        self._presence = Presence()  # of both
        self._outcomes: Counter[Outcome] = Counter()
        self._denials = Denials()
        self._next_expiry: datetime | None = None  # only while expiry closes
        self._changed = False  # set when something else is in force, until everybody is judged
        self._wake = asyncio.Event()  # set by that, and by an earlier expiry
        self._task: asyncio.Task[None] | None = None  # from start to stop
        metrics.before_render(self._tell_bytes)
        metrics.watch_connections(lambda: self._presence.counts)

    # What is in force.

    @property
    def snapshot(self) -> Snapshot:
        """What open connections are judged by."""
        return self._snapshot

    def replace(self, snapshot: Snapshot) -> None:
        """Put another snapshot in force, and judge every open connection again.  Every listener
        is to be given its doors in the same step of the loop."""
        self._snapshot = snapshot
        self._changed = True
        self._wake.set()

    # What doors report.

    def admitted(self, info: ConnectionInfo, arrival: Arrival, revision: int) -> None:
        """A door said yes to `arrival`, which isn't connected yet; said again, the new door's
        word counts.  `revision` is of the snapshot under which everything that `recheck` looks at
        was found good, or 0: that isn't known."""
        before = self._admitted.get(arrival.id)
        if before is None:
            self._presence.one_more(info.direction)
        self._admitted[arrival.id] = (info, revision)

    def opened(self, connection: Connection) -> None:
        """An admitted connection is open.  If another snapshot is in force than the one that
        decided on it, it is judged once more."""
        info, revision = self._admitted.pop(connection.arrival.id)
        flow = self._metrics.flow(_labels(info, connection))
        entry = OpenConnection(connection, info, self._clock(), flow)
        self._open[connection.arrival.id] = entry
        flow.opened()
        self._count_handshake(info.direction, connection)
        if revision != self._snapshot.revision:
            self._judge(entry)
        self._expect_expiry(entry)

    def closed(self, connection: Connection, ending: Ending) -> None:
        """A connection that was open has ended."""
        entry = self._open.pop(connection.arrival.id)
        self._presence.one_less(entry.info.direction)
        entry.tell_bytes(ending.bytes_received, ending.bytes_sent)
        entry.flow.closed(ending.outcome)
        self._remember(entry.info, connection, ending)

    def never_opened(self, connection: Connection, ending: Ending, info: ConnectionInfo) -> None:
        """An accepted connection has ended that wasn't open, admitted or not; `info` is what the
        door knows of it."""
        admitted = self._admitted.pop(connection.arrival.id, None)
        if admitted is not None:
            self._presence.one_less(admitted[0].direction)
        if ending.outcome is Outcome.PROBED:
            self._metrics.probed(info.direction)  # and no failure of anybody
        else:
            self._count_failure(info, connection, ending)
        self._remember(info, connection, ending)

    # What operators ask.

    def __iter__(self) -> Iterator[OpenConnection]:
        """Open connections, newest first."""
        return reversed(self._open.values())

    def __len__(self) -> int:
        return len(self._open)

    def newest(self, limit: int) -> tuple[OpenConnection, ...]:
        """At most `limit` open connections, newest first."""
        return tuple(itertools.islice(self, limit))

    @property
    def outcomes(self) -> Mapping[Outcome, int]:
        """Connections that have ended since the start."""
        return self._outcomes

    @property
    def denials(self) -> tuple[Denial, ...]:
        """The last ones, newest first."""
        return self._denials.newest()

    # What shutdown needs.

    async def wait_until_idle(self, direction: Direction, *, for_seconds: float) -> None:
        """Wait until no connection of `direction` has been admitted or open for so long."""
        await self._presence.wait_until_idle(direction, for_seconds=for_seconds)

    def close_all(self, refusal: Refusal) -> int:
        """Cut every open connection; how many there were."""
        entries = tuple(self._open.values())
        for entry in entries:
            self._cut(entry, refusal)
        return len(entries)

    # Judging again.

    async def start(self) -> None:
        """Begin to judge open connections whenever something changes."""
        self._task = asyncio.create_task(self._keep_judging(), name="connections")

    async def stop(self) -> None:
        """Stop judging."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep_judging(self) -> None:
        while True:
            # not wait_for: before Python 3.12 it may swallow the cancellation of `stop`
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._nap()):
                    await self._wake.wait()
            self._wake.clear()
            if self._changed or self._expiry_is_over():
                self._changed = False
                await self._judge_all()

    def _expiry_is_over(self) -> bool:
        return self._next_expiry is not None and self._clock() > self._next_expiry

    async def _judge_all(self) -> None:
        before, self._next_expiry = len(self._open), None
        cut = 0
        for number, entry in enumerate(tuple(self._open.values()), start=1):
            if not entry.cut and entry.connection.arrival.id in self._open:
                cut += self._judge(entry)
                self._expect_expiry(entry)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        if cut:
            _log.warning("%d of %d open connections may not stay open", cut, before)

    def _judge(self, entry: OpenConnection) -> bool:
        refusal = recheck(self._snapshot, entry.info, entry.connection, self._clock())
        if refusal is not None:
            self._cut(entry, refusal)
        return refusal is not None

    def _cut(self, entry: OpenConnection, refusal: Refusal) -> None:
        if not entry.cut:
            entry.cut = True
            entry.connection.close(refusal)

    def _nap(self) -> float:
        if self._next_expiry is None:
            return LONGEST_NAP_S
        left = (self._next_expiry - self._clock()).total_seconds()
        # notAfter itself is still valid (RFC 5280 section 4.1.2.5): look just behind it
        return min(max(left, 0.0) + 0.001, LONGEST_NAP_S)

    def _expect_expiry(self, entry: OpenConnection) -> None:
        if entry.cut or self._snapshot.actions.on_expiry != "close":
            return
        expires = not_after(entry.info, entry.connection)
        if expires is None:
            return
        if self._next_expiry is None or expires < self._next_expiry:
            self._next_expiry = expires
            self._wake.set()

    # Counting.

    def _tell_bytes(self) -> None:
        for entry in self._open.values():
            entry.tell_bytes(entry.connection.bytes_received, entry.connection.bytes_sent)

    def _count_handshake(self, direction: Direction, connection: Connection) -> None:
        if connection.tls is not None:
            self._metrics.handshake(direction, connection.tls)

    def _count_failure(self, info: ConnectionInfo, connection: Connection, ending: Ending) -> None:
        self._metrics.failed(_labels(info, connection), ending.outcome)
        downstream = ending.state is State.HANDSHAKING_DOWNSTREAM
        # the other failures upstream were counted attempt by attempt
        late = ending.state is State.HANDSHAKING_UPSTREAM and ending.outcome is Outcome.TIMED_OUT
        if downstream or late:
            self._metrics.handshake_failed(info.direction, ending.outcome, ending.rule)
        else:
            self._count_handshake(info.direction, connection)

    def _remember(self, info: ConnectionInfo, connection: Connection, ending: Ending) -> None:
        self._outcomes[ending.outcome] += 1
        if self._access.wants(ending.outcome):
            ours = None if info.own is None else info.own.spiffe_id
            record = access_record(info.direction, info.transport, ours, connection, ending)
            self._access.access(record)
        if ending.outcome in DENIALS:
            self._denials.add(info, connection, ending, self._clock())


def _labels(info: ConnectionInfo, connection: Connection) -> FlowLabels:
    peer = connection.peer or connection.arrival.peer
    dialled = connection.dialled
    port = dialled.port if isinstance(dialled, TcpAddress) else info.port
    return FlowLabels(
        direction=info.direction,
        ours=None if info.own is None else info.own.spiffe_id,
        theirs=None if peer is None else peer.spiffe_id,
        port=port,
        mutual_tls=info.transport is Transport.MTLS,
    )
