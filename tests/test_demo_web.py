"""The HTTP application of the act with the L7 proxy, and its clients."""

from __future__ import annotations

import asyncio
import http.client

import pytest

from tests.helpers import traffic
from uproxy.demo import web
from uproxy.demo.processes import until
from uproxy.demo.web import FLAKY, STEADY, FlakyApplication, HttpConnection, Load, fetch
from uproxy.errors import UproxyError
from uproxy.lab.ports import free_port


async def test_every_second_request_for_what_is_flaky_fails() -> None:
    async with FlakyApplication() as app:
        statuses = [(await fetch(app.port, "GET", FLAKY)).status for _ in range(4)]
        assert statuses == [200, 503, 200, 503]
        assert app.requests == 4


async def test_what_is_steady_never_fails_whatever_the_method() -> None:
    async with FlakyApplication() as app:
        answers = [await fetch(app.port, method, STEADY) for method in ("GET", "POST", "GET")]
    assert [one.status for one in answers] == [200] * 3
    assert answers[1].body == f"POST {STEADY}: done\n"


async def test_requests_follow_each_other_over_one_connection() -> None:
    async with FlakyApplication() as app:
        connection = await HttpConnection.open(app.port)
        answers = [await connection.ask("GET", FLAKY) for _ in range(3)]
        await connection.close()
    assert [one.status for one in answers] == [200, 503, 200]


async def test_a_client_of_others_is_answered_too() -> None:
    def ask(port: int) -> tuple[int, bytes]:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("POST", FLAKY, body="what is not read")
        answer = client.getresponse()
        found = answer.status, answer.read()
        client.close()
        return found

    async with FlakyApplication() as app:
        assert await asyncio.to_thread(ask, app.port) == (200, b"POST /flaky: done\n")


async def test_who_is_not_there_or_closes_without_a_word_is_told() -> None:
    with pytest.raises(UproxyError, match="the web client can't connect"):
        await fetch(free_port(), "GET", STEADY)
    async with traffic.serving(_close) as port:
        with pytest.raises(UproxyError, match="GET /steady got no answer"):
            await fetch(port, "GET", STEADY)


async def test_what_is_no_http_is_told() -> None:
    async with traffic.serving(traffic.echo) as port:
        with pytest.raises(UproxyError, match="got no answer"):
            await fetch(port, "GET", STEADY)


async def test_a_silent_server_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT_S", 0.1)
    async with traffic.serving(traffic.never_read) as port:
        with pytest.raises(UproxyError, match="got no answer: timeout"):
            await fetch(port, "GET", STEADY)


async def test_a_load_counts_answers_and_tells_of_failures() -> None:
    async with FlakyApplication() as app:
        async with Load(app.port, 2) as load:
            await until(lambda: load.answered >= 20, "many answers")
        assert (load.failures, app.requests >= load.answered) == ([], True)
    async with traffic.serving(_close) as port, Load(port, 1) as load:
        await until(lambda: load.failures, "a failure")
    assert load.answered == 0
    assert "got no answer" in load.failures[0]


async def _close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    await traffic.close(writer)
