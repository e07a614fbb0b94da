"""The admin server's I/O: listeners, deadlines and bounds around h11 and the router.

Requests are judged by `router` and `guard`.  Rules: a request's head has at most `head_bytes`
and must arrive within `request_s`; a body is refused without being read; when a listener has
`clients` connections, the one that has been silent longest is closed for a new one; a client
that doesn't read its answer isn't read from, and is cut after `idle_s`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import cast

import h11

from uproxy import sockets
from uproxy.log import alike
from uproxy.model import UnixAddress
from uproxy.proxy.admin import router
from uproxy.proxy.admin.facts import AdminFacts
from uproxy.proxy.admin.messages import ClientAddresses, Request, Response, Surface, text

_log = logging.getLogger(__name__)

_LOGGED_OF_TARGET = 200
"""Characters of a request's target that are logged."""

_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one client, and all clients of a listener together, may use."""

    head_bytes: int = 16 * 1024
    """The largest head of a request."""
    clients: int = 64
    """How many connections one listener keeps open."""
    request_s: float = 10.0
    """Seconds from the connection to the end of the first request's head."""
    idle_s: float = 60.0
    """Seconds from an answer to the end of the next request's head; also for reading the
    answer."""
    linger_s: float = 2.0
    """Seconds in which a client can read a refusal, before the rest of its request is cut off."""


DEFAULT_BOUNDS = Bounds()


class AdminListener:
    """One of the up to three admin listeners."""

    def __init__(
        self,
        facts: AdminFacts,
        surface: Surface,
        listener: socket.socket,
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """`listener` listens already; this object owns it from now on."""
        self.facts = facts
        self.surface = surface
        self.bounds = bounds
        self.names = frozenset({"localhost", socket.gethostname().lower()})
        name = listener.getsockname()
        self.unix = UnixAddress(name if isinstance(name, str) else "")
        self.address = sockets.address_of(name, self.unix)
        self._listener = listener
        self._server: asyncio.Server | None = None  # set while it accepts
        self._clients: dict[_Client, None] = {}  # open connections, longest silent first

    async def start(self) -> None:
        """Start to accept connections."""
        loop = asyncio.get_running_loop()
        # the loop gets a duplicate: `close` removes a unix socket's file after the loop has ended
        listener = self._listener.dup()
        create = (
            loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
        )
        self._server = await create(lambda: _Client(self), sock=listener)

    async def close(self) -> None:
        """Stop accepting, cut open connections and close the socket."""
        if self._server is not None:
            self._server.close()
            self.cut_clients(len(self._clients))
            await self._server.wait_closed()
            self._server = None
        sockets.release(self._listener)

    def add_client(self, client: _Client) -> None:
        """Register a new client; cut the one that has been silent longest if there are too
        many."""
        self.cut_clients(len(self._clients) + 1 - self.bounds.clients)
        self._clients[client] = None
        if self._server is not None and not self._server.is_serving():
            # accepted while closing: `close` waits until every client has gone
            self.cut_clients(1)

    def mark_active(self, client: _Client) -> None:
        """Mark a client as the most recently active one."""
        if client in self._clients:
            del self._clients[client]
            self._clients[client] = None

    def remove_client(self, client: _Client) -> None:
        """Forget a client whose connection has ended."""
        self._clients.pop(client, None)

    def cut_clients(self, count: int) -> None:
        """Cut the `count` clients that have been silent longest."""
        for client in list(self._clients)[: max(count, 0)]:
            del self._clients[client]
            client.cut()

    def respond(self, request: Request) -> Response:
        """Return the answer to a request; a 500 if the facts can't be gathered."""
        try:
            response = router.respond(self.surface, request, self.facts, datetime.now(UTC))
        except Exception:  # noqa: BLE001  a defect must not end the connection
            _log.exception("no answer to %s %s", request.method, request.path)
            return text(500, "uProxy failed to answer this, which is a defect: see its log")
        if request.method == "POST":
            _log.info("%s %s from %s: %d", request.method, request.target[:_LOGGED_OF_TARGET],
                      request.client.peer, response.status,
                      extra=alike("admin request", str(response.status)))  # fmt: skip
        return response


class _Client(asyncio.Protocol):
    """One client's connection, on which requests follow each other."""

    _transport: asyncio.Transport  # set by connection_made, as is the next
    _addresses: ClientAddresses

    def __init__(self, listener: AdminListener) -> None:
        self._listener = listener
        self._http = h11.Connection(h11.SERVER, listener.bounds.head_bytes)
        self._deadline: asyncio.TimerHandle | None = None  # set while connected
        self._paused = False  # the client doesn't read its answers
        self._over = False  # no further request is processed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # not isinstance: uvloop's transports are no subclasses
        self._transport = cast("asyncio.Transport", transport)
        name = self._listener.unix
        self._addresses = ClientAddresses(
            peer=sockets.address_of(transport.get_extra_info("peername"), name),
            local=sockets.address_of(transport.get_extra_info("sockname"), name),
            names=self._listener.names,
        )
        self._set_deadline(self._listener.bounds.request_s)
        self._listener.add_client(self)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return  # a refused body is read: with unread bytes, close would send a reset
        self._http.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        return False  # all requests have been answered: the transport flushes and closes

    def pause_writing(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._advance()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  the loop's shape
        self._over = True
        self._clear_deadline()
        self._listener.remove_client(self)

    def cut(self) -> None:
        """Close the connection at once, discarding unsent bytes."""
        self._over = True
        self._transport.abort()

    def _advance(self) -> None:
        """Answer one request.  Further requests in the same bytes wait for the loop's next
        iteration, so that a long pipeline doesn't delay other work."""
        if self._over or self._paused:
            return
        try:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._handle_request(event)
        except h11.RemoteProtocolError as error:
            self._refuse(text(error.error_status_hint, f"not HTTP/1.1 as uProxy reads it: {error}"))
        if self._over or self._paused:
            return
        if isinstance(event, h11.Request) and self._http.trailing_data[0]:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._advance)
        else:
            self._transport.resume_reading()

    def _handle_request(self, event: h11.Request) -> None:
        """Answer a request whose head was parsed, or refuse it because it has a body."""
        headers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
        if any(_announces_body(name, value) for name, value in headers):
            self._refuse(text(413, "no request here has a body: put parameters into the query"))
            return
        origins = [value for name, value in headers if name == "origin"]
        request = Request(
            method=event.method.decode(),
            target=event.target.decode(),
            client=self._addresses,
            host=next((value for name, value in headers if name == "host"), None),
            origin=", ".join(origins) if origins else None,
            accept=", ".join(value for name, value in headers if name == "accept"),
        )
        assert isinstance(self._http.next_event(), h11.EndOfMessage)  # noqa: S101  no body
        self._send(self._listener.respond(request), request.method)
        self._listener.mark_active(self)
        self._set_deadline(self._listener.bounds.idle_s)
        if self._http.our_state is h11.MUST_CLOSE:
            self._over = True
            self._transport.close()
        else:
            self._http.start_next_cycle()

    def _refuse(self, response: Response) -> None:
        """Send a refusal and process no more: where the next request begins is unknown."""
        self._over = True
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(response, "", ("Connection", "close"))
        self._transport.write_eof()
        self._transport.resume_reading()
        self._set_deadline(self._listener.bounds.linger_s)

    def _send(self, response: Response, method: str, *extra: tuple[str, str]) -> None:
        """Write a response; without its body if `method` is HEAD."""
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            *_ALWAYS,
            *response.headers,
            *extra,
        ]
        reason = HTTPStatus(response.status).phrase
        head = h11.Response(status_code=response.status, headers=headers, reason=reason)
        chunks = [self._http.send(head)]
        if method != "HEAD":
            chunks.append(self._http.send(h11.Data(response.body)))
        chunks.append(self._http.send(h11.EndOfMessage()))
        self._transport.write(b"".join(chunk for chunk in chunks if chunk))

    def _set_deadline(self, seconds: float) -> None:
        """Set the connection's only deadline, in seconds from now."""
        self._clear_deadline()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._on_deadline)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _on_deadline(self) -> None:
        """On the deadline, refuse a request that has arrived in part; otherwise cut the
        connection."""
        partly, _ = self._http.trailing_data
        if partly and not self._over:
            self._refuse(text(408, "the request took too long to arrive"))
        else:
            self.cut()


def _announces_body(name: str, value: str) -> bool:
    return name == "transfer-encoding" or (name == "content-length" and int(value) > 0)
