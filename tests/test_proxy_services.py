"""Two doors back to back over the Python engine: an application calls another, through both.

application ── OutboundDoor ══ mutual TLS ══ InboundDoor ── echo
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from tests.helpers.world import ANYBODY, World, credentials, settings, with_crl
from uproxy import sockets
from uproxy.config.settings import (
    DestinationSettings,
    InboundSettings,
    OutboundSettings,
    RuleFrom,
    RuleSettings,
    Settings,
)
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import eventually
from uproxy.model import Direction, Outcome, TcpAddress, Transport
from uproxy.transport.python import PythonEngine

CA = Authority("example.org")
PARTNER = Authority("partner.test")
WEB = CA.issue("/ns/web/sa/frontend")
DB = CA.issue("/ns/db/sa/orders")
ANYWHERE = TcpAddress("127.0.0.1", 0)
NO_WEB = RuleSettings("no-web", "deny", RuleFrom(namespaces=("web",)))


@dataclass
class Pair:
    """`caller` goes out, `callee` lets in; `entrance` is where the application dials."""

    caller: World
    callee: World
    entrance: TcpAddress

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.entrance.host, self.entrance.port)

    async def ask(self, message: bytes) -> bytes:
        """The echo; empty if the connection was refused."""
        reader, writer = await self.dial()
        try:
            writer.write(message)
            writer.write_eof()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    def told(self) -> tuple[list[Outcome], list[Outcome]]:
        """The outcomes in both access logs."""
        here = [record.outcome for record in self.caller.records]
        return here, [record.outcome for record in self.callee.records]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
        writer.write_eof()
    except ConnectionError:
        writer.transport.abort()
    finally:
        writer.close()


def listening(engine: PythonEngine, here: World) -> TcpAddress:
    """Open its only door, which follows every new snapshot."""
    listener = sockets.listen(ANYWHERE)
    host, port = listener.getsockname()
    here.listening[ANYWHERE] = engine.open(listener, here.door())
    return TcpAddress(host, port)


def outbound_settings(to: TcpAddress, expected: str) -> Settings:
    destination = DestinationSettings("db", (to,), Transport.MTLS, (expected,))
    return settings(outbound=(OutboundSettings(ANYWHERE, "db"),), destinations={"db": destination})


@asynccontextmanager
async def pair(
    *rules: RuleSettings, expected: str = DB.spiffe_id, caller: World | None = None
) -> AsyncIterator[Pair]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    app = TcpAddress(*server.sockets[0].getsockname())
    engine = PythonEngine()
    door = InboundSettings("api", ANYWHERE, Transport.MTLS, app)
    callee = World(settings(*rules, inbound=(door,)), credentials(DB, CA), now=CA.now)
    exit_ = listening(engine, callee)
    out = outbound_settings(exit_, expected)
    caller = World(out, credentials(WEB, CA) if caller is None else caller.credentials, now=CA.now)
    entrance = listening(engine, caller)
    for each in (caller, callee):
        await each.connections.start()
    try:
        yield Pair(caller, callee, entrance)
    finally:
        await engine.stop()
        for each in (caller, callee):
            await each.connections.stop()
        server.close()
        await server.wait_closed()


async def finished(both: Pair, here: Outcome, there: Outcome) -> None:
    await eventually(lambda: both.told() == ([here], [there]), f"{here} and {there} in the logs")


async def test_an_allowed_caller_reaches_the_application_and_both_sides_know_whom() -> None:
    async with pair(ANYBODY) as both:
        assert await both.ask(b"x" * 100_000) == b"x" * 100_000
        await finished(both, Outcome.CLOSED, Outcome.CLOSED)
        for here in (both.caller, both.callee):
            fields = dict(here.records[0].fields)
            assert fields["src.identity"] == WEB.spiffe_id
            assert fields["dst.identity"] == DB.spiffe_id
            assert fields["bytes_sent"] == fields["bytes_recv"] == 100_000
            assert here.metric("istio_tcp_received_bytes_total") == 100_000
            assert here.metric("uproxy_handshakes_total", version="TLSv1.3") == 1
            assert len(here.connections) == 0
        destination = both.caller.endpoints(Direction.OUTBOUND, "db")
        assert destination.connections == {}


async def test_a_denied_caller_reaches_nothing() -> None:
    async with pair() as both:
        assert await both.ask(b"hello") == b""
        await eventually(lambda: both.callee.records, "the callee's log")
        fields = dict(both.callee.records[0].fields)
        assert fields["outcome"] == "denied"
        assert fields["src.identity"] == WEB.spiffe_id
        assert str(fields["error"]).startswith(f"no rule allows {WEB.spiffe_id} to port")
        assert both.callee.metric("istio_tcp_received_bytes_total") == 0


async def test_a_peer_with_another_identity_gets_no_byte() -> None:
    async with pair(ANYBODY, expected="spiffe://example.org/ns/db/sa/other") as both:
        assert await both.ask(b"secret") == b""
        await eventually(lambda: both.caller.records, "the caller's log")
        fields = dict(both.caller.records[0].fields)
        assert fields["outcome"] == "peer_unexpected"
        assert fields["bytes_sent"] == 0
        assert both.callee.metric("istio_tcp_received_bytes_total") == 0
        destination = both.caller.endpoints(Direction.OUTBOUND, "db")
        addresses = both.caller.snapshot.destinations["db"].addresses
        [endpoint] = destination.status(addresses, 0.0)
        assert endpoint.passed_over
        reason = {"direction": "outbound", "reason": "peer_unexpected"}
        assert both.caller.metric("uproxy_handshake_failures_total", **reason) == 1
        assert DB.spiffe_id in str(endpoint.reason)


async def test_a_caller_of_a_domain_nobody_believes_is_untrusted() -> None:
    cart = PARTNER.issue("/ns/shop/sa/cart")
    stranger = World(settings(), credentials(cart, CA, PARTNER), now=CA.now)
    async with pair(ANYBODY, caller=stranger) as both:
        assert await both.ask(b"hello") == b""
        await eventually(lambda: both.callee.records, "the callee's log")
        fields = dict(both.callee.records[0].fields)
        assert (fields["outcome"], fields["rule"]) == ("peer_untrusted", "X5-17")
        assert both.callee.metric("uproxy_handshake_failures_total", rule="X5-17") == 1


async def test_a_policy_that_changes_cuts_a_living_connection() -> None:
    async with pair(ANYBODY) as both:
        reader, writer = await both.dial()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        changed = replace(both.callee.settings, authorization=(ANYBODY, NO_WEB))
        both.callee.configure(changed)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        await eventually(lambda: both.callee.records, "the callee's log")
        fields = dict(both.callee.records[0].fields)
        assert (fields["outcome"], fields["rule"]) == ("policy_changed", "no-web")
        assert fields["bytes_recv"] == 5
        writer.close()


async def test_a_rotation_and_a_revocation_under_a_living_connection() -> None:
    async with pair(ANYBODY) as both:
        reader, writer = await both.dial()
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        both.callee.believe(credentials(CA.issue("/ns/db/sa/orders"), CA))
        assert await both.ask(b"new") == b"new"
        writer.write(b"two")
        assert await reader.readexactly(3) == b"two"
        both.callee.believe(with_crl(both.callee.credentials, CA, WEB))
        await eventually(lambda: len(both.callee.records) == 2, "the connection to be cut")
        assert dict(both.callee.records[1].fields)["outcome"] == "identity_distrusted"
        assert await both.ask(b"again") == b""
        writer.close()
