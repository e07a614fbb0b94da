"""What the two halves call of each other: protocols that engines and doors satisfy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from uproxy.contract.handshakes import PeerSvid, TlsFacts, TlsPlan
from uproxy.contract.values import Arrival, Candidate, Ending, Refusal, Route
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, Limits, TcpAddress, Timeouts, TunnelSettings

if TYPE_CHECKING:
    import socket


class Connection(Protocol):
    """One connection, as doors and the registry see it, from `Door.admit` to `Door.closed`."""

    @property
    def arrival(self) -> Arrival:
        """Who dialled in, and for what."""

    @property
    def route(self) -> Route | None:
        """None until it is admitted."""

    @property
    def peer(self) -> PeerSvid | None:
        """The verified peer, on whichever side TLS is; None in plaintext."""

    @property
    def tls(self) -> TlsFacts | None:
        """What the handshake negotiated, a stream's that of its tunnel; None in plaintext."""

    @property
    def shares_tls(self) -> bool:
        """Whether the handshake wasn't made for this connection: it is a stream of a tunnel that
        carried others before, or that the peer has made."""

    @property
    def dialled(self) -> Address | None:
        """The upstream address that is connected, or the one that was tried last; None before the
        first attempt has ended."""

    @property
    def dialled_from(self) -> TcpAddress | None:
        """Our own address on the TCP connection to upstream, once there is one."""

    @property
    def tunnel_end(self) -> TcpAddress | None:
        """Where the tunnel ends whose stream leads to `dialled`: the address to which TLS is made;
        None inbound, and where upstream isn't a tunnel."""

    @property
    def via(self) -> str | None:
        """The name of the L7 proxy at `tunnel_end`; None: none is."""

    @property
    def streams(self) -> int:
        """How many streams are open on a connection that carries them; 0 on others."""

    @property
    def endpoint(self) -> str | None:
        """The candidate's endpoint, once connected."""

    @property
    def state(self) -> State: ...

    @property
    def bytes_received(self) -> int:
        """Application bytes from the peer until now."""

    @property
    def bytes_sent(self) -> int:
        """Application bytes to the peer until now."""

    def close(self, refusal: Refusal) -> None:
        """End it now: both sides are reset, and its Ending has `refusal`'s outcome and reason.  The
        streams of one that carries them end with it, each with that outcome and reason."""


OnClosed = Callable[[Connection, Ending], None]
"""Takes the end of a connection that was open, or (`Ending.goes_on`) of its being so."""


OnTunnelEnded = Callable[[PeerSvid, TcpAddress, Refusal | None], None]
"""Takes the end of a tunnel that was dialled: who is at its other end, at which address, and why it
has ended; None: in order."""


class Door(Protocol):
    """A listening address with its meaning, under one snapshot; it never changes."""

    @property
    def name(self) -> str: ...

    @property
    def direction(self) -> Direction: ...

    @property
    def timeouts(self) -> Timeouts:
        """The time limits of the steps before a route is known."""

    @property
    def tunnels(self) -> TunnelSettings | None:
        """How its connections carry streams, each of which is an arrival of its own; None: they
        are relayed themselves."""

    @property
    def captured(self) -> bool:
        """Whether capture brings connections here: `Arrival.target` is then the address that each
        was made to, which is the listener's own if nobody has steered it."""

    @property
    def tls_ports(self) -> frozenset[int] | None:
        """With `captured`: the ports of `Arrival.target` at which callers make a handshake, while
        at the others they don't; None: at every one, if the door has a plan."""

    @property
    def migrating_ports(self) -> frozenset[int]:
        """Those of `tls_ports` at which a caller may speak in clear too: whoever's first byte isn't
        that of a TLS handshake makes none."""

    def tls(self) -> TlsPlan | Refusal | None:
        """Return the plan of the downstream handshake, taken when a connection is accepted; None on
        doors without TLS; a Refusal: none can be made.  The same answer each time, for as long as
        the door is the listener's."""

    def admit(self, arrival: Arrival) -> Route | Refusal:
        """Decide on an arrival whose peer, if any, is verified.  Asked once more, by the new
        door, about an arrival that an earlier door of the listener had admitted, and again when an
        open one has lost its L7 proxy before the first byte (`Ending.goes_on`)."""

    def admitted_from_cache(self, arrival: Arrival, route: Route) -> None:
        """The engine gave a cached `route` to this arrival.  Reported up to 0.1 s late, but before
        anything else about the arrival; `opened` may be reported after bytes have moved.  The
        listener had this door when the first of them did."""

    def attempted(self, route: Route, candidate: Candidate, failure: Refusal | None) -> None:
        """A candidate of `route` failed, for the reason `failure`, or was reached (None)."""

    def opened(self, connection: Connection) -> OnClosed:
        """Both sides are ready; bytes move from now on.  Returns the function that is called once
        with the end, or when it goes on by another way.  The engine keeps that function and nothing
        else of the door."""

    def carrying(self, connection: Connection) -> OnClosed:
        """The handshake of a connection at a door with `tunnels` is over, and it carries streams
        from now on.  Returns the function that is called once with its end, after those of its
        streams; the engine keeps that function, and neither the door nor the plan."""

    def closed(self, connection: Connection, ending: Ending) -> None:
        """A connection has ended that never opened and never carried, admitted or not.  Called
        exactly once for each."""


def plan_for(door: Door, target: TcpAddress | None) -> TlsPlan | Refusal | None:
    """Return `Door.tls` for an arrival that is meant for `target`; None: it is in clear."""
    ports = door.tls_ports
    if ports is not None and (target is None or target.port not in ports):
        return None
    return door.tls()


class Listener(Protocol):
    """A socket at which an engine accepts for a door."""

    def replace(self, door: Door | None) -> None:
        """From now on `door` decides, also about arrivals that aren't open yet, and no route of an
        earlier door is given any more; the socket and open connections stay.  Works during
        `close`, too.  None: arrivals that aren't open yet are refused; to be followed by
        `close`."""

    async def close(self) -> None:
        """Stop accepting, and return when each arrival has been admitted or refused.

        Whoever waits in the kernel's queue is accepted first, because closing the listening
        socket would reset them; it is closed before anything is awaited.  The wait is bounded
        by the handshake's deadline, and may be cancelled without harm.  Open connections stay.
        """


class Engine(Protocol):
    """Moves the connections.  There is one per process."""

    def open(self, listener: socket.socket, door: Door) -> Listener:
        """Accept from a listening socket, which the engine now owns."""

    def set_limits(self, limits: Limits) -> None:
        """Set the limits for arrivals from now on."""

    def refused(self) -> dict[str, int]:
        """Return how many arrivals each limit has refused since the start (`connections`,
        `handshakes_in_flight`, `per_source_connections`, `descriptors`)."""

    def pooled_tunnels(self) -> int:
        """Return how many tunnels to other workloads are open, with those that carry no stream."""

    def watch_tunnels(self, on_ended: OnTunnelEnded) -> None:
        """Have `on_ended` called with the end of each tunnel that is dialled from now on and whose
        handshake succeeds.  Those that peers have made have a door, which is told."""

    def responsive(self) -> bool:
        """Whether every thread of the engine answers (liveness)."""

    async def stop(self) -> None:
        """End every connection and close every socket, without waiting for arrivals."""
