"""An HTTP application that records its requests, and fails or falls silent when it is told to."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a request."""

    status: int
    headers: Mapping[str, str]
    """By names in lower case."""
    body: str

    @property
    def seen(self) -> dict[str, str]:
        """The headers that the application received, by names in lower case."""
        found: dict[str, str] = json.loads(self.body)["headers"]
        return found

    @property
    def app(self) -> str:
        """The name of the application that answered."""
        name: str = json.loads(self.body)["app"]
        return name


class HttpApp:
    """An application that answers any request with its own name and what it received."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failing = 0
        """So many requests are answered with 503 next."""
        self.silent = 0
        """So many requests are never answered, before that."""
        self.closing = False
        """It closes each connection after its answer."""
        self.requests: list[str] = []
        """Method and path of each."""
        self.abandoned = 0
        """Requests whose connection ended while the application was silent."""
        self._lock = threading.Lock()
        application = self

        class Handler(_Handler):
            app = application

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    def calm(self) -> None:
        """Forget what was asked, and answer everything."""
        self.failing = self.silent = self.abandoned = 0
        self.closing = False
        self.requests.clear()

    def taken(self, what: str) -> bool:
        """Note a request; return whether it gets an answer.  `failing` is the handler's."""
        with self._lock:
            self.requests.append(what)
            self.silent -= 1
            return self.silent < 0

    def fails(self) -> bool:
        with self._lock:
            self.failing -= 1
            return self.failing >= 0

    @contextlib.contextmanager
    def running(self) -> Iterator[HttpApp]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    app: HttpApp

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self.app.taken(f"{self.command} {self.path}"):
            with contextlib.suppress(OSError):
                self.rfile.read(1)
            self.app.abandoned += 1
            self.close_connection = True
            return
        received = {name.lower(): value for name, value in self.headers.items()}
        said: dict[str, Any] = {"app": self.app.name, "headers": received, "size": len(body)}
        # a path that is a number asks for so many bytes
        size = self.path.removeprefix("/")
        text = bytes(int(size)) if size.isdigit() else json.dumps(said).encode()
        self.send_response(503 if self.app.fails() else 200)
        self.send_header("content-length", str(len(text)))
        if self.app.closing:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  named by http.server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  named by http.server
        """Write nothing."""


class Client:
    """A connection to a loopback port that stays open between requests."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def fetch(self, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        """Make a request; underscores in names of headers mean hyphens.

        Raises:
            OSError, HTTPException: the connection broke.
        """
        self.ask(path, method, **headers)
        return self.answer()

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> None:
        """Send a request, and don't wait for its answer."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, headers=sent)

    def answer(self) -> Answer:
        """Wait for the answer.

        Raises:
            OSError, HTTPException: the connection broke.
        """
        response = self._connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read().decode())

    def close(self) -> None:
        self._connection.close()

    def reset(self) -> None:
        """End the connection without an end, as a client does that is killed."""
        assert self._connection.sock is not None
        at_once = struct.pack("ii", 1, 0)
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self._connection.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()


def fetch(port: int, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """Make a request on a connection of its own."""
    with Client(port) as client:
        return client.fetch(path, method, **headers)
