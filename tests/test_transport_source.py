"""An application may be dialled from its caller's own address, in both engines.

This file runs itself in a namespace, where it has the privilege.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from dataclasses import replace

import pytest

from tests.helpers.captured import inside, network
from tests.helpers.engines import RecordingDoor, open_door, route
from tests.helpers.streams import Stream, close_all, listening
from uproxy import originals
from uproxy.app.engines import make_engine
from uproxy.contract import RefusedError
from uproxy.model import Direction, TcpAddress
from uproxy.transport.dial import reach
from uproxy.transport.poller import Poller

CALLER = TcpAddress("127.0.0.9", 4711)
NOWHERE = (TcpAddress("127.0.0.1", 1),)


@pytest.mark.parametrize("engine", ["native", "python"])
def test_the_application_sees_its_callers_address(engine: str) -> None:
    assert inside(__name__, engine).split() == ["127.0.0.9", "127.0.0.1", "hello", "hello"]


async def test_without_the_privilege_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_connection: socket.socket, source: TcpAddress) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(originals, "use_source", refuse)
    with pytest.raises(RefusedError) as caught:
        await reach(Poller(), NOWHERE, "it", 1, CALLER)
    said = caught.value.refusal.reason
    assert said.startswith("127.0.0.1:1 can't be dialled from 127.0.0.9 (")
    assert "it takes CAP_NET_ADMIN" in said


async def _main(name: str) -> None:
    network()
    engine = make_engine(name, 1)
    async with listening() as upstream:
        plain = route(upstream.address)
        answers = iter([replace(plain, dial_from=CALLER), plain])
        door = RecordingDoor(Direction.INBOUND, lambda _arrival: next(answers))
        async with open_door(engine, door) as address:
            told = []
            for _ in range(2):
                caller, there = await Stream.connect(address), await upstream.accept()
                await caller.send(b"hello")
                told.append((await there.receive()).decode())
                print(there.socket.getpeername()[0])  # noqa: T201
            print(*told)  # noqa: T201
        close_all()
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
