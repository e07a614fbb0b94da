"""The registry of connections: who is open, what they moved, how they ended.

Doors report to it (`admitted`, `opened`, `closed`), operators ask it, shutdown waits for it.
When the policy, the trust or the time changes it judges every open connection again and
closes those that may not stay; what may stay is decided in `judging`.  Everything runs on
the event loop's thread; a pass over many connections lets the loop breathe in between.

No connection slips through while what is in force is replaced.  Replacing it first takes back
every answer that doors gave (`ask_again`), in the same step of the loop: an engine lets nobody
in, not even by the first byte, unless the door's answer still stands at that moment.  Whoever
got in before is open here and judged by the pass that follows, or is reported later and then
judged at `opened`, because the answer was given under another edition.
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
from uproxy.config.settings import Settings
from uproxy.connections.denials import Denial, Denials
from uproxy.connections.judging import InForce, Party, not_after
from uproxy.connections.presence import Presence
from uproxy.contract import Arrival, Connection, Ending, Refusal
from uproxy.identity.credentials import Credentials
from uproxy.lifecycle import State
from uproxy.metrics import Flow, FlowLabels, Metrics
from uproxy.model import Direction, Outcome, TcpAddress, Transport

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
    party: Party
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
        in_force: InForce,
        metrics: Metrics,
        access: AccessLog,
        *,
        ask_again: Callable[[], None],
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        """`ask_again` is called when doors may answer otherwise from now on; `clock` is the wall
        clock, UTC."""
        self._in_force = in_force
        self._metrics = metrics
        self._access = access
        self._ask_again = ask_again
        self._clock = clock
        # the edition it was decided under too; by arrival, until opened or closed
        self._admitted: dict[int, tuple[Party, int]] = {}
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
    def in_force(self) -> InForce:
        """What new connections meet and open ones are judged by."""
        return self._in_force

    def configure(self, settings: Settings) -> None:
        """Follow a reload, and judge every open connection again."""
        self._replace(self._in_force.with_settings(settings))

    def credentials_changed(self, _before: Credentials, after: Credentials) -> None:
        """Follow the identity source (`IdentitySource.subscribe`), and judge again."""
        self._replace(self._in_force.with_credentials(after))

    # What doors report.

    def admitted(self, party: Party, arrival: Arrival, edition: int) -> None:
        """A door said yes to `arrival`, which isn't connected yet.  `edition` is what was in force
        when everything that `InForce.judge` looks at was found good, or 0: that isn't known."""
        self._admitted[arrival.id] = (party, edition)
        self._presence.one_more(party.direction)

    def opened(self, connection: Connection) -> None:
        """An admitted connection is open.  If what is in force has changed since it was decided
        on, it is judged once more."""
        party, edition = self._admitted.pop(connection.arrival.id)
        flow = self._metrics.flow(_labels(party, connection))
        entry = OpenConnection(connection, party, self._clock(), flow)
        self._open[connection.arrival.id] = entry
        flow.opened()
        self._count_handshake(party.direction, connection)
        if edition != self._in_force.edition:
            self._judge(entry)
        self._expect_expiry(entry)

    def closed(
        self, connection: Connection, ending: Ending, party_of: Callable[[Connection], Party]
    ) -> bool:
        """An accepted connection has ended; whether it had been open.  `party_of` is asked about
        one that was never admitted."""
        entry = self._open.pop(connection.arrival.id, None)
        if entry is None:
            self._never_opened(connection, ending, party_of)
            return False
        self._presence.one_less(entry.party.direction)
        entry.tell_bytes(ending.bytes_received, ending.bytes_sent)
        entry.flow.closed(ending.outcome)
        self._remember(entry.party, connection, ending)
        return True

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
        refusal = self._in_force.judge(entry.party, entry.connection, self._clock())
        if refusal is not None:
            self._cut(entry, refusal)
        return refusal is not None

    def _cut(self, entry: OpenConnection, refusal: Refusal) -> None:
        if not entry.cut:
            entry.cut = True
            entry.connection.close(refusal)

    def _replace(self, in_force: InForce) -> None:
        self._in_force = in_force
        self._ask_again()
        self._changed = True
        self._wake.set()

    def _nap(self) -> float:
        if self._next_expiry is None:
            return LONGEST_NAP_S
        left = (self._next_expiry - self._clock()).total_seconds()
        # notAfter itself is still valid (RFC 5280 section 4.1.2.5): look just behind it
        return min(max(left, 0.0) + 0.001, LONGEST_NAP_S)

    def _expect_expiry(self, entry: OpenConnection) -> None:
        if entry.cut or self._in_force.switches.on_expiry != "close":
            return
        expires = not_after(entry.party, entry.connection)
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

    def _never_opened(
        self, connection: Connection, ending: Ending, party_of: Callable[[Connection], Party]
    ) -> None:
        admitted = self._admitted.pop(connection.arrival.id, None)
        party = party_of(connection) if admitted is None else admitted[0]
        if admitted is not None:
            self._presence.one_less(party.direction)
        if ending.outcome is Outcome.PROBED:
            self._metrics.probed(party.direction)  # and no failure of anybody
        else:
            self._count_failure(party, connection, ending)
        self._remember(party, connection, ending)

    def _count_failure(self, party: Party, connection: Connection, ending: Ending) -> None:
        self._metrics.failed(_labels(party, connection), ending.outcome)
        near = ending.state is State.HANDSHAKING_NEAR
        # the other failures of the far side were counted attempt by attempt
        late = ending.state is State.HANDSHAKING_FAR and ending.outcome is Outcome.TIMED_OUT
        if near or late:
            self._metrics.handshake_failed(party.direction, ending.outcome, ending.rule)
        else:
            self._count_handshake(party.direction, connection)

    def _remember(self, party: Party, connection: Connection, ending: Ending) -> None:
        self._outcomes[ending.outcome] += 1
        if self._access.wants(ending.outcome):
            ours = None if party.ours is None else party.ours.spiffe_id
            record = access_record(party.direction, party.transport, ours, connection, ending)
            self._access.access(record)
        if ending.outcome in DENIALS:
            self._denials.add(party, connection, ending, self._clock())


def _labels(party: Party, connection: Connection) -> FlowLabels:
    peer = connection.peer or connection.arrival.peer
    dialled = connection.dialled
    port = dialled.port if isinstance(dialled, TcpAddress) else party.port
    return FlowLabels(
        direction=party.direction,
        ours=None if party.ours is None else party.ours.spiffe_id,
        theirs=None if peer is None else peer.spiffe_id,
        port=port,
        mutual_tls=party.transport is Transport.MTLS,
    )
