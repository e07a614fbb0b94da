"""The bytes of a TLS connection between two OpenSSL ends, as somebody on the wire sees them."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from uproxy.lab.pki import Authority

SVID = Authority("example.org").issue("/ns/db/sa/orders")
SECRET = b"nobody may read this"


def conversation(
    version: int = SSL.TLS1_3_VERSION,
    curve: ec.EllipticCurve | None = None,
    protocols: tuple[bytes, ...] = (),
) -> tuple[bytes, bytes]:
    """What two OpenSSL ends say to each other, including SECRET; each way."""
    offering = _context(version, curve)
    if protocols:
        offering.set_alpn_protos(list(protocols))
    client = SSL.Connection(offering)
    server = SSL.Connection(_context(version))
    client.set_connect_state()
    server.set_accept_state()
    ways = {client: bytearray(), server: bytearray()}
    for _ in range(4):
        for here, there in ((client, server), (server, client)):
            _step(here.do_handshake)
            _carry(here, there, ways[here])
    client.send(SECRET)
    _carry(client, server, ways[client])
    assert server.recv(100) == SECRET
    return bytes(ways[client]), bytes(ways[server])


def _context(version: int, curve: ec.EllipticCurve | None = None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    if curve is not None:
        context.set_tmp_ecdh(curve)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.use_certificate(SVID.chain[0])
    context.use_privatekey(SVID.key)  # type: ignore[arg-type]  # an EC key
    return context


def _step(call: Any) -> None:
    try:
        call()
    except SSL.WantReadError:
        return


def _carry(here: SSL.Connection, there: SSL.Connection, kept: bytearray) -> None:
    try:
        while data := here.bio_read(1 << 16):
            kept += data
            there.bio_write(data)
    except SSL.WantReadError:
        return
