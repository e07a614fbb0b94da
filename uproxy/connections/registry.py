"""The registry of connections: which are open, what they moved, how they ended.

Doors report to it (`admitted`, `opened`, `closed`; `tunnels.began`), the admin server reads it,
shutdown waits for it.  When another snapshot is put in force, or a certificate expires, `checking`
closes those that may not stay.  Everything runs on the event loop's thread.

No connection escapes the check while the snapshot is replaced.  In the same step of the loop every
listener is given a door of the new one, and an engine relays a connection's first byte only if
the listener still has the door that decided.  A connection that got in before is open here and
checked by the pass that follows; or it is reported later and checked in `opened`, because the
decision names another revision.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from uproxy.accesslog import AccessLog, access_record
from uproxy.connections.active_counts import ActiveCounts
from uproxy.connections.checking import Checks, Entry
from uproxy.connections.denials import Denial, Denials, is_listed
from uproxy.connections.recheck import ConnectionInfo
from uproxy.connections.tunnels import Tunnels
from uproxy.contract import Arrival, Connection, Ending, Refusal
from uproxy.lifecycle import State
from uproxy.metrics import FlowCounters, FlowLabels, Metrics, Totals
from uproxy.model import Direction, Outcome, TcpAddress, Transport
from uproxy.snapshot import Snapshot

_utc_now = partial(datetime.now, UTC)
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class OpenConnection(Entry):
    """An open connection and what is known of it."""

    flow: FlowCounters
    counted_received: int = 0
    counted_sent: int = 0
    """Application bytes that the metrics have counted so far, from the peer and to it."""

    def count_bytes(self, received: int, sent: int) -> None:
        """Have the metrics count what was moved since the last call; these are the totals."""
        self.flow.moved(received - self.counted_received, sent - self.counted_sent)
        self.counted_received, self.counted_sent = received, sent


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
        self._metrics = metrics
        self._access = access
        self._clock = clock
        # by arrival, until opened or closed; with the revision of the snapshot that decided
        self._admitted: dict[int, tuple[ConnectionInfo, int]] = {}
        self._open: dict[int, OpenConnection] = {}  # by arrival, oldest first
        self._active = ActiveCounts()  # of `_admitted` and `_open`
        self._outcomes: Counter[Outcome] = Counter()
        self._not_opened_in_time = 0  # which `Outcome.is_failure` can't tell from an idle end
        self._denials = Denials()
        self._streams = Counter[Direction]()
        self._checks = Checks(snapshot, clock, self._entries)
        self.tunnels = Tunnels(metrics, clock, self._checks, self._count_handshake)
        """Those that peers have made to us."""
        metrics.before_render(self._count_bytes)
        metrics.watch_connections(lambda: self._active.counts)
        metrics.watch_streams(lambda: self._streams)

    # What is in force.

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force, by which open connections are checked."""
        return self._checks.snapshot

    def replace(self, snapshot: Snapshot) -> None:
        """Put another snapshot in force, and check every open connection again.  The caller gives
        every listener its new door in the same step of the loop."""
        self._checks.replace(snapshot)

    # What doors report.

    def admitted(self, info: ConnectionInfo, arrival: Arrival, revision: int) -> None:
        """Register `arrival`, which a door has admitted and which isn't connected yet; of several
        calls the last one counts.  `revision` is that of the snapshot under which everything that
        `recheck` looks at was found good; 0: unknown, so it is checked when it opens."""
        before = self._admitted.get(arrival.id)
        if before is None:
            self._active.add(info.direction)
        self._admitted[arrival.id] = (info, revision)
        _log.debug(
            "connection %d: accepted from %s at door %s", arrival.id, arrival.source, info.door
        )

    def opened(self, connection: Connection) -> None:
        """Register that an admitted connection is open, and check it again if another snapshot is
        in force than the one that decided on it."""
        info, revision = self._admitted.pop(connection.arrival.id)
        flow = self._metrics.flow(_labels(info, connection))
        entry = OpenConnection(connection, info, self._clock(), flow)
        self._open[connection.arrival.id] = entry
        flow.opened()
        if not connection.shares_tls:
            self._count_handshake(info.direction, connection)
        if _log.isEnabledFor(logging.DEBUG):  # the address is read from the thread
            _log.debug(
                "connection %d: dialled %s from %s",
                connection.arrival.id, connection.dialled, connection.dialled_from,
            )  # fmt: skip
        self._streams[info.direction] += info.transport is Transport.HBONE
        self._checks.began(entry, revision)

    def closed(self, connection: Connection, ending: Ending) -> None:
        """Register the end of a connection that was open, or that it is being dialled again."""
        entry = self._open.pop(connection.arrival.id)
        entry.has_ended = True
        self._streams[entry.info.direction] -= entry.info.transport is Transport.HBONE
        entry.count_bytes(ending.bytes_received, ending.bytes_sent)
        entry.flow.closed(ending.outcome)
        if ending.goes_on:
            self._admitted[connection.arrival.id] = (entry.info, 0)
            return
        self._active.remove(entry.info.direction)
        self._record_end(entry.info, connection, ending)

    def never_opened(self, connection: Connection, ending: Ending, info: ConnectionInfo) -> None:
        """Register the end of an accepted connection that never opened, admitted or not; `info` is
        what its door knows of it."""
        admitted = self._admitted.pop(connection.arrival.id, None)
        if admitted is not None:
            self._active.remove(admitted[0].direction)
        self._not_opened_in_time += ending.outcome is Outcome.TIMED_OUT
        if ending.outcome is Outcome.PROBED:
            self._metrics.probed(info.direction)  # not counted as a failure
        else:
            self._count_failure(info, connection, ending)
        self._record_end(info, connection, ending)

    # What the admin server reads.

    def __iter__(self) -> Iterator[OpenConnection]:
        """Open connections, newest first."""
        return reversed(self._open.values())

    def __len__(self) -> int:
        return len(self._open)

    def newest(self, limit: int) -> tuple[OpenConnection, ...]:
        """At most `limit` open connections, newest first."""
        return tuple(itertools.islice(self, limit))

    @property
    def active(self) -> int:
        """How many connections have been admitted and haven't ended: those that count for
        `limits.connections`."""
        return sum(self._active.counts.values())

    def totals(self) -> Totals:
        """Return what has happened since the start."""
        self._count_bytes()
        opened, received, sent = self._metrics.flow_totals()
        failed = sum(count for outcome, count in self._outcomes.items() if outcome.is_failure)
        return Totals(opened, failed + self._not_opened_in_time, received, sent)

    @property
    def outcomes(self) -> Mapping[Outcome, int]:
        """How many connections have ended since the start, by outcome."""
        return self._outcomes

    @property
    def denials(self) -> tuple[Denial, ...]:
        """The last connections that were refused, or couldn't be made, newest first."""
        return self._denials.newest()

    @property
    def denials_lost(self) -> Mapping[tuple[Direction, Outcome], datetime]:
        """See `Denials.lost`."""
        return self._denials.lost

    # What shutdown needs.

    async def wait_until_idle(self, direction: Direction, *, for_seconds: float) -> None:
        """Return when no connection of `direction` has been admitted or open for so many
        seconds."""
        await self._active.wait_until_idle(direction, for_seconds=for_seconds)

    def close_all(self, refusal: Refusal) -> int:
        """Cut every open connection, and every tunnel; return how many connections there were."""
        entries = tuple(self._open.values())
        for entry in entries:
            entry.cut(refusal)
        self.tunnels.cut(refusal)
        return len(entries)

    # Checking again.

    async def start(self) -> None:
        """Begin to check open connections whenever a snapshot or an expiry demands it."""
        await self._checks.start()

    async def stop(self) -> None:
        """Stop checking."""
        await self._checks.stop()

    def _entries(self) -> Iterator[Entry]:
        """Yield whatever is open: streams before their tunnels, so that each has its own reason."""
        yield from self._open.values()
        yield from self.tunnels

    # Counting.

    def _count_bytes(self) -> None:
        for entry in self._open.values():
            entry.count_bytes(entry.connection.bytes_received, entry.connection.bytes_sent)

    def _count_handshake(self, direction: Direction, connection: Connection) -> None:
        if connection.tls is not None:
            self._metrics.handshake(direction, connection.tls)
            peer = connection.peer or connection.arrival.peer
            _log.debug(
                "connection %d: handshake with %s in %.1f ms: %s",
                connection.arrival.id, peer.spiffe_id if peer else "nobody known",
                connection.tls.duration * 1000, connection.tls,
            )  # fmt: skip

    def _count_failure(self, info: ConnectionInfo, connection: Connection, ending: Ending) -> None:
        self._metrics.failed(_labels(info, connection), ending.outcome)
        downstream = ending.state is State.HANDSHAKING_DOWNSTREAM
        # the other failures upstream were counted attempt by attempt
        late = ending.state is State.HANDSHAKING_UPSTREAM and ending.outcome is Outcome.TIMED_OUT
        if downstream or late:
            self._metrics.handshake_failed(info.direction, ending.outcome, ending.rule)
        elif not connection.shares_tls:
            self._count_handshake(info.direction, connection)

    def _record_end(self, info: ConnectionInfo, connection: Connection, ending: Ending) -> None:
        self._outcomes[ending.outcome] += 1
        if self._access.wants(ending.outcome):
            self._access.access(access_record(info, connection, ending))
        if is_listed(ending):
            self._denials.add(info, connection, ending, self._clock())


def _labels(info: ConnectionInfo, connection: Connection) -> FlowLabels:
    dialled = connection.dialled
    port = dialled.port if isinstance(dialled, TcpAddress) else info.port
    return FlowLabels(
        direction=info.direction,
        ours=None if info.own is None else info.own.spiffe_id,
        theirs=info.identity_of(connection),
        port=port,
        mutual_tls=info.transport.is_mutual_tls,
    )
