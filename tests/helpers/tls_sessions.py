"""Pairs of `libssl` sessions, connected in memory."""

from __future__ import annotations

from datetime import UTC, datetime

from uproxy import libssl
from uproxy.contract import PeerSvid, TlsPlan, VerifyPeer
from uproxy.lab.pki import Authority, Issued
from uproxy.libssl import Session
from uproxy.libssl.binding import ffi, lib
from uproxy.model import Role, TlsSettings

OURS = Authority("example.org")
US = OURS.issue("/ns/shop/sa/orders")
PEER = OURS.issue("/ns/web/sa/frontend")


def accept(chain: tuple[bytes, ...]) -> PeerSvid:
    return PeerSvid("spiffe://example.org/somebody", chain, datetime.now(UTC))


def plan(
    role: Role,
    shows: Issued = US,
    verify: VerifyPeer = accept,
    settings: TlsSettings = TlsSettings(),
    alpn: tuple[str, ...] = (),
) -> TlsPlan:
    return TlsPlan(role, shows.own, shows.key, settings, verify, alpn)


def session(tls: TlsPlan) -> Session:
    return Session(libssl.context_of(tls))


def pair(client: TlsPlan | None = None, server: TlsPlan | None = None) -> tuple[Session, Session]:
    """Return a client and a server session before their handshake."""
    return session(client or plan(Role.CLIENT, PEER)), session(server or plan(Role.SERVER))


def shake(client: Session, server: Session) -> None:
    """Do the handshake in memory."""
    ends = {client: client.handshake(), server: False}
    while not all(ends.values()):
        for one, other in ((client, server), (server, client)):
            output = one.take_output()
            if output and not ends[other]:
                ends[other] = other.handshake(output)
            elif output:
                other.decrypt(output)


def shaken(client: TlsPlan | None = None, server: TlsPlan | None = None) -> tuple[Session, Session]:
    ends = pair(client, server)
    shake(*ends)
    return ends


def agreed_protocol(session: Session) -> bytes:
    """The application protocol that ALPN has chosen; empty: none."""
    name, length = ffi.new("unsigned char **"), ffi.new("unsigned int *")
    lib.SSL_get0_alpn_selected(session._ssl, name, length)
    return bytes(ffi.buffer(name[0], length[0]))
