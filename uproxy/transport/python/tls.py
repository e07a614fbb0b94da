"""A channel under mutual TLS: its bytes pass through a session.

FIN and close_notify are one thing above here: the end of the other end's sending.  A FIN without
a close_notify is a truncation, which counts as a reset.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from uproxy.contract import PeerSvid, RefusedError, TlsFacts
from uproxy.errors import IdentityError, UntrustedError
from uproxy.libssl import Buffer, Context, Session, TlsError, in_words
from uproxy.transport import failures
from uproxy.transport.poller import Poller
from uproxy.transport.python.channel import Channel
from uproxy.transport.python.client_hello import MAX_HELLO, ClientHello


def begins_handshake(connection: socket.socket) -> bool:
    """Return whether the first byte that waits in a socket is that of a TLS handshake (RFC 8446
    section 5.1)."""
    return connection.recv(1, socket.MSG_PEEK) == b"\x16"


class TlsChannel(Channel):
    """A channel whose peer is verified once `handshake` has returned; before, it sends and
    receives no application byte."""

    __slots__ = ("_early", "_session", "_started", "ours", "shown")

    def __init__(self, poller: Poller, connected: socket.socket, who: str) -> None:
        super().__init__(poller, connected, who)
        self._session: Session | None = None
        self._early = b""  # application bytes that came together with the handshake's end
        self._started: float | None = None
        self.ours: str | None = None
        """The SPIFFE ID that we show, once the handshake has begun."""
        self.shown: str | None = None
        """The same, if the other end is the server."""

    @property
    def peer(self) -> PeerSvid | None:
        """The peer that this connection's handshake has verified; None before its end."""
        return self._session.peer if self._session else None

    async def wait_for_first_byte(self) -> None:
        """Wait until the ClientHello begins; the byte stays in the socket.

        Raises:
            TlsError: the connection ended without one.
            OSError: its socket failed.
        """
        try:
            has_begun = await self.wait_for_byte()
        except ConnectionResetError:
            has_begun = False
        if not has_begun:
            raise failures.closed(self.who, "no_hello")

    async def receive_client_hello(self) -> bytes:
        """Wait for a complete ClientHello, and return it; no session is made for it yet.

        Raises:
            TlsError: the connection ended first, or a record can't be part of a ClientHello.
            OSError: it was reset.
        """
        hello, complete = ClientHello(), False
        while not complete:
            try:
                more = await self.receive_raw(MAX_HELLO - len(hello.received))
            except ConnectionResetError:
                if hello.received:
                    raise
                more = b""
            if not more:
                raise failures.closed(self.who, "short_hello" if hello.received else "no_hello")
            self._started = self._started or time.monotonic()
            complete = hello.feed(more)
        if hello.fault is not None:
            with suppress(OSError):
                self._push(hello.fault.alert)
            raise in_words(hello.fault.code)
        return bytes(hello.received)

    async def handshake(
        self,
        context: Context,
        received: bytes = b"",
        server_name: str | None = None,
        on_stalled: Callable[[], None] = lambda: None,
    ) -> None:
        """Do the whole handshake.

        Args:
            context: says which end of it we are.
            received: the ClientHello, if we are the server.
            server_name: sent as SNI, if we are the client.
            on_stalled: called each time that nothing can be done before the peer has sent more.

        Raises:
            UntrustedError, RefusedError: as the plan's `verify` raised it; the alert is sent.
            TlsError: anything else about TLS, the end of TCP included.
            OSError: the connection was reset.
        """
        started = self._started or time.monotonic()
        self.ours = context.ours
        self.shown = None if context.server else context.ours
        session = self._session = Session(context, server_name)
        done = self._step(session, received)
        while not done:
            on_stalled()
            await self.flush_all()
            received = await self.receive_raw()
            if not received:
                raise failures.closed(self.who, "short_handshake")
            done = self._step(session, received)
        await self.flush_all()
        self._early, session.early = session.early, b""
        self.facts = TlsFacts(*session.negotiated, time.monotonic() - started)

    def _step(self, session: Session, received: bytes) -> bool:
        """Give received bytes to the handshake and send its answer; returns whether it has
        ended."""
        try:
            done = session.handshake(received)
        except BaseException:
            self._push_alert()
            raise
        self._push_output()
        return done

    @property
    def pending(self) -> bool:
        session = self._verified
        return bool(self._early) or session.ended or self.failure is not None

    @property
    def failure(self) -> OSError | TlsError | None:
        return self.gone or self._verified.failure

    @property
    def must_receive_first(self) -> bool:
        """Whether a part of a KeyUpdate, or of another message of TLS itself, has come: OpenSSL
        encrypts nothing before the rest of it has."""
        return self._session is not None and self._session.midway

    def receive(self) -> Buffer | None:
        """As without TLS.

        Raises:
            OSError: the connection was reset.
            TlsError: the peer's alert, an invalid record, or a truncation.
        """
        session = self._verified
        if self._early:
            early, self._early = self._early, b""
            return early
        while not session.ended:
            if session.failure is not None:
                raise session.failure
            received = super().receive()
            if received is None:
                return None
            if not received:
                raise failures.closed(self.who, "truncated")
            data = self._decrypt(session, received)
            if data or (self.gone is None and not session.ended):
                return data or None  # None: part of a record, or not the application's
        return b""

    def _decrypt(self, session: Session, received: Buffer) -> Buffer:
        """Return the application bytes in received ones, and send what TLS itself answers."""
        try:
            data = session.decrypt(received)
        except TlsError:
            self._push_alert()
            raise
        try:
            self._push_output()  # the answer to a KeyUpdate, or an alert
        except OSError as error:
            self.lose(error)  # the bytes that have come are good nevertheless
        return data

    def send(self, data: Buffer) -> None:
        self._verified.encrypt(data)
        self._push_output()

    def finish(self) -> None:
        """Send a close_notify, then a FIN, behind the bytes that are still unsent."""
        self._verified.finish()
        self._push_output()
        try:
            super().finish()
        except OSError as error:
            # a peer that sent its close_notify and closed at once, as Go does, answers ours with
            # a reset: nothing is lost by it, and whether it sent one is still to be read
            if error.errno != errno.ENOTCONN:
                raise

    def has_unread(self) -> bool:
        return bool(self._early) or super().has_unread()

    @property
    def _verified(self) -> Session:
        """The session.

        Raises:
            TlsError: the peer isn't verified yet.
        """
        if self._session is None or self._session.peer is None:
            raise TlsError("not a byte before the peer is verified")
        return self._session

    def _push_output(self) -> None:
        """Send the records that the session has made."""
        output = self._session.take_output() if self._session else b""
        if output:
            self._push(output)

    def _push_alert(self) -> None:
        """Send the alert that the session has made, if the socket takes it: the error that caused
        it is the one to report."""
        with suppress(OSError):
            self._push_output()


@contextmanager
def refusing(channel: TlsChannel) -> Iterator[None]:
    """Turn what may end a handshake on a channel into a refusal.

    Raises:
        RefusedError: with why it failed.
    """
    try:
        yield
    except (UntrustedError, IdentityError, TlsError, OSError) as error:
        raise RefusedError(failures.handshake(channel.who, error, 0, channel.ours)) from error
