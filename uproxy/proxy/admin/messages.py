"""The words between the I/O and the router: a request, a response, and who is asking.

No HTTP is parsed here.  A request never has a body; what the client said is text that was
not judged yet.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from uproxy.model import Address, TcpAddress

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class Surface(enum.StrEnum):
    """What a listener is for: a key of the configuration's `admin`."""

    ADMIN = "listen"
    METRICS = "metrics"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Asker:
    """The client's end and ours, of one connection."""

    peer: Address
    local: Address
    """The address it arrived at, which on a wildcard listener is not the one listened on."""
    names: frozenset[str] = frozenset({"localhost"})
    """What this machine is called, lower case."""

    @property
    def is_local(self) -> bool:
        """On this machine: a unix socket or loopback."""
        return not isinstance(self.peer, TcpAddress) or is_loopback(self.peer)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, before anything was decided about it."""

    method: str
    target: str
    """As sent: path and query."""
    asker: Asker
    host: str | None = None
    origin: str | None = None
    """Several Origin headers joined: equal to nothing."""
    accept: str = ""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered.  The I/O adds the length, and leaves the body out for HEAD."""

    status: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


def text(status: int, words: str, *headers: tuple[str, str]) -> Response:
    """A line or a few for people."""
    return Response(status, f"{words}\n".encode(), TEXT, headers)


def is_loopback(address: TcpAddress) -> bool:
    """Whether `address` can only be on this machine."""
    return address.ip is not None and address.ip.is_loopback
