"""The far end of a tunnel is killed, frozen or cut off, and the next connection goes elsewhere.

Its open streams see a reset, never an orderly end; streams of other tunnels don't notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from h2.events import PingReceived

from tests.helpers.background import background
from tests.helpers.dialogue import ask, dial, talk
from tests.helpers.endings import ended, metric, only
from tests.helpers.tunnels import H2Peer
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, TunnelsIn, TunnelsOut
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import wait_until
from uproxy.model import TcpAddress

SILENCE_S = 10.0
"""Seconds after which a tunnel must prove that it is alive before it gets another stream."""


@dataclass(frozen=True)
class World:
    near: TunnelsOut
    first: TunnelsIn
    """At 127.0.0.1."""
    second: TunnelsIn
    """At 127.0.0.2, with the same application."""


@contextlib.contextmanager
def running(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str, *, connect: str = "1s"
) -> Iterator[World]:
    """`connect`: how long the near uProxy waits for an answer to its CONNECT."""
    end = free_port()
    ours = file_world.ours(ORDERS)
    with (
        TunnelsIn(folder, ours, echo_app, engine=engine, port=end) as first,
        TunnelsIn(folder, ours, echo_app, engine=engine, port=end, host="127.0.0.2") as second,
        TunnelsOut(
            folder, file_world.ours(WEB), f"127.0.0.1:{echo_app}", f"127.0.0.2:{echo_app}",
            end=end, engine=engine, timeouts={"handshake": "1s", "connect": connect},
        ) as near,
    ):  # fmt: skip
        for uproxy in (first, second, near):
            uproxy.wait_until_ready()
        yield World(near, first, second)
        for uproxy in (first, second, near):
            assert "Traceback" not in uproxy.output
            assert "a defect" not in uproxy.output


@pytest.fixture
def world(tmp_path: Path, file_world: FileWorld, echo_app: int, engine: str) -> Iterator[World]:
    with running(tmp_path, file_world, echo_app, engine) as world:
        yield world


def streams(uproxy: TunnelsIn) -> float:
    return metric(uproxy, "uproxy_hbone_streams")


@contextlib.contextmanager
def one_at_each(world: World) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Streams to the first and to the second far end."""
    with dial(world.near.port) as one, dial(world.near.port) as two:
        talk(one)
        talk(two)
        assert (streams(world.first), streams(world.second)) == (1, 1)
        yield one, two


def ends_of(world: World) -> list[str]:
    """The far ends of the connections that have ended in order."""
    return [line["dst.addr"] for line in world.near.accesses if line["outcome"] == "closed"]


def test_a_killed_far_end_resets_its_streams_and_the_next_ones_go_elsewhere(
    world: World,
) -> None:
    with one_at_each(world) as (one, two):
        with ended(world.near, "reset") as lines:
            world.first.stop(signal.SIGKILL)
        lost, other = (one, two) if is_reset(one) else (two, one)
        assert lost is not other
        assert str(only(lines)["dst.addr"]).startswith("127.0.0.1:")
        talk(other, b"still here")
        for _ in range(10):
            assert ask(world.near.port) == b"hello\n"
        assert {end.partition(":")[0] for end in ends_of(world)} == {"127.0.0.2"}


def is_reset(client: socket.socket) -> bool:
    """Whether it was reset; an end in order fails the test."""
    client.settimeout(1.0)
    try:
        assert client.recv(100), "an end in order"
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    finally:
        client.settimeout(20.0)
    return False


def test_a_killed_caller_resets_the_application(
    tmp_path: Path, file_world: FileWorld, engine: str
) -> None:
    ends: list[BaseException | None] = []

    async def handle(reader, writer) -> None:  # type: ignore[no-untyped-def]  # a stream's
        try:
            while await reader.read(1 << 16):
                continue
        except ConnectionResetError as error:
            ends.append(error)
        else:
            ends.append(None)

    with (
        background(handle) as app,
        TunnelsIn(tmp_path, file_world.ours(ORDERS), app, engine=engine) as far,
        TunnelsOut(tmp_path, file_world.ours(WEB), app, end=far.port, engine=engine) as near,
    ):
        far.wait_until_ready()
        near.wait_until_ready()
        with dial(near.port) as one, dial(near.port) as two:
            one.sendall(b"words")
            two.sendall(b"words")
            wait_until(lambda: streams(far) == 2, "both to be open")
            with ended(far, "reset", count=2):
                near.stop(signal.SIGKILL)
            wait_until(lambda: len(ends) == 2, "the application to see both ends")
        assert all(isinstance(end, ConnectionResetError) for end in ends)
        assert metric(far, "uproxy_hbone_connections") == 0


def test_a_frozen_far_end_delays_a_connection_and_the_next_address_serves_it(
    world: World,
) -> None:
    """Its kernel still acknowledges, so that only the deadline tells."""
    with one_at_each(world):
        world.first.send(signal.SIGSTOP)
        try:
            for _ in range(6):
                assert ask(world.near.port) == b"hello\n"
            assert {end.partition(":")[0] for end in ends_of(world)} == {"127.0.0.2"}
        finally:
            world.first.send(signal.SIGCONT)


async def test_a_peer_whose_answer_came_while_the_uproxy_was_stopped_isnt_gone(
    tmp_path: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    web = file_world.ca.issue("/ns/web/sa/frontend")
    with TunnelsIn(
        tmp_path, file_world.ours(ORDERS), echo_app, engine=engine, hbone={"keepalive": "1s"}
    ) as far:
        far.wait_until_ready()
        there = TcpAddress("127.0.0.1", far.port)
        peer = await H2Peer.connect(there, web, root=file_world.ca.root)
        stream = await peer.open(f"127.0.0.1:{echo_app}")
        assert await peer.status(stream) == 200
        while not peer.has(PingReceived):
            peer.take(await peer.tls.receive())
        far.send(signal.SIGSTOP)
        try:
            wait_until(lambda: is_stopped(far.pid), "it to stop")
            await peer.flush()  # the answer
            await asyncio.sleep(1.5)  # there is nothing to wait for: its time is to pass
        finally:
            far.send(signal.SIGCONT)
        await peer.send(stream, b"still here")
        assert await peer.receive(stream, 10) == b"still here"


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process are stopped."""
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(each.read_text().rpartition(") ")[2].startswith("T") for each in tasks)


@pytest.mark.slow
def test_a_tunnel_that_was_silent_is_asked_first_and_a_dead_one_gets_no_connect(
    tmp_path: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        running(tmp_path, file_world, echo_app, engine, connect="4s") as world,
        one_at_each(world) as (one, two),
    ):
        world.first.send(signal.SIGSTOP)
        try:
            # there is nothing to wait for: nothing is to happen meanwhile
            threading.Event().wait(SILENCE_S + 0.5)
            for _ in range(6):
                assert ask(world.near.port) == b"hello\n"
        finally:
            world.first.send(signal.SIGCONT)
        assert {end.partition(":")[0] for end in ends_of(world)} == {"127.0.0.2"}
        for client in (one, two):  # who was patient has lost nothing
            talk(client, b"still here")
        assert metric(world.first, "istio_tcp_connections_opened_total") == 1
        wait_until(lambda: is_used_again(world), "it to be used again", 60)


def is_used_again(world: World) -> bool:
    """Whether the first far end has served one more connection, of which this makes another."""
    assert ask(world.near.port) == b"hello\n"
    return any(end.startswith("127.0.0.1:") for end in ends_of(world))


@dataclass
class Cable:
    """A way to a loopback port that can be cut without anybody hearing of it."""

    target: tuple[str, int]
    is_cut: threading.Event = field(default_factory=threading.Event)
    held: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Cable:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *why: object) -> None:
        for each in (self._listener, *self.held):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.held.append(near)
                if self.is_cut.is_set():
                    continue
                far = socket.create_connection(self.target)
                self.held.append(far)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.is_cut.is_set():
                    return
                sink.sendall(data)


def test_a_tunnel_that_is_half_open_ends_with_its_idle_stream(
    tmp_path: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    """Neither end hears that the other one is gone; each gives its stream up by itself."""
    ours = file_world.ours(ORDERS)
    timeouts = {"handshake": "1s", "connect": "1s", "idle": "2s"}
    with (
        TunnelsIn(tmp_path, ours, echo_app, engine=engine, timeouts=timeouts) as far,
        Cable(("127.0.0.1", far.port)) as cable,
        TunnelsOut(
            tmp_path, file_world.ours(WEB), echo_app, end=cable.port, engine=engine,
            timeouts=timeouts,
        ) as near,
    ):  # fmt: skip
        far.wait_until_ready()
        near.wait_until_ready()
        with (
            ended(far, "timed_out", rule="callers", opened=True),
            ended(near, "timed_out", opened=True),
            dial(near.port) as client,
        ):
            talk(client)
            cable.is_cut.set()
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        with ended(near, "timed_out") as lines:
            assert ask(near.port) == b""
        assert "didn't answer the CONNECT in 1 s" in only(lines)["error"]
        wait_until(lambda: metric(far, "uproxy_hbone_connections") == 0, "the tunnel to end")
