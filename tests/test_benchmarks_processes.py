"""What the kernel says of connections is what is there."""

from __future__ import annotations

import contextlib
import socket

from benchmarks.harness.processes import connected


def test_the_established_connections_to_a_port_are_counted_once() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        assert connected(port) == 0
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)
        ]
        accepted = [stack.enter_context(server.accept()[0]) for _ in clients]
        assert connected(port) == 3
        accepted[0].close()
        assert clients[0].recv(1) == b""
        assert connected(port) == 2
