"""What engine and door say to each other about one connection: immutable values."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar, Final

from uproxy.contract.handshakes import PeerSvid, TlsPlan
from uproxy.errors import UproxyError
from uproxy.lifecycle import State
from uproxy.model import Address, Claim, Outcome, TcpAddress, Timeouts, TunnelSettings


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the CONNECT of a stream says of a caller for which an L7 proxy connects: the values of
    headers as they were received, in order.  Anybody can send them."""

    callers: tuple[str, ...] = ()
    """The values of `x-uproxy-caller`: the caller's SPIFFE ID."""
    proofs: tuple[str, ...] = field(default=(), repr=False)
    """The values of `x-uproxy-proof`: a token of the caller."""

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return bool(self.callers or self.proofs)


SILENT: Final = Spoken()
"""Nothing is said."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An accepted connection: who dialled in, as far as it is proved, and for what."""

    id: int
    """Unique in this process."""
    source: Address
    """The TCP peer, or the unix listener itself."""
    local: Address
    """The address it arrived at."""
    peer: PeerSvid | None
    """The caller; None on doors without TLS."""
    tls: TlsPlan | None = None
    """The plan of its handshake, which may be that of an earlier door of the listener.  None: there
    was no handshake, or the connection is open and its plan, which has a key, was dropped."""
    target: TcpAddress | None = None
    """The address that it was meant for: the one that a CONNECT named, or to which a captured
    connection was made; None: the listener's own, or at an inbound door for capture a dial of our
    own that came back to it."""
    spoken: Spoken = SILENT
    """What its CONNECT says of a caller, until the connection is open."""
    tunnel: int | None = None
    """The id of the connection that carries this one as a stream; it has the same source, local
    address, peer and plan.  None: it is carried by nobody."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint to try.  `addresses` race (Happy Eyeballs, RFC 8305); the first is preferred."""

    endpoint: str
    """Its name in the destination's configuration."""
    addresses: tuple[Address, ...]
    """Literal addresses, at least one."""
    server_name: str | None = None
    """The SNI of a TLS handshake with it, in ASCII; None: none is sent."""
    upstream: Upstream | None = None
    """How it is reached, where that differs from `Route.upstream`."""


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
    """The plan of the handshake with the end of the tunnel."""
    end: TcpAddress | int
    """Where the tunnel ends: an address, or a port of the candidate's host."""
    settings: TunnelSettings = TunnelSettings()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent with the CONNECT, never indexed: names in lower case, and values."""
    via: str | None = None
    """The configuration's name for the L7 proxy at which the tunnel ends; None: the destination's
    own proxy is there.  An L7 proxy ends both directions when we end one, so our END_STREAM waits
    for its own."""


PLAIN: Final = Plain()

Upstream = Plain | Tls | Tunnel
"""How a candidate is reached."""


class CacheScope(enum.Enum):
    """What a later arrival must have in common with an earlier one to be given its route."""

    PEER = enum.auto()
    """The leaf that it shows; on doors without TLS all are equal."""
    SOURCE = enum.auto()
    """The host that it comes from."""
    TARGET = enum.auto()
    """`Arrival.target`."""
    LOCAL = enum.auto()
    """The host of `Arrival.local`."""


@dataclass(frozen=True, slots=True)
class Route:
    """A door's yes: where to go and how."""

    destination: str
    """The name of the destination, or of the inbound door."""
    candidates: tuple[Candidate, ...]
    """Tried in order as long as no byte has been relayed."""
    upstream: Upstream
    timeouts: Timeouts
    rule: str | None = None
    """The allow rule that let the caller in."""
    dial_from: TcpAddress | None = None
    """The host of which upstream sees the connection come, another one: the application's caller.
    Only in clear, and on this machine."""
    preface: bytes = b""
    """Sent upstream before anything else (PROXY protocol)."""
    cache_scope: frozenset[CacheScope] | None = None
    """An engine may give this route, without asking, to arrivals that are equal to the first in
    all of these, while the listener has the door that gave it; None: to nobody else.  The door
    names everything it looked at that can differ between the listener's arrivals.  An engine that
    can't compare one of these keeps no route; nobody whose CONNECT says something of a caller
    (`Arrival.spoken`) is given one."""
    revision: int = 0
    """Of the snapshot that decided."""
    door_data: object = field(default=None, repr=False, compare=False)
    """The door's own; the engine gives it back with the route."""
    shown: str | None = field(init=False, repr=False, compare=False)
    """The SPIFFE ID that we show upstream; None in the clear."""
    when_open: Route = field(init=False, repr=False, compare=False)
    """What an engine keeps of it when the connection is open: neither plan nor addresses."""

    def upstream_of(self, candidate: Candidate) -> Upstream:
        """Return how a candidate of it is reached."""
        return self.upstream if candidate.upstream is None else candidate.upstream

    def __post_init__(self) -> None:
        plan = self.upstream.plan
        object.__setattr__(self, "shown", None if plan is None else plan.own.spiffe_id)
        kept = (self.candidates, plan, self.preface, self.door_data, self.cache_scope)
        if any(kept):
            rest = Route(
                self.destination, (), PLAIN, self.timeouts, self.rule, revision=self.revision
            )
            object.__setattr__(rest, "shown", self.shown)
        else:
            rest = self
        object.__setattr__(self, "when_open", rest)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A door's no, or the reason why an engine ended a connection."""

    outcome: Outcome
    reason: str
    """One line for the log."""
    rule: str | None = None
    """The rule of the policy, or of SPIFFE, that decided."""
    claim: Claim | None = None
    """What the peer's certificate says of itself, where that is why."""
    breach: str | None = None
    """With what the peer of a tunnel broke HTTP/2, where that ended the tunnel: the kind of a flood
    (`resets`, `pings`), or the name of the error code (`protocol_error`)."""


class RefusedError(UproxyError):
    """Carries a Refusal out of a function that returns something else."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended."""

    outcome: Outcome
    state: State
    """The state it ended in."""
    duration: float
    """Seconds since it was accepted."""
    bytes_received: int = 0
    """Application bytes from the peer to the application."""
    bytes_sent: int = 0
    """Application bytes from the application to the peer."""
    reason: str | None = None
    """None for an ordinary end."""
    rule: str | None = None
    """The rule that refused the connection, or the allow rule that admitted it."""
    claim: Claim | None = None
    """What the peer's certificate says of itself, if it was refused."""
    breach: str | None = None
    """As in Refusal."""
    goes_on: bool = False
    """It hasn't ended: the L7 proxy that carried it was lost before a byte had passed, and the
    listener's door is asked about it again."""
