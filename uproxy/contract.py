"""What a door decides and what an engine does: the contract between the two halves.

An *engine* accepts, shakes hands, dials, moves bytes and keeps the deadlines.  A *door*
decides: which credentials to show, whether to let somebody in, where to go.  The engine
asks the door at four moments of a connection's life (`tls`, `admit`, `opened`, `closed`),
never per byte or record, with immutable values, so that an engine of threads can ask in
batches and keep answers that hold.

A door belongs to one snapshot of configuration, credentials and addresses, and never changes:
a listener is given another door (`Listener.replace`) when anything changes.  One door decides
about a connection.  An arrival whose door was replaced before its first byte passed is put to
the new door, whole: `admit` is called again, and what the old door had answered is void.

    accepted → [handshaking: Door.tls] → Door.admit → connecting → [handshaking: Route.upstream]
             → Door.opened → relaying → closing → closed: Door.closed, or what `opened` returned

The side that dialled in is *downstream*, the side that the engine dials is *upstream*.  An inbound
door's downstream is the peer and its upstream the application; outbound it is the other way round.
A door's methods are called on the event loop's thread, must not block and must not raise;
an exception in one is a defect, and the engine then refuses the connection.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from uproxy.errors import UproxyError
from uproxy.lifecycle import State
from uproxy.model import (
    Address,
    Direction,
    Limits,
    Outcome,
    Role,
    TcpAddress,
    Timeouts,
    TlsSettings,
)

if TYPE_CHECKING:
    import socket


@dataclass(frozen=True, slots=True)
class PeerSvid:
    """A peer's identity, verified in this very handshake."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    """DER, leaf first, as validated up to (without) the trust anchor."""
    not_after: datetime
    """The earliest in the validated chain, UTC."""
    anchor: bytes = b""
    """DER of the root that the chain ended at.  All peers below it share the one object."""


VerifyPeer = Callable[[tuple[bytes, ...]], PeerSvid]
"""Judges a presented chain (DER, leaf first) inside the handshake; raises UntrustedError, or
RefusedError with `peer_unexpected`."""


next_trust_id: Callable[[], int] = count(1).__next__
"""The next unused `TlsPlan.trust_id`."""


@dataclass(frozen=True, slots=True)
class OwnSvid:
    """The SVID that we show in a handshake, without its key: a connection keeps this, and mustn't
    keep an old key in memory."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    """DER: our SVID and intermediates, leaf first; the trust anchor is not sent."""
    not_after: datetime
    """The earliest in the chain, UTC."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class TlsPlan:
    """Everything one handshake needs; compared by identity, so an engine may cache by it: make
    one per snapshot of credentials, not one per connection."""

    role: Role
    """What *we* are in the handshake."""
    own: OwnSvid
    """What we show."""
    key: PrivateKeyTypes = field(repr=False)
    settings: TlsSettings
    verify: VerifyPeer
    alpn: tuple[str, ...] = ()
    trust_id: int = field(default_factory=next_trust_id)
    """Which judge `verify` is: plans with equal numbers judge every chain alike, so an engine
    may keep a verdict under it.  A new SVID of ours changes nothing here, new bundles do."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Who dialled in, as far as the door can prove it."""

    id: int
    """Unique in this process."""
    source: Address
    """The TCP peer, or the unix listener itself."""
    local: Address
    """The address it arrived at."""
    peer: PeerSvid | None
    """None on doors without TLS."""
    tls: TlsPlan | None = None
    """What its handshake was made with, as `Door.tls` of this door, or of one that this door has
    replaced, gave it; None where there was none, and when the connection is open: an engine
    then keeps no plan, because a plan has a key."""
    target: TcpAddress | None = None
    """The address that it was meant for: the one that a CONNECT named, or to which a captured
    connection was made; None: the listener's own."""
    via: str | None = None
    """The SPIFFE ID of the L7 proxy that speaks for `peer`; None: `peer` connected itself."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint to try.  `addresses` race (Happy Eyeballs, RFC 8305); the first is preferred."""

    endpoint: str
    """The name the destination knows it by, as in its `addresses`."""
    addresses: tuple[Address, ...]
    """Literal addresses, at least one."""
    server_name: str | None = None
    """What a TLS handshake with it sends as SNI, in ASCII; None sends none."""


@dataclass(frozen=True, slots=True)
class Plain:
    """Upstream is dialled and spoken to in clear."""

    plan: ClassVar[None] = None


@dataclass(frozen=True, slots=True)
class Tls:
    """Upstream is dialled, and a handshake made with it."""

    plan: TlsPlan


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Upstream is a stream of a TLS connection that carries many (HBONE).  A CONNECT opens it,
    whose authority is the candidate's address: the end of the tunnel dials it."""

    plan: TlsPlan
    """Of the handshake with the end of the tunnel."""
    end: TcpAddress | int
    """Where the tunnel ends: an address, or a port of the candidate's host."""


PLAIN: Final = Plain()

Upstream = Plain | Tls | Tunnel
"""How a candidate is reached."""


class CacheScope(enum.Enum):
    """What a later connection must have in common with the first to be given its route."""

    PEER = enum.auto()
    """The leaf that it shows; on doors without TLS all are alike."""
    SOURCE = enum.auto()
    """The host that it comes from."""
    TARGET = enum.auto()
    """`Arrival.target`."""
    VIA = enum.auto()
    """`Arrival.via`."""


@dataclass(frozen=True, slots=True)
class Route:
    """A door's yes: where to go and how."""

    destination: str
    """The name of the destination, or of the inbound door."""
    candidates: tuple[Candidate, ...]
    """Tried in order while no byte has gone."""
    upstream: Upstream
    timeouts: Timeouts
    rule: str | None = None
    """The allow rule that let the caller in."""
    preface: bytes = b""
    """Sent upstream before anything else (PROXY protocol)."""
    cache_scope: frozenset[CacheScope] | None = None
    """An engine may give this route, without asking, to arrivals that are equal to the first in
    all of these, while the listener has the door that gave it; None: to nobody else.  The door
    names everything it looked at that can differ between the listener's arrivals.  An engine that
    can't compare one of these keeps no route."""
    revision: int = 0
    """Of the snapshot that decided."""
    door_data: object = field(default=None, repr=False, compare=False)
    """The door's own note, for `Door.admitted_from_cache`."""
    when_open: Route = field(init=False, repr=False, compare=False)
    """What an engine keeps of it when the connection is open: neither plan nor addresses."""

    def __post_init__(self) -> None:
        kept = (self.candidates, self.upstream.plan, self.preface, self.door_data, self.cache_scope)
        if any(kept):
            rest = Route(
                self.destination, (), PLAIN, self.timeouts, self.rule, revision=self.revision
            )
        else:
            rest = self
        object.__setattr__(self, "when_open", rest)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A door's no."""

    outcome: Outcome
    reason: str
    """One line for the log."""
    rule: str | None = None
    """The rule of the policy, or of SPIFFE, that decided."""


class RefusedError(UproxyError):
    """Carries a Refusal out of a `VerifyPeer`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What a finished handshake negotiated, as the library reports it."""

    version: str
    cipher: str
    group: str
    duration: float
    """Seconds from the first byte of the ClientHello to its end."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended; the engine's last word on it."""

    outcome: Outcome
    state: State
    """The step it ended in."""
    duration: float
    """Seconds since it was accepted."""
    bytes_received: int = 0
    """Application bytes from the peer to the application."""
    bytes_sent: int = 0
    """Application bytes from the application to the peer."""
    reason: str | None = None
    """None for an ordinary end."""
    rule: str | None = None


class Connection(Protocol):
    """An engine's handle on one connection, from `Door.admit` to `Door.closed`."""

    @property
    def arrival(self) -> Arrival:
        """Who dialled in."""

    @property
    def route(self) -> Route | None:
        """None until admitted."""

    @property
    def peer(self) -> PeerSvid | None:
        """The verified peer, on whichever side TLS is; None in plaintext."""

    @property
    def tls(self) -> TlsFacts | None:
        """None in plaintext."""

    @property
    def dialled(self) -> Address | None:
        """The upstream address, once connected."""

    @property
    def endpoint(self) -> str | None:
        """The candidate's endpoint, once connected."""

    @property
    def state(self) -> State: ...

    @property
    def bytes_received(self) -> int:
        """So far, from the peer."""

    @property
    def bytes_sent(self) -> int:
        """So far, to the peer."""

    def close(self, refusal: Refusal) -> None:
        """Cut it now: both sides see a reset, the ending carries the refusal."""


OnClosed = Callable[[Connection, Ending], None]
"""Takes the end of a connection that was open."""


class Door(Protocol):
    """A listener with its meaning, under one snapshot; it never changes."""

    @property
    def name(self) -> str: ...

    @property
    def direction(self) -> Direction: ...

    @property
    def timeouts(self) -> Timeouts:
        """For the steps before a Route is known."""

    def tls(self) -> TlsPlan | Refusal | None:
        """The downstream handshake, taken when a connection is accepted; None on doors without TLS.
        The same answer each time, for as long as the door is the listener's."""

    def admit(self, arrival: Arrival) -> Route | Refusal:
        """Decide on an arrival whose peer, if any, is verified.  Asked once more, by the new
        door, about an arrival that an earlier door of the listener had admitted."""

    def admitted_from_cache(self, arrival: Arrival, route: Route) -> None:
        """The engine gave a cached `route` to this arrival as well.  Reported up to a tenth of a
        second late, but before anything else about the arrival; `opened` may then be reported
        when bytes have moved.  The listener had this door when the first of them did."""

    def attempted(self, route: Route, candidate: Candidate, failure: Refusal | None) -> None:
        """One candidate failed (with why), or was reached (None)."""

    def opened(self, connection: Connection) -> OnClosed:
        """Both sides are ready; bytes move from now on.  Returns what is called, once, when it
        has ended: it doesn't keep the door, and the engine keeps nothing else of it."""

    def closed(self, connection: Connection, ending: Ending) -> None:
        """Called exactly once for every accepted connection that never opened, admitted or
        not."""


class Listener(Protocol):
    """A door the engine listens at."""

    def replace(self, door: Door | None) -> None:
        """From now on `door` decides, also about arrivals that aren't open yet, and no route that
        an earlier door gave is given any more; the socket and open connections stay.  Works
        while it is being closed, too.  None: nobody listens here any more, so whoever isn't open
        yet is refused; to be followed by `close`."""

    async def close(self) -> None:
        """Stop accepting, and return when each arrival has been admitted or refused.

        Whoever waits in the kernel's queue is accepted first, because closing the listening
        socket would reset them; it is closed before anything is awaited.  The wait is bounded
        by the handshake's deadline, and whoever cancels it loses nothing but the waiting.
        Open connections stay.
        """


class Engine(Protocol):
    """Moves the connections.  One per process."""

    def open(self, listener: socket.socket, door: Door) -> Listener:
        """Accept from a listening socket, which the engine now owns."""

    def set_limits(self, limits: Limits) -> None:
        """Applies to arrivals from now on."""

    def refused(self) -> dict[str, int]:
        """Arrivals refused by each limit since the start (`connections`, `handshakes_in_flight`,
        `per_source_connections`, `descriptors`)."""

    def responsive(self) -> bool:
        """Whether every thread of the engine answers (liveness)."""

    async def stop(self) -> None:
        """Cut every connection and let go of every socket; waits for no arrival."""
