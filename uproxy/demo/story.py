"""The steps of the demonstration, in order; each proves what it says.

    authority → workloads → traffic → wire → refusals → rotation → look around

A step prints something after checking it; if a check fails, the story ends with an error.
Rules: what is said about uProxy comes from what others can see too: access logs, the admin
listener, bytes on the wire, and clients with another TLS implementation.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from uproxy.demo.apps import Applications, AppSession, EchoApplications, Exchange
from uproxy.demo.distribution import DistributionApplications
from uproxy.demo.processes import until_async
from uproxy.demo.screen import Screen
from uproxy.demo.unauthorized import ConnectionResult, connect_to_door
from uproxy.demo.uproxies import UproxyProcess
from uproxy.demo.world import FRONTEND, HOME, NAMESAKE, NEWSLETTER, ORDERS, RULE, DemoWorld
from uproxy.errors import UproxyError
from uproxy.lab.tap import Capture
from uproxy.lab.wire import CIPHERS, GROUPS, VERSIONS, Conversation, read_conversation

_HEARTBEAT_S = 2.0
"""Seconds between two requests on the open connection."""
_TLS_1_3, _X25519MLKEM768 = 0x0304, 0x11EC

Row = dict[str, Any]
"""One line of an access log."""


@dataclass(frozen=True, slots=True)
class UnauthorizedClient:
    """A client that must be refused."""

    who: str
    spiffe_id: str | None
    """Its identity; None: it has no certificate."""
    outcome: str
    """The outcome that orders' access log must have."""


UNAUTHORIZED_CLIENTS = (
    UnauthorizedClient("a caller without a certificate", None, "handshake_failed"),
    UnauthorizedClient("a caller with an identity that no rule allows", NEWSLETTER, "denied"),
    UnauthorizedClient(
        "a caller with frontend's name in a trust domain that orders doesn't trust",
        NAMESAKE,
        "peer_untrusted",
    ),
)


class Story:
    """Runs the steps once."""

    def __init__(self, world: DemoWorld, screen: Screen, *, real: bool) -> None:
        """`real`: use PostgreSQL and nginx instead of the echo."""
        self._world = world
        self._screen = screen
        self._real = real
        self._marker = f"pears-{secrets.token_hex(6)}"

    async def tell(self) -> None:
        """Run all steps.

        Raises:
            UproxyError: a check failed.
        """
        self._screen.title(
            "uProxy: two workloads that know nothing of TLS, each with its own uProxy"
        )
        await self._show_authority()
        apps = await self._show_workloads()
        await self._show_traffic(apps)
        self._show_wire()
        await self._show_refusals()
        self._session = await apps.open_session(self._world.doors)
        self._world.on_exit(self._session.close)
        await self._show_rotation(self._session)
        await self._show_where_to_look()

    async def stay(self) -> None:
        """Use the open connection every few seconds, so that there is something to see; never
        returns.

        Raises:
            UproxyError: the connection was lost.
        """
        name = await self._session.ask()
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            again = await self._session.ask()
            _expect(again == name, f"the connection was {name}, now it is {again}")

    async def _show_authority(self) -> None:
        self._screen.step(1, "An authority for identities (for development, in memory)")
        endpoints = await self._world.start_authority()
        self._screen.done("it serves the SPIFFE Workload API, one endpoint per trust domain")
        for name, endpoint in endpoints.items():
            self._screen.fact(name, endpoint)

    async def _show_workloads(self) -> Applications:
        """Start applications and uProxies; check that each uProxy has its identity."""
        world, screen = self._world, self._screen
        screen.step(2, "Two workloads: frontend and orders")
        apps = await self._start_applications()
        with screen.waiting("two uProxies start and ask for their identities"):
            await world.start_uproxies(apps.servers)
        for uproxy, spiffe_id in ((world.frontend, FRONTEND), (world.orders, ORDERS)):
            certificate = await uproxy.own_certificate()
            _expect(certificate.get("spiffe_id") == spiffe_id, f"{uproxy.name} is {certificate}")
            screen.done(f"{uproxy.name} is {spiffe_id} {_for_how_long(certificate)}")
        screen.fact("orders' policy", f"lets in {FRONTEND} and nobody else")
        return apps

    async def _start_applications(self) -> Applications:
        world, screen = self._world, self._screen
        if not self._real:
            return await world.enter(EchoApplications())
        apps = await world.enter(DistributionApplications(world.folder, screen))
        screen.done("PostgreSQL and nginx run beside orders, on loopback, in the clear")
        return apps

    async def _show_traffic(self, apps: Applications) -> None:
        """Let the clients use their servers; check both access logs."""
        world, screen = self._world, self._screen
        screen.step(3, "Traffic")
        with screen.waiting("clients talk to their servers"):
            exchanges = await apps.talk(world.doors, self._marker)
        for one in exchanges:
            screen.done(f"{one.client} {one.done}")
            screen.fact("its path", _path(one))
        screen.note(
            "who talked to whom, from the access logs of both uProxies (bytes sent, and back):"
        )
        rows: list[list[str]] = []
        for uproxy in (world.frontend, world.orders):
            for row in await _accesses(uproxy, len(exchanges)):
                _expect_between_us(row)
                rows.append(_cells(uproxy, row, self._service(apps, row)))
        screen.table(("log of", "who called", "who answered", "for", "sent", "back"), rows)

    def _service(self, apps: Applications, row: Row) -> str:
        """Return the service of a connection, by the port that was dialled for it."""
        taps = {tap.port: service for service, tap in self._world.taps.items()}
        servers = {port: service for service, port in apps.servers.items()}
        return (taps | servers)[int(row["dst.addr"].rpartition(":")[2])]

    def _show_wire(self) -> None:
        """Check TLS version and group of the captured bytes, and that the marker isn't in them."""
        screen = self._screen
        screen.step(4, "The wire: the bytes captured between the two uProxies")
        captures = [one for tap in self._world.taps.values() for one in tap.captures]
        _expect(bool(captures), "nothing went over the wire")
        seen = [_read_wire(one) for one in captures]
        there, back = seen[0].agreed
        screen.done(f"{VERSIONS[seen[0].server.version]}, {CIPHERS[seen[0].server.cipher]}")
        screen.done(
            f"keys agreed with {GROUPS[back.group]} ({back.group:#06x}, hybrid post-quantum): "
            f"{there.size} bytes there, {back.size} back"
        )
        encrypted = sum(one.encrypted_records for one in seen)
        screen.done(f"all that follows is encrypted, certificates too: {encrypted} records")
        everything = b"\0".join(bytes(way) for one in captures for way in one.both_ways)
        _expect(self._marker.encode() not in everything, "the wire carries it in the clear")
        screen.done(
            f"{self._marker!r} crossed, but isn't in the {len(everything):,} bytes captured"
        )

    async def _show_refusals(self) -> None:
        """Check that each unauthorized client is refused as it must be."""
        world, screen = self._world, self._screen
        screen.step(5, "Callers that orders must refuse (TLS by pyOpenSSL, not by our engine)")
        port = next(iter(world.inbound_doors.values()))
        for client in UNAUTHORIZED_CLIENTS:
            with screen.waiting(f"{client.who} connects"):
                result, row = await self._receive(client, port)
            screen.done(f"refused: {client.who}")
            if client.spiffe_id is not None:
                screen.fact("it is", client.spiffe_id)
            screen.fact("it saw", str(result.refusal))
            screen.fact("orders says", _verdict(row))

    async def _receive(self, client: UnauthorizedClient, port: int) -> tuple[ConnectionResult, Row]:
        """Return what the client saw and what orders logged; check that it was refused as it
        must be."""
        world, identity = self._world, client.spiffe_id
        svid = None if identity is None else await world.identity(identity)
        result = await connect_to_door(port, svid)
        row = await _access_of(world.orders, result)
        _expect(result.refusal is not None, f"{client.who} was let in")
        _expect(row["outcome"] == client.outcome, f"{client.who} ended as {row}")
        return result, row

    async def _show_rotation(self, session: AppSession) -> None:
        """Renew all certificates; check that new handshakes use them and an open connection
        stays."""
        world, screen = self._world, self._screen
        screen.step(6, "Identities rotate under a live connection")
        name = await session.ask()
        screen.done(f"a connection is open: {name}")
        both = (world.frontend, world.orders)
        before = [_serial(await one.own_certificate()) for one in both]
        await self._expect_shown(before[1])
        with screen.waiting("the authority issues new certificates to everybody"):
            world.authority.renew(HOME)
            after = [await _other_serial(one, old) for one, old in zip(both, before, strict=True)]
        screen.done("the authority has issued new certificates, and both uProxies have theirs")
        for uproxy, old, new in zip(both, before, after, strict=True):
            screen.fact(uproxy.name, f"serial {old[:16]}… → {new[:16]}…")
        await self._expect_shown(after[1])
        screen.done("a new handshake is shown the new certificate of orders")
        again = await session.ask()
        _expect(again == name, f"the connection was {name}, now it is {again}")
        screen.done(f"the open connection answers as before: {again}")

    async def _expect_shown(self, serial: str) -> None:
        """Check that orders presents the certificate with this serial number to a client with
        frontend's identity."""
        port = list(self._world.inbound_doors.values())[-1]
        result = await connect_to_door(port, await self._world.identity(FRONTEND))
        shown = "none" if result.certificate is None else result.certificate.serial_number
        _expect(shown == int(serial, 16), f"orders shows {shown}, its admin listener says {serial}")
        row = await _access_of(self._world.orders, result)
        _expect(row["rule"] == RULE, f"frontend's identity wasn't let in: {row}")

    async def _show_where_to_look(self) -> None:
        """Check that the status pages answer; print their addresses."""
        world, screen = self._world, self._screen
        screen.step(7, "Look around")
        for uproxy in (world.frontend, world.orders):
            _expect(await uproxy.shows_status(), f"{uproxy.status_page} doesn't answer")
            screen.done(f"the status page of {uproxy.name}: {uproxy.status_page}")
            screen.fact("configuration", str(uproxy.config_file))


def _path(exchange: Exchange) -> str:
    return f"{exchange.client} ── frontend's uProxy ══ mTLS ══ orders' uProxy ── {exchange.server}"


def _expect(truth: bool, otherwise: str) -> None:
    """Raise UproxyError unless `truth`."""
    if not truth:
        raise UproxyError(f"the demonstration failed: {otherwise}")


def _expect_between_us(row: Row) -> None:
    said = (row["src.identity"], row["dst.identity"], row["transport"], row["outcome"])
    _expect(said == (FRONTEND, ORDERS, "mtls", "closed"), f"an access log says {row}")


def _cells(uproxy: UproxyProcess, row: Row, service: str) -> list[str]:
    """Return the cells of an access log row for the table."""
    who = (str(row[name]).removeprefix("spiffe://") for name in ("src.identity", "dst.identity"))

    # bytes_sent are bytes to the peer: on an inbound connection these are the answer
    there, back = row["bytes_sent"], row["bytes_recv"]
    if row["direction"] == "inbound":
        there, back = back, there
    return [uproxy.name, *who, service, str(there), str(back)]


def _verdict(row: Row) -> str:
    rule = f" ({row['rule']})" if row["rule"] else ""
    return f"{row['outcome']}{rule}: {row['error']}"


def _for_how_long(certificate: Row) -> str:
    expires = datetime.fromisoformat(certificate["expires"])
    minutes = (expires - datetime.now(UTC)).total_seconds() / 60
    return f"for {minutes:.0f} min"


def _serial(certificate: Row) -> str:
    """Return the serial number of a uProxy's own leaf; empty if it has none."""
    chain = certificate.get("chain") or [{}]
    return str(chain[0].get("serial", ""))


def _read_wire(capture: Capture) -> Conversation:
    """Read a captured connection; check its TLS version and group."""
    seen = read_conversation(bytes(capture.from_client), bytes(capture.from_server))
    server = seen.server
    _expect(server.version == _TLS_1_3, f"the wire carries version {server.version:#06x}")
    _expect(server.share.group == _X25519MLKEM768, f"the group is {server.share.group:#06x}")
    return seen


async def _other_serial(uproxy: UproxyProcess, old: str) -> str:
    """Wait for a certificate with another serial number; return it."""

    async def look() -> str:
        serial = _serial(await uproxy.own_certificate())
        return "" if serial == old else serial

    return await until_async(look, f"{uproxy.name}'s uProxy has a new certificate", uproxy)


async def _accesses(uproxy: UproxyProcess, count: int) -> list[Row]:
    """Wait for `count` lines in the access log; return the first `count`."""
    await uproxy.until(lambda: len(uproxy.accesses) >= count, f"{uproxy.name} logs its connections")
    return uproxy.accesses[:count]


async def _access_of(uproxy: UproxyProcess, result: ConnectionResult) -> Row:
    """Wait for the access log's line about this client; return it."""

    def find() -> Row | None:
        return next((r for r in uproxy.accesses if r["src.addr"] == result.source), None)

    row = await uproxy.until(find, f"{uproxy.name} logs the client {result.source}")
    assert row is not None  # noqa: S101  `until` waited for it
    return row
