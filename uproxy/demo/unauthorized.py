"""Clients that must be refused, and what they see; their TLS is pyOpenSSL, not our engine.

A client presents an identity or none, sends a line, and reports what it saw; `story` checks
that.  Rule: the client accepts any server certificate, as an attacker would.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cryptography import x509
from OpenSSL import SSL

from uproxy.demo.processes import TIMEOUT_S
from uproxy.errors import UproxyError
from uproxy.identity.credentials import Svid

_CHUNK = 64 * 1024
_HELLO = b"let me in\n"


@dataclass(frozen=True, slots=True)
class ConnectionResult:
    """What a client saw when it connected to a door."""

    source: str
    """The client's own address, as access logs write it."""
    certificate: x509.Certificate | None
    """The server's certificate; None: the handshake didn't get that far."""
    refusal: str | None
    """`alert unknown_ca`, `connection reset`, …; None: the client was let in."""


async def connect_to_door(port: int, svid: Svid | None) -> ConnectionResult:
    """Connect to a door, do a TLS handshake, send a line, and wait for an answer or a refusal.

    Raises:
        UproxyError: nobody listens there, or neither came before the timeout.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            return await _Client(reader, writer, svid).receive()
    except TimeoutError:
        raise UproxyError(f"the door at port {port} neither answered nor refused") from None
    except OSError as error:
        raise UproxyError(f"the door at port {port} can't be reached: {error}") from error


class _Client:
    """One TLS connection over memory BIOs."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, svid: Svid | None
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._tls = SSL.Connection(_context(svid))
        self._tls.set_connect_state()

    async def receive(self) -> ConnectionResult:
        host, port = self._writer.get_extra_info("sockname")
        try:
            refusal = await self._refusal()
        finally:
            self._writer.transport.abort()
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        return ConnectionResult(f"{host}:{port}", certificate, refusal)

    async def _refusal(self) -> str | None:
        """Do the handshake and wait for the answer; return the refusal, None if there is none."""
        try:
            await self._handshake()
            self._tls.send(_HELLO)
            await self._flush()
            # a TLS 1.3 client's handshake ends before the server has verified it (RFC 8446 §4.4.2)
            await self._receive()
        except SSL.ZeroReturnError:
            return "closed"
        except SSL.Error as error:
            return _alert(error)
        except ConnectionResetError:
            return "connection reset"
        except EOFError:
            return "connection closed"
        return None

    async def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                await self._exchange()
            else:
                return await self._flush()

    async def _receive(self) -> bytes:
        while True:
            try:
                return self._tls.recv(_CHUNK)
            except SSL.WantReadError:
                await self._exchange()

    async def _exchange(self) -> None:
        await self._flush()
        data = await self._reader.read(_CHUNK)
        if not data:
            raise EOFError
        self._tls.bio_write(data)

    async def _flush(self) -> None:
        try:
            while data := self._tls.bio_read(_CHUNK):
                self._writer.write(data)
        except SSL.WantReadError:
            await self._writer.drain()


def _context(svid: Svid | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
    if svid is not None:
        context.use_certificate(svid.chain[0])
        for certificate in svid.chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(svid.key)  # type: ignore[arg-type]  # SVID keys are of kinds TLS knows
    return context


def _alert(error: SSL.Error) -> str:
    """Return OpenSSL's error as `alert NAME` if it is a TLS alert, else its text."""
    # such as [('SSL routines', '', 'tlsv13 alert certificate required')]
    words = str(error.args[0][-1][2]) if error.args and error.args[0] else "TLS failure"
    _, alert, name = words.partition(" alert ")
    return f"alert {name.replace(' ', '_')}" if alert else words
