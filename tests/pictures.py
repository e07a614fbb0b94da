"""Takes the docs' screenshot of the status page: `make pictures`.

A real uProxy named `orders` carries 250 connections of five callers; it has refused some, an
application and a destination are down, and its file has a mistake.  The picture is taken after
SECONDS (the only argument), in which the charts get something to show.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.browser import browser
from tests.helpers.streams import Stream
from tests.helpers.tls_streams import TlsStream
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until
from uproxy.model import TcpAddress

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "status-page.png"
SECONDS = 200.0
WIDTH = 1280
CALLERS = {"frontend": 120, "search": 60, "billing": 40, "mobile": 20, "reports": 10}
"""The open connections of each caller."""
SCANNERS, STRANGERS, UNREACHED = 8, 3, 3
"""Callers that no rule allows, callers of another trust domain, and calls in vain."""
SHOWN = (
    "callers refused, 1 application down, 1 destination down, configuration stale",
    "log level",
)
"""What the page shows before it is photographed."""
_SIZE = 2048


class Orders(Uproxy):
    """The uProxy of the picture; the paths in its configuration, and its own, are relative."""

    def __init__(self, folder: Path, app: int) -> None:
        self.doors = {"api": free_port(), "reports": free_port(), "db": free_port()}
        super().__init__(_config(self.doors, app), folder)
        self.argv[-1] = self.config_file.name

    def misspell(self) -> None:
        """Make a mistake in the file."""
        with self.config_file.open("a") as file:
            file.write("limits: {per_source_conections: 100}\n")


def _config(doors: Mapping[str, int], app: int) -> dict[str, Any]:
    callers = [f"spiffe://example.org/ns/web/sa/{name}" for name in CALLERS]
    return {
        "name": "orders",
        "identity": {
            "files": {"svid": "svid.pem", "key": "svid.key",
                      "bundles": {"example.org": "bundle.pem"}}
        },
        "inbound": [
            {"name": "api", "listen": f"127.0.0.1:{doors['api']}", "transport": "mtls",
             "to": f"127.0.0.1:{app}"},
            {"name": "reports", "listen": f"127.0.0.1:{doors['reports']}", "transport": "mtls",
             "to": f"127.0.0.1:{free_port()}"},
        ],
        "outbound": [{"listen": f"127.0.0.1:{doors['db']}", "to": "orders-db"}],
        "destinations": {
            "orders-db": {
                "addresses": ["127.0.0.2:5432", "127.0.0.3:5432"],
                "transport": "mtls",
                "identities": ["spiffe://example.org/ns/shop/sa/orders-db"],
            }
        },
        "authorization": [
            {"name": "callers", "action": "allow", "from": {"identities": callers}}
        ],
    }  # fmt: skip


@contextlib.asynccontextmanager
async def calling(port: int, shows: Issued) -> AsyncIterator[TlsStream]:
    """Yield a connection that has shown an SVID; whether it is accepted shows later."""
    stream = await Stream.connect(TcpAddress("127.0.0.1", port))
    try:
        client = TlsStream(stream, shows)
        await client.handshake()
        yield client
    finally:
        stream.close()


async def in_vain(port: int, shows: Issued) -> None:
    """Call and be refused."""
    with contextlib.suppress(SSL.Error, EOFError, OSError):
        async with calling(port, shows) as client:
            await client.send(b"?")
            await client.receive()


async def in_vain_in_clear(port: int) -> None:
    """Be an application whose destination is down."""
    stream = await Stream.connect(TcpAddress("127.0.0.1", port))
    await stream.is_reset()
    stream.close()


async def stay(client: TlsStream) -> None:
    """Send a few bytes, and get them back, every second or so."""
    while True:
        await client.send(bytes(_SIZE))
        await client.receive_exactly(_SIZE)
        await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311  for the charts


async def pass_by(port: int, shows: Issued) -> None:
    """Make one short connection after the other."""
    while True:
        async with calling(port, shows) as client:
            await client.send(b"?")
            await client.receive_exactly(1)
            await client.finish()
            await client.receive_all()
        await asyncio.sleep(random.uniform(0.1, 0.6))  # noqa: S311  for the charts


async def refuse(uproxy: Orders, ca: Authority, stranger: Authority) -> None:
    """Make everything fail that the picture shows as failed."""
    for number in range(SCANNERS):
        await in_vain(uproxy.doors["api"], ca.issue(f"/ns/test/sa/scanner-{number + 1}"))
    for number in range(STRANGERS):
        await in_vain(uproxy.doors["api"], stranger.issue(f"/ns/void/sa/n{number + 1}"))
    for _ in range(UNREACHED):
        await in_vain(uproxy.doors["reports"], ca.issue("/ns/web/sa/frontend"))
        await in_vain_in_clear(uproxy.doors["db"])
    uproxy.misspell()


async def picture(folder: Path, seconds: float) -> bytes:
    """Return the picture of a uProxy that was used for some seconds."""
    ca, stranger = Authority("example.org"), Authority("stranger.test")
    write_identity(folder, ca.issue("/ns/shop/sa/orders"), ca.pem)
    with background(traffic.echo) as app:
        return await _of_orders(folder, app, ca, stranger, seconds)


async def _of_orders(
    folder: Path, app: int, ca: Authority, stranger: Authority, seconds: float
) -> bytes:
    async with contextlib.AsyncExitStack() as clients, asyncio.TaskGroup() as tasks:
        with Orders(folder, app) as uproxy:
            await asyncio.to_thread(uproxy.wait_until_ready)
            port = uproxy.doors["api"]
            callers = {ca.issue(f"/ns/web/sa/{name}"): count for name, count in CALLERS.items()}
            # one after the other, so that no handshake takes too long on a slow machine
            staying = [
                await clients.enter_async_context(calling(port, shows))
                for shows, count in callers.items()
                for _ in range(count)
            ]
            running = [tasks.create_task(stay(client)) for client in staying]
            running += [tasks.create_task(pass_by(port, shows)) for shows in callers]
            await refuse(uproxy, ca, stranger)
            await asyncio.sleep(seconds)
            taken = await asyncio.to_thread(_photograph, folder, uproxy.admin_port)
            for each in running:
                each.cancel()
            return taken


def _photograph(folder: Path, port: int) -> bytes:
    with browser(folder) as tab:
        tab.resize(WIDTH)
        tab.go(f"http://127.0.0.1:{port}/")
        wait_until(lambda: all(words in tab.text for words in SHOWN), f"the page to show {SHOWN}")
        tab.resize(WIDTH, tab.run("return document.documentElement.scrollHeight"))
        return tab.screenshot()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory(prefix="orders-") as folder:
        PICTURE.write_bytes(asyncio.run(picture(Path(folder), seconds)))


if __name__ == "__main__":
    main()
