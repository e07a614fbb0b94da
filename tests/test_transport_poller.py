"""Readiness of sockets: callbacks on the event loop."""

from __future__ import annotations

import asyncio
import socket

from uproxy.lab.waiting import eventually
from uproxy.transport.poller import READ, WRITE, Poller


async def test_an_event_is_reported_until_it_is_handled() -> None:
    poller, (one, other) = Poller(), socket.socketpair()
    reported: list[int] = []
    poller.watch(one.fileno(), READ, reported.append)
    other.send(b"x")
    await eventually(lambda: len(reported) >= 3, "three reports")
    assert set(reported) == {READ}
    poller.forget(one.fileno())
    before = len(reported)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(reported) == before
    close(poller, one, other)


async def test_a_callback_that_fails_is_forgotten_and_the_others_are_called() -> None:
    poller, (one, other) = Poller(), socket.socketpair()
    reported: list[int] = []

    def failing(_events: int) -> None:
        raise RuntimeError("a defect")

    poller.watch(one.fileno(), WRITE, failing)
    poller.watch(other.fileno(), WRITE, reported.append)
    await eventually(lambda: len(reported) >= 2, "two reports")
    close(poller, one, other)


def close(poller: Poller, *sockets: socket.socket) -> None:
    poller.close()
    for each in sockets:
        each.close()
