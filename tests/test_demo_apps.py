"""The embedded echo, which is all that `uproxy demo` needs."""

from __future__ import annotations

import pytest

from tests.helpers import traffic
from uproxy.demo import apps
from uproxy.demo.apps import EchoApplications, EchoSession
from uproxy.errors import UproxyError
from uproxy.lab.ports import free_port


async def test_the_marker_goes_there_and_back() -> None:
    async with EchoApplications() as apps:
        (exchange,) = await apps.talk(apps.servers, "a-marker")
    assert exchange.done == "sent 'a-marker', got it back"


async def test_an_echo_that_changes_the_marker_is_noticed() -> None:
    async with EchoApplications() as apps, traffic.serving(traffic.echo) as bare:
        with pytest.raises(UproxyError, match="came back as 'a-marker'"):
            await apps.talk({"echo": bare}, "a-marker")


async def test_each_call_is_a_connection() -> None:
    async with EchoApplications() as apps:
        assert await apps.call(apps.servers, 3) == "client"
        session = await apps.open_session(apps.servers)
        assert await session.ask() == "the echo server's connection 4"
        await session.close()


async def test_a_session_has_one_name_and_another_session_another() -> None:
    async with EchoApplications() as apps:
        first = await apps.open_session(apps.servers)
        second = await apps.open_session(apps.servers)
        names = [await first.ask(), await second.ask(), await first.ask()]
        await first.close()
        await second.close()
    assert names == [
        "the echo server's connection 1",
        "the echo server's connection 2",
        "the echo server's connection 1",
    ]


async def test_a_lost_session_says_so_and_closes_all_the_same() -> None:
    async with EchoApplications() as apps:
        session = await apps.open_session(apps.servers)
        assert await session.ask()
    with pytest.raises(UproxyError, match="the echo connection"):
        await session.ask()
    await session.close()


async def test_a_silent_server_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps, "TIMEOUT_S", 0.1)
    async with traffic.serving(traffic.never_read) as silent:
        session = await EchoSession.open(silent)
        with pytest.raises(UproxyError, match="the echo connection is lost: no answer"):
            await session.ask()
        await session.close()


async def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(UproxyError, match="the echo client can't connect"):
        await EchoSession.open(free_port())
