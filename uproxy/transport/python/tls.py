"""One side of a connection under mutual TLS: a side whose bytes pass through a session.

FIN and close_notify are one thing above here: the end of the other side's sending.  A FIN
without a close_notify is a truncation, which is a reset.
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import suppress

from uproxy.contract import PeerSvid, TlsFacts
from uproxy.libssl import Buffer, Context, Session, TlsError, in_words
from uproxy.transport.failures import closed
from uproxy.transport.poller import Poller
from uproxy.transport.python.client_hello import MAX_HELLO, ClientHello
from uproxy.transport.python.side import Side


class TlsSide(Side):
    """A side whose peer is verified, once `shake` has returned; nothing else before."""

    __slots__ = ("_early", "_session", "_started", "client", "facts")

    def __init__(self, poller: Poller, connected: socket.socket, who: str) -> None:
        super().__init__(poller, connected, who)
        self._session: Session | None = None
        self._early = b""
        self._started: float | None = None
        self.facts: TlsFacts | None = None
        self.client = False
        """We are the client of the handshake."""

    @property
    def peer(self) -> PeerSvid | None:
        """Verified in this connection's handshake."""
        return self._session.peer if self._session else None

    async def receive_client_hello(self) -> bytes:
        """A whole ClientHello (or what can't become one), before anything is spent on it.

        Raises:
            TlsError: it ended first, or is refused at a record that can't be one of a ClientHello.
            OSError: reset.
        """
        hello, complete = ClientHello(), False
        while not complete:
            try:
                more = await self.receive_some(MAX_HELLO - len(hello.received))
            except ConnectionResetError:
                if hello.received:
                    raise
                more = b""
            if not more:
                raise closed(self.who, "short_hello" if hello.received else "no_hello")
            self._started = self._started or time.monotonic()
            complete = hello.feed(more)
        if hello.fault is not None:
            with suppress(OSError):
                self._push(hello.fault.alert)
            raise in_words(hello.fault.code)
        return bytes(hello.received)

    async def handshake(
        self, context: Context, received: bytes = b"", server_name: str | None = None
    ) -> None:
        """The whole handshake; `received`: from `receive_client_hello`, `server_name`: sent
        as SNI.

        Raises:
            UntrustedError, RefusedError: as the plan's `verify` raised it; the alert is sent.
            TlsError: anything else about TLS, the end of TCP included.
            OSError: reset.
        """
        started = self._started or time.monotonic()
        self.client = not context.server
        session = self._session = Session(context, server_name)
        done = self._step(session, received)
        while not done:
            await self.send_all()
            received = await self.receive_some()
            if not received:
                raise closed(self.who, "short_handshake")
            done = self._step(session, received)
        await self.send_all()
        self._early, session.early = session.early, b""
        self.facts = TlsFacts(*session.negotiated, time.monotonic() - started)

    def _step(self, session: Session, received: bytes) -> bool:
        try:
            done = session.handshake(received)
        except BaseException:
            self._push_alert()
            raise
        self._push_output()
        return done

    @property
    def ready(self) -> bool:
        """Bytes, an end or a failure that came together with something else."""
        session = self._open
        return bool(self._early) or session.ended or self.failure is not None

    @property
    def failure(self) -> OSError | TlsError | None:
        """Why no more application bytes can be sent to it: its socket or its TLS has failed."""
        return self.gone or self._open.failure

    @property
    def midway(self) -> bool:
        """Whether part of a message of TLS itself has come."""
        return self._session is not None and self._session.midway

    def receive(self) -> Buffer | None:
        """As in the clear.

        Raises:
            OSError: reset.
            TlsError: the peer's alert, a record that can't be, or a truncation.
        """
        session = self._open
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
                raise closed(self.who, "truncated")
            data = self._decrypt(session, received)
            if data or (self.gone is None and not session.ended):
                return data or None  # None: part of a record, or not the application's
        return b""

    def _decrypt(self, session: Session, received: Buffer) -> Buffer:
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
        """As in the clear."""
        self._open.encrypt(data)
        self._push_output()

    def finish(self) -> None:
        """close_notify, then FIN, behind the backlog."""
        self._open.finish()
        self._push_output()
        try:
            super().finish()
        except OSError as error:
            # who said his end and closed at once, as Go does, answers a close_notify with a
            # reset: nothing is lost by it, and whether he did say it is still to be read
            if error.errno != errno.ENOTCONN:
                raise

    def has_unread(self) -> bool:
        """Whether bytes from it wait, here or in the kernel."""
        return bool(self._early) or super().has_unread()

    @property
    def _open(self) -> Session:
        if self._session is None or self._session.peer is None:
            raise TlsError("not a byte before the peer is verified")
        return self._session

    def _push_output(self) -> None:
        output = self._session.take_output() if self._session else b""
        if output:
            self._push(output)

    def _push_alert(self) -> None:
        """Tell the other side why, if it still listens; what failed matters more."""
        with suppress(OSError):
            self._push_output()
