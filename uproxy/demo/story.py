"""The steps of the demonstration, in order; each proves what it says.

    authority → workloads → traffic → wire → refusals → rotation → L7 proxy → (capture) →
    look around

A step prints something after checking it; if a check fails, the story ends with an error.
Rules: what is said about uProxy comes from what others can see too: access logs, the admin
listener, bytes on the wire, and clients with another TLS implementation.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass

from uproxy.demo.apps import Applications, EchoApplications, Exchange
from uproxy.demo.capture_act import CaptureAct
from uproxy.demo.distribution import DistributionApplications
from uproxy.demo.evidence import (
    Row,
    access_of,
    application_of,
    between_us,
    expect,
    port_of,
    read_wire,
    time_left,
    verdict,
)
from uproxy.demo.l7_act import L7Act
from uproxy.demo.rotation import Rotation
from uproxy.demo.screen import Screen
from uproxy.demo.unauthorized import ConnectionResult, connect_to_door
from uproxy.demo.uproxies import UproxyProcess
from uproxy.demo.world import FRONTEND, NAMESAKE, NEWSLETTER, ORDERS, DemoWorld
from uproxy.lab.wire import CIPHERS, GROUPS, VERSIONS

_HEARTBEAT_S = 2.0
"""Seconds between two requests on the open connection."""
_SHORT_CONNECTIONS = 20
"""How many more connections the clients make, so that there is something to share a tunnel."""


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

    def __init__(
        self, world: DemoWorld, screen: Screen, *, real: bool, captures: bool = False
    ) -> None:
        """`real`: use PostgreSQL and nginx instead of the echo; `captures`: tell of capture too."""
        self._world = world
        self._screen = screen
        self._real = real
        self._captures = captures
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
        rows = await self._show_traffic(apps)
        await self._show_wire(rows)
        await self._show_refusals(application_of(apps.servers))
        await self._show_rotation(apps)
        self._session = await apps.open_session(self._world.doors)
        self._world.on_exit(self._session.close)
        await self._show_l7(apps)
        if self._captures:
            self._screen.step(8, "Capture: a client that knows nothing, in a pod of its own")
            await CaptureAct(self._world, self._screen).tell()
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
            expect(again == name, f"the connection was {name}, now it is {again}")

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
            expect(certificate.get("spiffe_id") == spiffe_id, f"{uproxy.name} is {certificate}")
            screen.done(f"{uproxy.name} is {spiffe_id} {time_left(certificate)}")
        screen.fact("orders' policy", f"lets in {FRONTEND} and nobody else")
        return apps

    async def _start_applications(self) -> Applications:
        world, screen = self._world, self._screen
        if not self._real:
            return await world.enter(EchoApplications())
        apps = await world.enter(DistributionApplications(world.folder, screen))
        screen.done("PostgreSQL and nginx run beside orders, on loopback, in the clear")
        return apps

    async def _show_traffic(self, apps: Applications) -> list[Row]:
        """Let the clients use their servers; check both access logs, and return orders'."""
        world, screen = self._world, self._screen
        screen.step(3, "Traffic")
        with screen.waiting("clients talk to their servers"):
            exchanges = await apps.talk(world.doors, self._marker)
        for one in exchanges:
            screen.done(f"{one.client} {one.done}")
            screen.fact("its path", _path(one))
        await self._show_accesses(apps, len(exchanges))
        with screen.waiting("clients call again and again"):
            client = await apps.call(world.doors, _SHORT_CONNECTIONS)
        screen.done(f"{client} called {_SHORT_CONNECTIONS} times more, over a connection each")
        await between_us(world.frontend, len(exchanges) + _SHORT_CONNECTIONS)
        return await between_us(world.orders, len(exchanges) + _SHORT_CONNECTIONS)

    async def _show_accesses(self, apps: Applications, count: int) -> None:
        """Print the first lines of both access logs."""
        screen = self._screen
        screen.note(
            "who talked to whom, from the access logs of both uProxies (bytes sent, and back):"
        )
        services = {port: service for service, port in apps.servers.items()}
        table: list[list[str]] = []
        for uproxy in (self._world.frontend, self._world.orders):
            rows = await between_us(uproxy, count)
            table += [_cells(uproxy, row, services[port_of(row["dst.hbone_addr"])]) for row in rows]
        screen.table(("log of", "who called", "who answered", "for", "sent", "back"), table)

    async def _show_wire(self, rows: list[Row]) -> None:
        """Check TLS of the captured bytes, that the marker isn't in them, and that one tunnel
        carried all connections; `rows` are their lines in orders' access log."""
        world, screen = self._world, self._screen
        screen.step(4, "The wire: a tunnel (HBONE), captured between the two uProxies")
        captures = world.tap.captures
        expect(len(captures) == 1, f"{len(captures)} connections went over the wire, not 1")
        seen = read_wire(captures[0])
        there, back = seen.agreed
        screen.done(
            f"{VERSIONS[seen.server.version]}, {CIPHERS[seen.server.cipher]}; ALPN offers h2 only: "
            "HTTP/2 inside"
        )
        screen.done(
            f"keys agreed with {GROUPS[back.group]} ({back.group:#06x}, hybrid post-quantum): "
            f"{there.size} bytes there, {back.size} back"
        )
        screen.done(
            f"all that follows is encrypted, certificates too: {seen.encrypted_records} records"
        )
        everything = b"\0".join(map(bytes, captures[0].both_ways))
        expect(self._marker.encode() not in everything, "the wire carries it in the clear")
        screen.done(
            f"{self._marker!r} crossed, but isn't in the {len(everything):,} bytes captured"
        )
        await self._show_sharing(rows)

    async def _show_sharing(self, rows: list[Row]) -> None:
        """Check that all connections were streams of one tunnel, by what orders logged, and by the
        handshakes that both uProxies have counted."""
        world, screen = self._world, self._screen
        sources = {row["src.addr"] for row in rows}
        handshakes = [await one.handshakes() for one in (world.frontend, world.orders)]
        expect(len(sources) == 1, f"{len(rows)} connections came from {sorted(sources)}")
        expect(handshakes == [1, 1], f"the uProxies counted {handshakes} handshakes, not one each")
        named = Counter(row["dst.hbone_addr"] for row in rows)
        screen.done(f"one tunnel carried all {len(rows)} connections, each as a stream of it")
        screen.fact("handshakes", "1, as both uProxies count (uproxy_handshakes_total)")
        screen.fact("came from", f"{sources.pop()}, says each of the {len(rows)} lines of orders")
        went = ", ".join(f"{address} ({count})" for address, count in named.items())
        screen.fact("went to", f"{went}, as their CONNECTs say")

    async def _show_refusals(self, application: str) -> None:
        """Check that each unauthorized client is refused as it must be."""
        screen = self._screen
        screen.step(5, "Callers that orders must refuse (pyOpenSSL and h2, not our engine)")
        for client in UNAUTHORIZED_CLIENTS:
            with screen.waiting(f"{client.who} connects"):
                result, row = await self._receive(client, application)
            screen.done(f"refused: {client.who}")
            if client.spiffe_id is not None:
                screen.fact("it is", client.spiffe_id)
            screen.fact("it saw", str(result.refusal))
            screen.fact("orders says", verdict(row))

    async def _receive(
        self, client: UnauthorizedClient, application: str
    ) -> tuple[ConnectionResult, Row]:
        """Return what the client saw and what orders logged; check that it was refused as it
        must be."""
        world, identity = self._world, client.spiffe_id
        svid = None if identity is None else await world.identity(identity)
        result = await connect_to_door(world.tunnel_port, svid, application)
        row = await access_of(world.orders, result)
        expect(result.refusal is not None, f"{client.who} was let in")
        expect(row["outcome"] == client.outcome, f"{client.who} ended as {row}")
        return result, row

    async def _show_rotation(self, apps: Applications) -> None:
        self._screen.step(6, "Identities rotate under a live connection")
        await Rotation(self._world, self._screen, apps).tell()

    async def _show_l7(self, apps: Applications) -> None:
        """Tell of the L7 proxy; check that what is open meanwhile stays open."""
        self._screen.step(7, "An L7 policy for one destination, in a shared Envoy, while all runs")
        name = await self._session.ask()
        act = L7Act(self._world, self._screen, apps.servers)
        if not await act.tell():
            return
        again = await self._session.ask()
        expect(again == name, f"the connection was {name}, now it is {again}")
        self._screen.done(f"a connection that was open all along answers as before: {again}")

    async def _show_where_to_look(self) -> None:
        """Check that the status pages answer; print their addresses."""
        world, screen = self._world, self._screen
        screen.step(8 + self._captures, "Look around")
        for uproxy in (world.frontend, world.orders):
            expect(await uproxy.shows_status(), f"{uproxy.status_page} doesn't answer")
            screen.done(f"the status page of {uproxy.name}: {uproxy.status_page}")
            screen.fact("configuration", str(uproxy.config_file))


def _path(exchange: Exchange) -> str:
    return f"{exchange.client} ── frontend's uProxy ══ HBONE ══ orders' uProxy ── {exchange.server}"


def _cells(uproxy: UproxyProcess, row: Row, service: str) -> list[str]:
    """Return the cells of an access log row for the table."""
    who = (str(row[name]).removeprefix("spiffe://") for name in ("src.identity", "dst.identity"))

    # bytes_sent are bytes to the peer: on an inbound connection these are the answer
    there, back = row["bytes_sent"], row["bytes_recv"]
    if row["direction"] == "inbound":
        there, back = back, there
    return [uproxy.name, *who, service, str(there), str(back)]
