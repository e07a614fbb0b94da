from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.helpers import traffic
from tests.helpers.world import credentials, settings
from uproxy.app.l7_health import L7Health
from uproxy.config.settings import (
    DestinationSettings,
    L7EndpointSettings,
    L7HealthSettings,
    L7ProxySettings,
)
from uproxy.destinations import L7, AllEndpoints
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import eventually
from uproxy.model import TcpAddress, Transport
from uproxy.snapshot import Snapshot

ENVOY = "spiffe://example.org/ns/mesh/sa/l7"
END, DRAINING = TcpAddress("127.0.0.1", 15008), TcpAddress("127.0.0.2", 15008)
APP = TcpAddress("10.1.0.1", 8080)


class Envoy:
    """Answers health checks as it is told, and counts them."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(f"HTTP/1.1 {self.status} x\r\n\r\n".encode())
        await writer.drain()


class Here:
    """What follows the configuration, with the snapshot in force."""

    def __init__(self, port: int) -> None:
        self.endpoints = AllEndpoints()
        health = L7HealthSettings(port, "/ready", 0.02)
        ends = (L7EndpointSettings(END), L7EndpointSettings(DRAINING, draining=True))
        self.proxy = L7ProxySettings("l7", ends, (ENVOY,), health=health)
        self.snapshot = self.made(self.proxy)
        self.service = L7Health(lambda: self.snapshot, self.endpoints)

    @staticmethod
    def made(proxy: L7ProxySettings) -> Snapshot:
        to = DestinationSettings("reviews", (APP,), Transport.HBONE, (ENVOY,), via="l7")
        config = settings(destinations={"reviews": to}, l7_proxies={"l7": proxy})
        return Snapshot.first(config, credentials(None))

    def is_passed_over(self) -> bool:
        return self.endpoints[L7, "l7"].failing(END, 0.0)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[Here, Envoy]]:
    envoy = Envoy()
    async with traffic.serving(envoy.handle) as port:
        here = Here(port)
        here.service.follow()
        yield here, envoy
        await here.service.stop()


async def test_one_that_fails_is_passed_over_until_it_passes_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with running() as (here, envoy):
        await eventually(lambda: envoy.asked > 2, "it is asked again and again")
        assert not here.is_passed_over()
        envoy.status = 503
        await eventually(here.is_passed_over, "it is passed over")
        [row, _draining] = here.endpoints[L7, "l7"].status(
            here.snapshot.l7_proxies["l7"].addresses, 0.0
        )
        assert row.reason == "its health check fails: it answers 503"
        envoy.status = 200
        await eventually(lambda: not here.is_passed_over(), "it is used again")
    assert caplog.messages == [
        f"L7 proxy l7 at {END} is passed over: its health check fails: it answers 503",
        f"L7 proxy l7 at {END} passes its health check again",
    ]


async def test_a_check_that_has_never_passed_is_said_to_be_a_likely_mistake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = Here(nobody := free_port())
    here.snapshot = here.made(replace(here.proxy, health=L7HealthSettings(nobody)))
    here.service.follow()
    await eventually(here.is_passed_over, "it is passed over")
    await here.service.stop()
    [told] = caplog.messages
    assert told == (
        f"L7 proxy l7 at {END} is passed over: its health check has never passed: connection "
        f"refused by 127.0.0.1:{nobody}: is its health listener running? (is health.port {nobody} "
        "right, and open to this host? Envoy's admin port usually isn't)"
    )


async def test_without_health_nobody_is_asked_and_nobody_is_passed_over_for_it() -> None:
    async with running() as (here, envoy):
        envoy.status = 503
        await eventually(here.is_passed_over, "it is passed over")
        here.snapshot = here.made(replace(here.proxy, health=None))
        here.service.follow()
        assert not here.is_passed_over()
        asked = envoy.asked
        here.snapshot = here.made(here.proxy)
        here.service.follow()
        await eventually(lambda: envoy.asked > asked + 1, "it is asked again")


async def test_one_that_is_draining_is_not_asked() -> None:
    async with running() as (here, envoy):
        await eventually(lambda: envoy.asked > 1, "the other one is asked")
        assert not here.endpoints[L7, "l7"].failing(DRAINING, 0.0)
