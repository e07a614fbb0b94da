"""The demonstration's story: its steps in order, each proving what it says.

    authority → workloads → traffic → wire → strangers → rotation → look around

A step says something only after it has looked; what doesn't hold ends the story.  Rules:
what is told of uProxy comes from where others see it too: access logs, admin listener, the
bytes on the wire, and clients that aren't ours.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from uproxy.demo.apps import Applications, EchoApplications, Exchange, Session
from uproxy.demo.distribution import DistributionApplications
from uproxy.demo.processes import until_seen
from uproxy.demo.screen import Screen
from uproxy.demo.strangers import Reception, knock
from uproxy.demo.uproxies import Uproxy
from uproxy.demo.world import FRONTEND, HOME, NAMESAKE, NEWSLETTER, ORDERS, RULE, World
from uproxy.errors import UproxyError
from uproxy.lab.tap import Capture
from uproxy.lab.wire import CIPHERS, GROUPS, VERSIONS, Conversation, read_conversation

_HEARTBEAT_S = 2.0
_TLS_1_3, _X25519MLKEM768 = 0x0304, 0x11EC

Row = dict[str, Any]
"""A line of an access log."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody who mustn't get in, and how it is to be received."""

    who: str
    spiffe_id: str | None
    """None: it has no certificate."""
    outcome: str
    """What orders' access log is to say."""


STRANGERS = (
    Stranger("a caller without a certificate", None, "handshake_failed"),
    Stranger("a caller with an identity that no rule allows", NEWSLETTER, "denied"),
    Stranger("a namesake from a trust domain that nobody here trusts", NAMESAKE, "peer_untrusted"),
)


class Story:
    """Tells it once."""

    def __init__(self, world: World, screen: Screen, *, real: bool) -> None:
        """`real`: with PostgreSQL and nginx instead of the embedded echo."""
        self._world = world
        self._screen = screen
        self._real = real
        self._marker = f"pears-{secrets.token_hex(6)}"

    async def tell(self) -> None:
        """From the authority to the rotation.

        Raises:
            UproxyError: something isn't as it should be.
        """
        self._screen.title(
            "uProxy: two workloads that know nothing of TLS, each with its own uProxy"
        )
        await self._show_authority()
        apps = await self._show_workloads()
        await self._show_traffic(apps)
        self._show_wire()
        await self._show_strangers()
        self._session = await apps.open_session(self._world.doors)
        self._world.on_exit(self._session.close)
        await self._show_rotation(self._session)
        await self._show_where_to_look()

    async def stay(self) -> None:
        """Keep the session of the rotation busy, so that there is something to see, for ever.

        Raises:
            UproxyError: the session was lost.
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
        world, screen = self._world, self._screen
        screen.step(3, "Traffic")
        with screen.waiting("clients talk to their servers"):
            exchanges = await apps.talk(world.doors, self._marker)
        for one in exchanges:
            screen.done(f"{one.client} {one.done}")
            screen.fact("its way", _way(one))
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
        """What a connection was for, by the address that was dialled for it."""
        taps = {tap.port: service for service, tap in self._world.taps.items()}
        servers = {port: service for service, port in apps.servers.items()}
        return (taps | servers)[int(row["dst.addr"].rpartition(":")[2])]

    def _show_wire(self) -> None:
        screen = self._screen
        screen.step(4, "The wire between the two uProxies, as a tap on it saw it")
        captures = [one for tap in self._world.taps.values() for one in tap.captures]
        _expect(bool(captures), "nothing went over the wire")
        seen = [_read_wire(one) for one in captures]
        there, back = seen[0].agreed
        screen.done(f"{VERSIONS[seen[0].server.version]}, {CIPHERS[seen[0].server.cipher]}")
        screen.done(
            f"keys agreed with {GROUPS[back.group]} ({back.group:#06x}, hybrid post-quantum): "
            f"{there.size} bytes there, {back.size} back"
        )
        sealed = sum(one.sealed_records for one in seen)
        screen.done(f"all that follows is sealed, certificates too: {sealed} records")
        everything = b"\0".join(bytes(way) for one in captures for way in one.both_ways)
        _expect(self._marker.encode() not in everything, "the wire carries it in the clear")
        screen.done(
            f"{self._marker!r} crossed, but isn't in the {len(everything):,} bytes captured"
        )

    async def _show_strangers(self) -> None:
        world, screen = self._world, self._screen
        screen.step(5, "Strangers at orders' door (clients of pyOpenSSL, which isn't our engine)")
        port = next(iter(world.inbound_doors.values()))
        for stranger in STRANGERS:
            with screen.waiting(f"{stranger.who} knocks"):
                reception, row = await self._receive(stranger, port)
            screen.done(f"refused: {stranger.who}")
            if stranger.spiffe_id is not None:
                screen.fact("it is", stranger.spiffe_id)
            screen.fact("it saw", str(reception.refusal))
            screen.fact("orders says", _verdict(row))

    async def _receive(self, stranger: Stranger, port: int) -> tuple[Reception, Row]:
        """What the stranger saw, and what orders says of it."""
        world, identity = self._world, stranger.spiffe_id
        reception = await knock(port, None if identity is None else await world.identity(identity))
        row = await _access_of(world.orders, reception)
        _expect(reception.refusal is not None, f"{stranger.who} was let in")
        _expect(row["outcome"] == stranger.outcome, f"{stranger.who} ended as {row}")
        return reception, row

    async def _show_rotation(self, session: Session) -> None:
        world, screen = self._world, self._screen
        screen.step(6, "Identities rotate under a live connection")
        name = await session.ask()
        screen.done(f"a connection is open: {name}")
        both = (world.frontend, world.orders)
        before = [_serial(await one.own_certificate()) for one in both]
        await self._expect_shown(before[1])
        with screen.waiting("the authority issues everybody anew"):
            world.authority.renew(HOME)
            after = [await _other_serial(one, old) for one, old in zip(both, before, strict=True)]
        screen.done("the authority has issued everybody anew, and both uProxies have it")
        for uproxy, old, new in zip(both, before, after, strict=True):
            screen.fact(uproxy.name, f"serial {old[:16]}… → {new[:16]}…")
        await self._expect_shown(after[1])
        screen.done("a new handshake is shown the new certificate of orders")
        again = await session.ask()
        _expect(again == name, f"the connection was {name}, now it is {again}")
        screen.done(f"the open connection answers as before: {again}")

    async def _expect_shown(self, serial: str) -> None:
        """A client with frontend's identity sees the certificate with this serial number."""
        port = list(self._world.inbound_doors.values())[-1]
        reception = await knock(port, await self._world.identity(FRONTEND))
        shown = "none" if reception.certificate is None else reception.certificate.serial_number
        _expect(shown == int(serial, 16), f"orders shows {shown}, its admin listener says {serial}")
        row = await _access_of(self._world.orders, reception)
        _expect(row["rule"] == RULE, f"frontend's identity wasn't let in: {row}")

    async def _show_where_to_look(self) -> None:
        world, screen = self._world, self._screen
        screen.step(7, "Look around")
        for uproxy in (world.frontend, world.orders):
            _expect(await uproxy.shows_status(), f"{uproxy.status_page} doesn't answer")
            screen.done(f"the status page of {uproxy.name}: {uproxy.status_page}")
            screen.fact("configuration", str(uproxy.config_file))


def _way(exchange: Exchange) -> str:
    return f"{exchange.client} ── frontend's uProxy ══ mTLS ══ orders' uProxy ── {exchange.server}"


def _expect(truth: bool, otherwise: str) -> None:
    if not truth:
        raise UproxyError(f"the demonstration failed: {otherwise}")


def _expect_between_us(row: Row) -> None:
    said = (row["src.identity"], row["dst.identity"], row["transport"], row["outcome"])
    _expect(said == (FRONTEND, ORDERS, "mtls", "closed"), f"an access log says {row}")


def _cells(uproxy: Uproxy, row: Row, service: str) -> list[str]:
    who = (str(row[name]).removeprefix("spiffe://") for name in ("src.identity", "dst.identity"))
    # bytes_sent is towards the peer: for an inbound connection that is the answer
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
    """Of our own leaf; empty while there is none."""
    chain = certificate.get("chain") or [{}]
    return str(chain[0].get("serial", ""))


def _read_wire(capture: Capture) -> Conversation:
    """One connection, which has to be what we say of it."""
    seen = read_conversation(bytes(capture.from_client), bytes(capture.from_server))
    server = seen.server
    _expect(server.version == _TLS_1_3, f"the wire carries version {server.version:#06x}")
    _expect(server.share.group == _X25519MLKEM768, f"the group is {server.share.group:#06x}")
    return seen


async def _other_serial(uproxy: Uproxy, old: str) -> str:
    async def look() -> str:
        serial = _serial(await uproxy.own_certificate())
        return "" if serial == old else serial

    return await until_seen(look, f"{uproxy.name}'s uProxy has a new certificate", uproxy)


async def _accesses(uproxy: Uproxy, count: int) -> list[Row]:
    """The first `count` lines of the access log, once they are there."""
    await uproxy.until(lambda: len(uproxy.accesses) >= count, f"{uproxy.name} logs its connections")
    return uproxy.accesses[:count]


async def _access_of(uproxy: Uproxy, reception: Reception) -> Row:
    """The line about one client."""

    def find() -> Row | None:
        return next((r for r in uproxy.accesses if r["src.addr"] == reception.source), None)

    row = await uproxy.until(find, f"{uproxy.name} logs the client {reception.source}")
    assert row is not None  # noqa: S101  `until` waited for it
    return row
