"""Clients that ask for a stream (HBONE), and what they see; their TLS is pyOpenSSL and their HTTP/2
the h2 library, neither of them our engine.

A client presents an identity or none, sends a CONNECT, and reports how it was answered; `story`
checks that.  Rule: the client accepts any server certificate, as an attacker would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from cryptography import x509
from OpenSSL import SSL

from uproxy.demo.processes import TIMEOUT_S
from uproxy.errors import UproxyError
from uproxy.identity.credentials import Svid

_CHUNK = 64 * 1024
Header = tuple[str, str]
_LET_IN = "200"
_NO_HTTP2 = "no HTTP/2"


@dataclass(frozen=True, slots=True)
class ConnectionResult:
    """What a client saw when it connected to a door for tunnels."""

    source: str
    """The client's own address, as access logs write it."""
    certificate: x509.Certificate | None
    """The server's certificate; None: the handshake didn't get that far."""
    refusal: str | None
    """`alert unknown_ca`, `403 to its CONNECT 10.0.0.7:5432`, …; None: the client was let in."""


async def connect_to_door(
    port: int, svid: Svid | None, application: str, *headers: Header
) -> ConnectionResult:
    """Connect to a door for tunnels, do a TLS handshake, send a CONNECT for the address
    `application` with further `headers`, and wait for an answer or a refusal.

    Raises:
        UproxyError: nobody listens there, or neither came before the timeout.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            return await _Client(reader, writer, svid).receive(application, headers)
    except TimeoutError:
        raise UproxyError(f"the door at port {port} neither answered nor refused") from None
    except OSError as error:
        raise UproxyError(f"the door at port {port} can't be reached: {error}") from error


class _Client:
    """One TLS connection over memory BIOs, with HTTP/2 in it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, svid: Svid | None
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._tls = SSL.Connection(_context(svid))
        self._tls.set_connect_state()
        # h2 would demand the :scheme and :path that a CONNECT must not have (RFC 9113 §8.5)
        config = h2.config.H2Configuration(validate_outbound_headers=False)
        self._h2 = h2.connection.H2Connection(config)

    async def receive(self, application: str, headers: Sequence[Header]) -> ConnectionResult:
        host, port = self._writer.get_extra_info("sockname")
        try:
            refusal = await self._refusal(application, headers)
        finally:
            self._writer.transport.abort()
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        return ConnectionResult(f"{host}:{port}", certificate, refusal)

    async def _refusal(self, application: str, headers: Sequence[Header]) -> str | None:
        """Do the handshake, send the CONNECT and wait for its answer; return the refusal, None if
        there is none."""
        try:
            await self._handshake()
            if self._tls.get_alpn_proto_negotiated() != b"h2":
                return _NO_HTTP2
            self._send_connect(application, headers)
            # a TLS 1.3 client's handshake ends before the server has verified it (RFC 8446 §4.4.2)
            answer = await self._answer()
        except SSL.ZeroReturnError:
            return "closed"
        except SSL.Error as error:
            return _alert(error)
        except ConnectionResetError:
            return "connection reset"
        except EOFError:
            return "connection closed"
        except h2.exceptions.ProtocolError:
            return _NO_HTTP2
        return None if answer == _LET_IN else f"{answer} to its CONNECT {application}"

    async def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                await self._exchange()
            else:
                return await self._flush()

    def _send_connect(self, application: str, headers: Sequence[Header]) -> None:
        self._h2.initiate_connection()
        stream = self._h2.get_next_available_stream_id()
        connect = [(":method", "CONNECT"), (":authority", application), *headers]
        self._h2.send_headers(stream, connect)

    async def _answer(self) -> str:
        """Return the status that the CONNECT is answered with, or `a reset`."""
        while True:
            if unsent := self._h2.data_to_send():
                self._tls.send(unsent)
            for event in self._h2.receive_data(await self._receive()):
                if isinstance(event, h2.events.ResponseReceived):
                    return dict(event.headers or ())[b":status"].decode()
                if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return "a reset"

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
    context.set_alpn_protos([b"h2"])
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
