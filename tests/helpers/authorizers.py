"""Services that Envoy's ext_authz asks, over HTTP and gRPC: they let only the frontend through."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import grpc

from uproxy.lab.mesh import WEB

_ALLOWED, _DENIED = b"\x0a\x00", b"\x0a\x02\x08\x07"
"""A CheckResponse with a status of OK, and of PERMISSION_DENIED."""


@contextlib.contextmanager
def authorizing_over_http() -> Iterator[int]:
    """Yield the port of a service that tells the application what it was asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Authorizer)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def authorizing_over_grpc() -> Iterator[int]:
    """Yield the port of an envoy.service.auth.v3.Authorization."""
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        handler = grpc.unary_unary_rpc_method_handler(_check)
        service = "envoy.service.auth.v3.Authorization"
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"Check": handler}),)
        )
        port: int = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(0).wait()


class _Authorizer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        caller = self.headers["x-caller"]
        self.send_response(200 if caller == WEB else 403)
        self.send_header("x-authorized-as", f"{self.command} {self.path} {caller}")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  named by http.server
        """Write nothing."""


def _check(request: bytes, _context: object) -> bytes:
    """Answer by the header x-caller, a pair of strings (fields 1 and 2) in the CheckRequest."""
    found = re.search(rb"\x0a\x08x-caller\x12(.)", request, re.S)
    if found is None:
        return _DENIED
    caller = request[found.end() :][: found[1][0]]
    return _ALLOWED if caller == WEB.encode() else _DENIED
