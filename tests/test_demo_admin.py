"""What an admin listener answers, and what it means that nobody does."""

from __future__ import annotations

from tests.helpers import traffic
from uproxy.demo.admin import get
from uproxy.demo.web import STEADY, FlakyApplication
from uproxy.lab.ports import free_port


async def test_an_answer_is_its_status_and_body() -> None:
    async with FlakyApplication() as app:
        assert await get(app.port, STEADY) == (200, b"GET /steady: done\n")


async def test_nobody_and_no_http_are_status_0() -> None:
    assert await get(free_port(), "/") == (0, b"")
    async with traffic.serving(traffic.echo) as port:
        assert await get(port, "/") == (0, b"")
