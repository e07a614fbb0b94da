"""A TLS peer with another implementation than ours: pyOpenSSL over a `Stream`, in either role.

It accepts any certificate unless a test gives it a root: it serves to present a certificate and
to behave well or badly on the wire.
"""

from __future__ import annotations

from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto

from tests.helpers.streams import Stream
from uproxy.lab.pki import Issued

_SIZE = 1 << 16


class TlsStream:
    """TLS over a stream."""

    def __init__(
        self,
        stream: Stream,
        shows: Issued | None,
        *,
        server: bool = False,
        root: x509.Certificate | None = None,
        version: int = SSL.TLS1_3_VERSION,
        alpn: tuple[str, ...] = (),
    ) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        if shows is not None:
            context.use_certificate(shows.certificate)
            for certificate in shows.chain[1:]:
                context.add_extra_chain_cert(certificate)
            context.use_privatekey(cast("ec.EllipticCurvePrivateKey", shows.key))
        store = context.get_cert_store()
        if root is not None and store is not None:
            store.add_cert(crypto.X509.from_cryptography(root))
        context.set_verify(
            SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
            lambda _c, _x, _e, _d, good: bool(good) or root is None,
        )
        if alpn:
            context.set_alpn_protos([name.encode() for name in alpn])
        self.stream = stream
        self.tls = SSL.Connection(context)
        if server:
            self.tls.set_accept_state()
        else:
            self.tls.set_connect_state()

    async def handshake(self) -> None:
        """Do the handshake.

        Raises:
            SSL.Error: with the alert that the other side sent.
        """
        while True:
            try:
                self.tls.do_handshake()
            except SSL.WantReadError:
                await self.flush()
                await self._fill()
            except SSL.Error:
                await self.flush()  # our alert
                raise
            else:
                await self.flush()
                return

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data), _SIZE):
            self.tls.sendall(data[at : at + _SIZE])
            await self.flush()

    async def receive(self, size: int = _SIZE) -> bytes:
        """Return the next bytes; empty after close_notify.

        Raises:
            SSL.Error: the other side sent an alert.
            ConnectionResetError: the connection was reset.
            EOFError: the TCP connection ended without a close_notify.
        """
        while True:
            try:
                return self.tls.recv(size)
            except SSL.ZeroReturnError:
                return b""
            except SSL.WantReadError:
                await self.flush()
                await self._fill()

    async def receive_exactly(self, size: int) -> bytes:
        heard = bytearray()
        while len(heard) < size and (more := await self.receive(min(size - len(heard), _SIZE))):
            heard += more
        return bytes(heard)

    async def receive_all(self) -> bytes:
        heard = bytearray()
        while more := await self.receive():
            heard += more
        return bytes(heard)

    async def finish(self) -> None:
        """Send close_notify only: TCP stays open in both directions."""
        self.tls.shutdown()
        await self.flush()

    async def send_last(self, data: bytes) -> None:
        """Send bytes and close_notify in the same segment; they must fit into one."""
        self.tls.sendall(data)
        await self.finish()

    async def fail(self) -> None:
        """Send the alert with which a TLS library answers a broken record."""
        self.tls.bio_write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(SSL.Error):
            self.tls.recv(1)
        await self.flush()

    def truncate(self) -> None:
        """Send a FIN without a close_notify."""
        self.stream.finish()

    def pending(self) -> bytes:
        """Return the ciphertext that hasn't been sent."""
        sent = bytearray()
        while True:
            try:
                sent += self.tls.bio_read(_SIZE)
            except SSL.WantReadError:
                return bytes(sent)

    async def flush(self) -> None:
        if output := self.pending():
            await self.stream.send(output)

    async def _fill(self) -> None:
        received = await self.stream.receive()
        if not received:
            raise EOFError("the end of TCP without a close_notify")
        self.tls.bio_write(received)
