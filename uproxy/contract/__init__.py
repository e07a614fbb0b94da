"""What a door decides and what an engine does: the contract between the two halves.

An *engine* accepts, makes handshakes, dials, moves bytes and keeps the deadlines.  A *door*
decides: which credentials to show, whether to let somebody in, where to go.  The engine
calls the door at four moments of a connection's life (`tls`, `admit`, `opened`, `closed`),
never per byte or record, with immutable values, so that an engine of threads can ask in
batches and keep answers.

A door belongs to one snapshot of configuration, credentials and addresses, and never changes:
a listener is given another door (`Listener.replace`) when anything changes.  One door decides
about a connection.  An arrival whose door was replaced before its first byte passed is put to
the new door, whole: `admit` is called again, and what the old door had answered is void.

    accepted → [handshaking: Door.tls] → Door.admit → connecting → [handshaking: Route.upstream]
             → Door.opened → relaying → closing → closed: Door.closed, or what `opened` returned

At a door with `tunnels` a connection isn't admitted: after its handshake it carries streams
(`Door.carrying`) until it ends.  Each CONNECT on it is an arrival, which begins at `Door.admit`.

The side that dialled in is *downstream*, the side that the engine dials is *upstream*.  An inbound
door's downstream is the peer and its upstream the application; outbound it is the other way round.
A door's methods are called on the event loop's thread, must not block and must not raise;
an exception in one is a defect, and the engine then refuses the connection.
"""

from uproxy.contract.halves import (
    Connection,
    Door,
    Engine,
    Listener,
    OnClosed,
    OnTunnelEnded,
    plan_for,
)
from uproxy.contract.handshakes import (
    OwnSvid,
    PeerSvid,
    TlsFacts,
    TlsPlan,
    VerifyPeer,
    next_trust_id,
)
from uproxy.contract.values import (
    PLAIN,
    SILENT,
    Arrival,
    CacheScope,
    Candidate,
    Ending,
    Plain,
    Refusal,
    RefusedError,
    Route,
    Spoken,
    Tls,
    Tunnel,
    Upstream,
)

__all__ = [
    "PLAIN", "SILENT", "Arrival", "CacheScope", "Candidate", "Connection", "Door", "Ending",
    "Engine", "Listener", "OnClosed", "OnTunnelEnded", "OwnSvid", "PeerSvid", "Plain", "Refusal",
    "RefusedError", "Route", "Spoken", "Tls", "TlsFacts", "TlsPlan", "Tunnel", "Upstream",
    "VerifyPeer", "next_trust_id", "plan_for",
]  # fmt: skip
