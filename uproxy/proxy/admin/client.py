"""One client of the admin server: HTTP/1.1 by h11, one request after the other.

The listener decides the answers.  Rules: a request's head has at most `head_bytes`, however it
arrives, and must arrive within `request_s`; a body is refused without being read; a client that
doesn't read its answer isn't read from, and is cut after `idle_s`.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Protocol, cast

import h11

from uproxy import sockets
from uproxy.model import Address, TcpAddress, UnixAddress
from uproxy.proxy.admin.bounds import Bounds
from uproxy.proxy.admin.messages import PHRASES, ClientAddresses, Request, Response, text

Source = IPv4Network | IPv6Network
"""A network whose clients are counted together."""

_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
)


class ClientOwner(Protocol):
    """What a client needs of the listener that accepted it."""

    bounds: Bounds
    unix: UnixAddress
    names: frozenset[str]

    def add_client(self, client: Client) -> None:
        """Register a new client; cut another one if there are too many."""

    def mark_active(self, client: Client) -> None:
        """Mark a client as the most recently active one."""

    def remove_client(self, client: Client) -> None:
        """Forget a client whose connection has ended."""

    def respond(self, request: Request) -> Response:
        """Return the answer to a request."""


class Client(asyncio.Protocol):
    """One client's connection, on which requests follow each other."""

    _transport: asyncio.Transport  # set by connection_made, as is the next
    _addresses: ClientAddresses

    def __init__(self, listener: ClientOwner) -> None:
        self._listener = listener
        # h11 compares only what is incomplete with this; see `_feed`
        self._http = h11.Connection(h11.SERVER, listener.bounds.head_bytes - 1)
        self._unparsed = b""  # received, and not yet given to h11
        self.source: Source | None = None  # None: not a TCP client
        self.gone = asyncio.get_running_loop().create_future()
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
        self.source = source_of(self._addresses.peer)
        self._set_deadline(self._listener.bounds.request_s)
        self._listener.add_client(self)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return  # a refused body is read: with unread bytes, close would send a reset
        self._unparsed += data
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
        self.gone.set_result(None)

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
            self._feed()
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._handle_request(event)
        except h11.RemoteProtocolError as error:
            self._refuse(text(error.error_status_hint, f"not HTTP/1.1 as uProxy reads it: {error}"))
        if self._over or self._paused:
            return
        if isinstance(event, h11.Request) and (self._unparsed or self._http.trailing_data[0]):
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._advance)
        else:
            self._transport.resume_reading()

    def _feed(self) -> None:
        """Give h11 at most as many bytes as a head may have, so that a head's size decides
        whether it is refused, not the pieces in which it arrives."""
        partly, _ = self._http.trailing_data
        room = self._listener.bounds.head_bytes - len(partly)
        if room > 0 and self._unparsed:
            self._http.receive_data(self._unparsed[:room])
            self._unparsed = self._unparsed[room:]

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
        self._http.next_event()  # EndOfMessage: there is no body
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
        reason = PHRASES.get(response.status, "")
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
        if (partly or self._unparsed) and not self._over:
            self._refuse(text(408, "the request took too long to arrive"))
        else:
            self.cut()


def source_of(peer: Address) -> Source | None:
    """Return the network by which a client is counted, a /64 for IPv6; None: not a TCP client."""
    ip = peer.ip if isinstance(peer, TcpAddress) else None
    if ip is None:
        return None
    return ip_network(ip if ip.version == 4 else (ip, 64), strict=False)


def _announces_body(name: str, value: str) -> bool:
    return name == "transfer-encoding" or (name == "content-length" and int(value) > 0)
