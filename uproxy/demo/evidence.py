"""What others can see of the uProxies: access logs, admin listeners, bytes on the wire.

Each function waits for a fact, reads it, or raises a UproxyError if it isn't so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from uproxy.demo.processes import until_async
from uproxy.demo.unauthorized import ConnectionResult
from uproxy.demo.uproxies import UproxyProcess
from uproxy.demo.world import FRONTEND, ORDERS
from uproxy.errors import UproxyError
from uproxy.lab.tap import Capture
from uproxy.lab.wire import Conversation, read_conversation

_TLS_1_3, _X25519MLKEM768 = 0x0304, 0x11EC

Row = dict[str, Any]
"""One line of an access log, or a row that an admin listener answers."""


def expect(truth: bool, otherwise: str) -> None:
    """Raise UproxyError unless `truth`."""
    if not truth:
        raise UproxyError(f"the demonstration failed: {otherwise}")


async def accesses(uproxy: UproxyProcess, count: int) -> list[Row]:
    """Wait for `count` lines in the access log; return the first `count`."""
    await uproxy.until(lambda: len(uproxy.accesses) >= count, f"{uproxy.name} logs its connections")
    return uproxy.accesses[:count]


async def access_of(uproxy: UproxyProcess, result: ConnectionResult) -> Row:
    """Wait for the access log's line about this client; return it."""

    def find() -> Row | None:
        return next((r for r in uproxy.accesses if r["src.addr"] == result.source), None)

    row = await uproxy.until(find, f"{uproxy.name} logs the client {result.source}")
    assert row is not None  # noqa: S101  `until` waited for it
    return row


async def between_us(uproxy: UproxyProcess, count: int) -> list[Row]:
    """Return the first `count` lines of an access log; check each as `expect_between_us` does."""
    rows = await accesses(uproxy, count)
    for row in rows:
        expect_between_us(row)
    return rows


def expect_between_us(row: Row) -> None:
    """Raise UproxyError unless a line is about a stream from frontend to orders that ended in
    order."""
    said = (row["src.identity"], row["dst.identity"], row["transport"], row["outcome"])
    expect(said == (FRONTEND, ORDERS, "hbone", "closed"), f"an access log says {row}")


def application_of(servers: Mapping[str, int]) -> str:
    """Return the address of the first service's server, which a CONNECT may name."""
    return f"127.0.0.1:{next(iter(servers.values()))}"


def verdict(row: Row) -> str:
    """Return what an access log says about a refusal."""
    rule = f" ({row['rule']})" if row["rule"] else ""
    return f"{row['outcome']}{rule}: {row['error']}"


def port_of(address: str) -> int:
    """Return the port of an address as uProxy writes it."""
    return int(address.rpartition(":")[2])


def time_left(certificate: Row) -> str:
    """Return how long a uProxy's own certificate is valid, such as `for 10 min`."""
    expires = datetime.fromisoformat(certificate["expires"])
    minutes = (expires - datetime.now(UTC)).total_seconds() / 60
    return f"for {minutes:.0f} min"


def serial(certificate: Row) -> str:
    """Return the serial number of a uProxy's own leaf; empty if it has none."""
    chain = certificate.get("chain") or [{}]
    return str(chain[0].get("serial", ""))


async def other_serial(uproxy: UproxyProcess, old: str) -> str:
    """Wait for a certificate with another serial number; return it."""

    async def look() -> str:
        found = serial(await uproxy.own_certificate())
        return "" if found == old else found

    return await until_async(look, f"{uproxy.name}'s uProxy has a new certificate", uproxy)


async def only_open_tunnel(uproxy: UproxyProcess) -> Row:
    """Wait until one connection is open, and return the tunnel that carries it."""

    async def look() -> list[Row]:
        seen = await uproxy.connections()
        carrying = [one["tunnel"] for one in seen.get("connections", ())]
        return [one for one in seen.get("tunnels", ()) if carrying == [one["id"]]]

    return (await until_async(look, f"{uproxy.name} shows one open connection", uproxy))[0]


async def tunnel_has_ended(uproxy: UproxyProcess, source: str) -> None:
    """Wait until the tunnel from this address is gone."""

    async def look() -> bool:
        return all(one["source"] != source for one in (await uproxy.connections())["tunnels"])

    await until_async(look, f"the tunnel from {source} ends", uproxy)


def read_wire(capture: Capture) -> Conversation:
    """Read a captured connection; check its TLS version, group, and application protocol."""
    seen = read_conversation(bytes(capture.from_client), bytes(capture.from_server))
    server, offered = seen.server, seen.client.protocols
    expect(server.version == _TLS_1_3, f"the wire carries version {server.version:#06x}")
    expect(server.share.group == _X25519MLKEM768, f"the group is {server.share.group:#06x}")
    expect(offered == (b"h2",), f"the application protocols on offer are {offered}")
    return seen
