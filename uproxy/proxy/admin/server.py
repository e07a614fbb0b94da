"""The admin server's listeners: they accept clients, and cut one when there are too many.

Requests are answered by `router` and `guard`.  Rules: a listener never has more than
`Bounds.descriptors` open; one source has at most `clients_per_source` connections, and a further
one replaces one of its own; when a listener has `clients` connections, a new one replaces one of
the source with the most.  TCP connections that send nothing stay in the kernel.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections import Counter
from datetime import UTC, datetime

from uproxy import sockets
from uproxy.log import alike
from uproxy.model import UnixAddress
from uproxy.proxy.admin import router
from uproxy.proxy.admin.bounds import ACCEPTS, DEFAULT_BOUNDS, Bounds
from uproxy.proxy.admin.client import Client, Source
from uproxy.proxy.admin.messages import Request, Response, Surface, text
from uproxy.proxy.admin.sources import Sources
from uproxy.transport.accept_backoff import AcceptBackoff

_log = logging.getLogger(__name__)

_NOT_LOADED = (
    "what makes this answer can't be loaded (see the log): descriptors may be short, or uProxy was "
    "upgraded and not restarted"
)

_LOGGED_OF_TARGET = 200
"""How many characters of a request's target are logged."""


class AdminListener:
    """One of the up to three admin listeners."""

    def __init__(
        self,
        sources: Sources,
        surface: Surface,
        listener: socket.socket,
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """`listener` listens already; this object owns it from now on."""
        self.sources = sources
        self.surface = surface
        self.bounds = bounds
        self.names = frozenset({"localhost", socket.gethostname().lower()})
        name = listener.getsockname()
        self.unix = UnixAddress(name if isinstance(name, str) else "")
        self.address = sockets.address_of(name, self.unix)
        self._listener = listener
        self._resuming: asyncio.TimerHandle | None = None  # set while there is a shortage
        self._backoff = AcceptBackoff()
        self._closing = False
        self._serving: set[asyncio.Task[None]] = set()
        self._clients: dict[Client, None] = {}  # open connections, longest silent first

    async def start(self) -> None:
        """Start to accept connections."""
        sockets.defer_accept(self._listener, math.ceil(self.bounds.request_s))
        self._listener.setblocking(False)
        self._resume()

    async def close(self) -> None:
        """Stop accepting, cut open connections and close the socket."""
        if self._listener.fileno() == -1:
            return
        self._closing = True
        self._pause()
        while self._clients:
            self._cut_one_of(next(iter(self._clients)).source)
        if self._serving:
            await asyncio.wait(self._serving, timeout=self.bounds.linger_s)
        sockets.release(self._listener)

    def _resume(self) -> None:
        """Start to accept."""
        self._resuming = None
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _pause(self) -> None:
        """Stop accepting."""
        if self._resuming is not None:
            self._resuming.cancel()
        asyncio.get_running_loop().remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        """Accept a few connections; the loop calls again for the rest. asyncio's servers would
        accept the whole queue at once, and use all descriptors."""
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS):
            try:
                accepted, _address = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # an error of that connection, not of the listener: accept(2)
            except OSError as error:
                self._pause()
                seconds = self._backoff.pause(error.errno or 0, loop.time())
                self._resuming = loop.call_later(seconds, self._resume)
                return
            if _has_gone(accepted):
                accepted.close()
            else:
                task = loop.create_task(self._serve(accepted))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        """Serve one client until its connection has ended."""
        accepted.setblocking(False)
        client = Client(self)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: client, accepted)
        except OSError:
            accepted.close()  # it was reset meanwhile
            return
        await client.gone

    def add_client(self, client: Client) -> None:
        """Register a new client.  If there are too many, cut the one that has been silent longest:
        of its own source, or of the source with the most clients."""
        counts = Counter(each.source for each in self._clients)
        if client.source is not None and counts[client.source] >= self.bounds.clients_per_source:
            self._cut_one_of(client.source)
        elif len(self._clients) >= self.bounds.clients:
            self._cut_one_of(max(counts, key=lambda source: counts[source]))
        self._clients[client] = None
        if self._closing:
            self._cut_one_of(client.source)

    def mark_active(self, client: Client) -> None:
        """Mark a client as the most recently active one."""
        if client in self._clients:
            del self._clients[client]
            self._clients[client] = None

    def remove_client(self, client: Client) -> None:
        """Forget a client whose connection has ended."""
        self._clients.pop(client, None)

    def _cut_one_of(self, source: Source | None) -> None:
        """Cut the client of `source` that has been silent longest."""
        client = next(each for each in self._clients if each.source == source)
        del self._clients[client]
        client.cut()

    def respond(self, request: Request) -> Response:
        """Return the answer to a request: a 503 if what makes it can't be loaded, which happens
        when it is first asked for, a 500 if the facts can't be gathered."""
        try:
            response = router.respond(self.surface, request, self.sources, datetime.now(UTC))
        except (ImportError, OSError) as error:
            _log.error("no answer to %s %s: what makes it can't be loaded: %s",
                       request.method, request.path, error)  # fmt: skip
            return text(503, _NOT_LOADED)
        except Exception:  # noqa: BLE001  a defect must not end the connection
            _log.exception("no answer to %s %s", request.method, request.path)
            return text(500, "uProxy failed to answer this, which is a defect: see its log")
        if request.method == "POST":
            _log.info("%s %s from %s: %d", request.method, request.target[:_LOGGED_OF_TARGET],
                      request.client.peer, response.status,
                      extra=alike("admin request", str(response.status)))  # fmt: skip
        return response


def _has_gone(accepted: socket.socket) -> bool:
    """Return whether a client has finished without a byte, or reset its connection."""
    try:
        return not accepted.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
