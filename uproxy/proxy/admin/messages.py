"""A request, a response and the client's addresses: what passes between I/O and router.

HTTP is parsed elsewhere.  A request never has a body; its texts are as the client sent them,
not yet validated.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from uproxy.model import Address, TcpAddress

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

PHRASES = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
"""What each status that is answered is called (RFC 9110, RFC 6585): `http.HTTPStatus` would take
75 KiB for it."""


class Surface(enum.StrEnum):
    """What a listener is for; the values are the keys of the configuration's `admin`."""

    ADMIN = "listen"
    METRICS = "metrics"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class ClientAddresses:
    """The two addresses of a client's connection, and our names."""

    peer: Address
    local: Address
    """The address the client dialled; on a wildcard listener not the one listened on."""
    names: frozenset[str] = frozenset({"localhost"})
    """The names of this machine, in lower case."""

    @property
    def is_local(self) -> bool:
        """Whether the client is on this machine: on a unix socket or a loopback address."""
        return not isinstance(self.peer, TcpAddress) or is_loopback(self.peer)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as received, before anything was decided about it."""

    method: str
    target: str
    """Path and query, as sent."""
    client: ClientAddresses
    host: str | None = None
    origin: str | None = None
    """The Origin header; several are joined, so that they equal nothing."""
    accept: str = ""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The target's query, without the question mark; empty if it has none."""
        return self.target.partition("?")[2]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.  The I/O adds its length, and omits the body for HEAD."""

    status: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


def text(status: int, words: str, *headers: tuple[str, str]) -> Response:
    """Return an answer of one or more lines of plain text."""
    return Response(status, f"{words}\n".encode(), TEXT, headers)


def is_loopback(address: TcpAddress) -> bool:
    """Return whether `address` can only be on this machine."""
    return address.ip is not None and address.ip.is_loopback
