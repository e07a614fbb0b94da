"""A web server that says where it was reached, as a program.

`python capture_web.py PORT`: answers GET with where the connection was made to and from as JSON,
`GET /bytes/COUNT` with so many bytes, and POST with the SHA-256 of what was sent.  Prints `ready`.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/bytes/"):
            self._answer(b"\x5a" * int(self.path.rpartition("/")[2]))
            return
        reached, caller = self.connection.getsockname(), self.client_address
        said = {"reached": [plain(reached[0]), reached[1]], "caller": plain(caller[0])}
        self._answer(json.dumps(said).encode())

    def do_POST(self) -> None:
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left and (data := self.rfile.read(min(left, 65536))):
            digest.update(data)
            left -= len(data)
        self._answer(digest.hexdigest().encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def main() -> None:
    server = Server(("::", int(sys.argv[1])), Answers)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
