"""Applications that speak gRPC (grpcio) and websockets (websockets)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from websockets.sync.server import ServerConnection, serve

UNARY, STREAM = "/test.Echo/Say", "/test.Echo/Talk"


@contextlib.contextmanager
def grpc_echo() -> Iterator[int]:
    """Yield the port of a gRPC service whose calls `UNARY` and `STREAM` send each message back."""
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(lambda message, _: message),
        "Talk": grpc.stream_stream_rpc_method_handler(lambda messages, _: messages),
    }
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Echo", handlers),)
        )
        port: int = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(0).wait()


@contextlib.contextmanager
def grpc_channel(port: int) -> Iterator[grpc.Channel]:
    """Yield a channel to a loopback port."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


@contextlib.contextmanager
def websocket_echo() -> Iterator[int]:
    """Yield the port of a websocket that first says who calls, then sends each message back."""

    def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        connection.send(connection.request.headers.get("x-caller", "nobody"))
        for message in connection:
            connection.send(message)

    with serve(talk, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()
