"""Mutual TLS, in both roles, against a peer that isn't ours (pyOpenSSL)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from OpenSSL import SSL

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route, verifier
from tests.helpers.hostile_client import ALERT, APPLICATION_DATA, TLS_1_2, TLS_1_3, HostileServer
from tests.helpers.streams import Stream, Upstream, listening
from tests.helpers.tls_streams import TlsStream
from uproxy import sockets
from uproxy.contract import Candidate, Engine, PeerSvid, Refusal, RefusedError, Route, Tls
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.model import (
    Address,
    Direction,
    Limits,
    Outcome,
    Role,
    TcpAddress,
    Timeouts,
    TlsSettings,
)
from uproxy.proxy.services import PER_PEER
from uproxy.tlswords import UNASKED
from uproxy.transport import failures

engine = engines.engine

MIB = 1 << 20
HANDSHAKE_FAILURE, UNKNOWN_CA = 40, 48
"""Alerts (RFC 8446 §6)."""
OURS = Authority("example.org")
STRANGERS = Authority("stranger.test")
US = OURS.issue("/ns/shop/sa/orders")
REFUSED = "the peer refused our certificate (unknown ca): it may lack a bundle for example.org"
PEER = OURS.issue("/ns/web/sa/frontend")


class Inbound:
    """An inbound mTLS door with its application behind it."""

    def __init__(self, door: RecordingDoor, application: Upstream, address: Address) -> None:
        self.door = door
        self.application = application
        self.address = address

    async def call(self, shows: Issued | None = PEER, **how: object) -> TlsStream:
        """A peer that has finished its side of the handshake."""
        stream = TlsStream(await Stream.connect(self.address), shows, **how)  # type: ignore[arg-type]  # passed through
        await stream.handshake()
        return stream

    async def relay(self, **how: object) -> tuple[TlsStream, Stream]:
        """Both ends of an open connection."""
        before = len(self.door.opened_)
        peer = await self.call(**how)  # type: ignore[arg-type]  # passed through
        there = await self.application.accept()
        await self.door.connection(before + 1)
        return peer, there


@asynccontextmanager
async def inbound(
    engine: Engine, *, alpn: tuple[str, ...] = (), **timeouts: float
) -> AsyncIterator[Inbound]:
    limits = Timeouts(**timeouts)
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS), alpn=alpn)
    async with listening() as application:
        there = route(application.address, timeouts=limits)
        door = RecordingDoor(Direction.INBOUND, there, ours, limits)
        async with open_door(engine, door) as address:
            yield Inbound(door, application, address)


@asynccontextmanager
async def outbound(
    engine: Engine, *addresses: Address, alpn: tuple[str, ...] = (), **timeouts: float
) -> AsyncIterator[tuple[RecordingDoor, Address]]:
    limits = Timeouts(**timeouts)
    tls = plan(Role.CLIENT, US, verifier(Role.SERVER, OURS), alpn=alpn)
    door = RecordingDoor(Direction.OUTBOUND, route(*addresses, tls=tls, timeouts=limits))
    async with open_door(engine, door) as address:
        yield door, address


async def answer(upstream: Upstream, shows: Issued = PEER, **how: object) -> TlsStream:
    """An upstream peer that has finished its side of the handshake."""
    stream = TlsStream(await upstream.accept(), shows, server=True, **how)  # type: ignore[arg-type]  # passed through
    await stream.handshake()
    return stream


# Handshakes.


async def test_a_trusted_caller_is_admitted_under_its_identity(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer, there = await here.relay(root=OURS.root)
        await peer.send(b"hello")
        assert await there.receive_exactly(5) == b"hello"
        connection = await here.door.connection()
        assert connection.peer is not None
        assert connection.peer.spiffe_id == "spiffe://example.org/ns/web/sa/frontend"
        assert connection.peer.chain == PEER.der
        assert here.door.arrivals[0].peer == connection.peer
        assert connection.arrival.peer == connection.peer
        assert here.door.arrivals[0].tls is here.door.downstream_tls
        await eventually(lambda: connection.arrival.tls is None, "the plan to be forgotten")
        assert connection.tls is not None
        assert connection.tls.version == "TLSv1.3"
        assert connection.tls.cipher == "TLS_AES_128_GCM_SHA256"
        assert connection.tls.group == "X25519MLKEM768"
        assert 0 < connection.tls.duration < 5


@pytest.mark.parametrize("leads", ["to the same place", "elsewhere"])
async def test_a_handshake_is_kept_if_the_door_that_came_meanwhile_leads_to_the_same_place(
    engine: Engine, leads: str
) -> None:
    async with (
        listening() as upstream,
        listening() as other,
        outbound(engine, upstream.address) as (old, address),
    ):
        downstream = await Stream.connect(address)
        peer = TlsStream(await upstream.accept(), PEER, server=True)
        assert old.listener is not None
        assert isinstance(old.answer, Route)
        there = upstream if leads == "to the same place" else other
        moved = replace(old.answer, candidates=route(there.address).candidates)
        old.listener.replace(new := RecordingDoor(Direction.OUTBOUND, moved))
        await peer.handshake()
        if there is other:
            peer = await answer(other)
        await downstream.send(b"x")
        assert await peer.receive_exactly(1) == b"x"
        assert (await new.connection()).dialled == there.address
        assert len(new.arrivals) == 1
        for each in (upstream, other):
            with pytest.raises(BlockingIOError):
                each.socket.accept()


async def test_each_candidate_is_told_its_own_name(engine: Engine) -> None:
    """The first one's handshake fails, the second's doesn't; whoever comes later meets a third
    without a name."""
    tls = plan(Role.CLIENT, US, verifier(Role.SERVER, OURS))
    async with listening() as first, listening() as second:
        named = (("one.test", first), ("two.test", second))
        candidates = tuple(
            Candidate("there", (upstream.address,), name) for name, upstream in named
        )
        door = RecordingDoor(Direction.OUTBOUND, Route("there", candidates, Tls(tls), Timeouts()))
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            refused = TlsStream(await first.accept(), STRANGERS.issue("/a"), server=True)
            with pytest.raises(SSL.Error, match="unknown ca"):
                await refused.handshake()
            assert refused.tls.get_servername() == b"one.test"
            there = await answer(second)
            assert there.tls.get_servername() == b"two.test"
            downstream.close()


@pytest.mark.parametrize("name", ["there.test", None])
@pytest.mark.parametrize("races", [False, True])
async def test_every_connection_to_an_endpoint_is_told_its_name(
    engine: Engine, name: str | None, races: bool
) -> None:
    tls = plan(Role.CLIENT, US, verifier(Role.SERVER, OURS))
    async with listening() as upstream:
        addresses = (upstream.address, TcpAddress("127.0.0.2", 1)) if races else (upstream.address,)
        scope = None if races else PER_PEER
        there = Route(
            "t", (Candidate("t", addresses, name),), Tls(tls), Timeouts(), cache_scope=scope
        )
        door = RecordingDoor(Direction.OUTBOUND, there)
        async with open_door(engine, door) as address:
            for count in (1, 2):
                downstream = await Stream.connect(address)
                peer = await answer(upstream)
                assert peer.tls.get_servername() == (None if name is None else name.encode())
                await door.connection(count)
                downstream.close()


async def test_the_answering_peer_is_verified_before_anything_is_sent(engine: Engine) -> None:
    async with listening() as upstream, outbound(engine, upstream.address) as (door, address):
        downstream = await Stream.connect(address)
        await downstream.send(b"question")
        there = await answer(upstream, root=OURS.root)
        assert await there.receive_exactly(8) == b"question"
        await there.send(b"reply")
        assert await downstream.receive_exactly(5) == b"reply"
        connection = await door.connection()
        assert connection.peer is not None
        assert connection.peer.spiffe_id == PEER.spiffe_id
        assert door.attempts == [(str(upstream.address), None)]


async def test_our_chain_is_sent_with_intermediates_and_without_the_root(engine: Engine) -> None:
    shows = OURS.intermediate().issue("/ns/shop/sa/orders")
    ours = plan(Role.SERVER, shows, verifier(Role.CLIENT, OURS))
    door = RecordingDoor(Direction.INBOUND, Refusal(Outcome.DENIED, "no"), ours)
    async with open_door(engine, door) as address:
        peer = TlsStream(await Stream.connect(address), PEER, root=OURS.root)
        await peer.handshake()
        chain = peer.tls.get_peer_cert_chain(as_cryptography=True)
    assert chain == list(shows.chain)


async def test_a_peer_that_shows_intermediates_is_verified_through_them(engine: Engine) -> None:
    shows = OURS.intermediate().intermediate().issue("/ns/deep/sa/caller")
    async with inbound(engine) as here:
        peer, there = await here.relay(shows=shows)
        await peer.send(b"x")
        assert await there.receive() == b"x"
        assert here.door.arrivals[0].peer is not None
        assert here.door.arrivals[0].peer.spiffe_id == shows.spiffe_id


async def shake_and_hear(peer: TlsStream) -> None:
    """In TLS 1.3 a refusal comes when the handshake has ended for the client."""
    await peer.handshake()
    await peer.receive()


YESTERDAY = datetime.now(UTC) - timedelta(days=1)
EXPIRED = OURS.issue(not_before=YESTERDAY - timedelta(days=1), not_after=YESTERDAY)
BAD_CALLERS = [
    pytest.param(STRANGERS.issue(), "unknown ca", id="another trust domain"),
    pytest.param(EXPIRED, "certificate expired", id="expired"),
    pytest.param(OURS.issue(forged=True), "unknown ca|bad certificate", id="forged"),
    pytest.param(OURS.issue(without_san=True), "bad certificate", id="no SPIFFE ID"),
]


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize(("shows", "alert"), BAD_CALLERS)
async def test_a_bad_caller_is_refused_with_the_alert_that_fits(
    engine: Engine, shows: Issued, alert: str, version: int
) -> None:
    from uproxy.model import TlsSettings

    settings = TlsSettings(min_version="1.2")
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS), settings=settings)
    door = RecordingDoor(Direction.INBOUND, Refusal(Outcome.DENIED, "no"), ours)
    async with open_door(engine, door) as address:
        peer = TlsStream(await Stream.connect(address), shows, version=version)
        with pytest.raises(SSL.Error, match="alert (" + alert + ")"):
            await shake_and_hear(peer)
        peer.stream.close()
        ending = await door.ending()
    assert (ending.outcome, ending.state) == (Outcome.PEER_UNTRUSTED, State.HANDSHAKING_DOWNSTREAM)
    assert ending.rule
    assert ending.reason
    assert not door.arrivals


async def test_the_alert_is_readable_though_the_peer_has_already_sent_its_request(
    engine: Engine,
) -> None:
    async with inbound(engine) as here:
        peer = await here.call(STRANGERS.issue())
        for _ in range(20):
            await peer.send(bytes(16 * 1024))
        with pytest.raises(SSL.Error, match="unknown ca"):
            await peer.receive()
        # not every TCP lets one read past a reset, so there must be none
        assert not await peer.stream.is_reset()
        peer.stream.close()
        assert (await here.door.ending()).outcome is Outcome.PEER_UNTRUSTED


async def test_a_caller_without_a_certificate_is_refused(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await here.call(None)
        with pytest.raises(SSL.Error, match="certificate required"):
            await peer.receive()
        peer.stream.close()
        ending = await here.door.ending()
    assert ending.outcome is Outcome.HANDSHAKE_FAILED
    assert ending.reason == "the peer showed no certificate"


async def test_a_bad_answerer_hears_why_and_gets_no_byte(engine: Engine) -> None:
    async with listening() as upstream, outbound(engine, upstream.address) as (door, address):
        downstream = await Stream.connect(address)
        await downstream.send(b"secret")
        there = TlsStream(await upstream.accept(), STRANGERS.issue(), server=True)
        with pytest.raises(SSL.Error, match="unknown ca"):
            await there.handshake()
        assert await downstream.is_reset()
        ending = await door.ending()
    assert (ending.outcome, ending.state) == (Outcome.PEER_UNTRUSTED, State.HANDSHAKING_UPSTREAM)
    assert (ending.bytes_sent, ending.bytes_received) == (0, 0)
    ((endpoint, failure),) = door.attempts
    assert endpoint == str(upstream.address)
    assert failure is not None
    assert failure.outcome is Outcome.PEER_UNTRUSTED


@pytest.mark.parametrize("how", ["speaks something else", "is cut"])
async def test_whoever_was_dialled_is_known_though_its_handshake_comes_to_nothing(
    engine: Engine, how: str
) -> None:
    async with listening() as upstream, outbound(engine, upstream.address) as (door, address):
        downstream = await Stream.connect(address)
        there = await upstream.accept()
        await there.receive()  # the ClientHello
        if how == "is cut":
            await engine.stop()
        else:
            await there.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert await downstream.is_reset()
        ending = await door.ending()
    ((connection, _),) = door.endings
    assert ending.state is State.HANDSHAKING_UPSTREAM
    assert connection.dialled == upstream.address


async def test_an_unexpected_identity_passes_on_to_the_next_candidate(engine: Engine) -> None:
    judge = verifier(Role.SERVER, OURS)
    wanted = OURS.issue("/ns/db/sa/orders")

    def verify(chain: tuple[bytes, ...]) -> PeerSvid:
        peer = judge(chain)
        if peer.spiffe_id != wanted.spiffe_id:
            raise RefusedError(Refusal(Outcome.PEER_UNEXPECTED, f"{peer.spiffe_id} isn't wanted"))
        return peer

    async with listening() as first, listening() as second:
        tls = plan(Role.CLIENT, US, verify)
        door = RecordingDoor(Direction.OUTBOUND, route(first.address, second.address, tls=tls))
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            await downstream.send(b"for the right one")
            wrong = TlsStream(await first.accept(), PEER, server=True)
            with pytest.raises(SSL.Error, match="certificate unknown"):
                await wrong.handshake()
            right = await answer(second, wanted)
            assert await right.receive_exactly(17) == b"for the right one"
            connection = await door.connection()
    assert connection.endpoint == str(second.address)
    assert [endpoint for endpoint, _ in door.attempts] == [str(first.address), str(second.address)]
    assert door.attempts[0][1] == Refusal(Outcome.PEER_UNEXPECTED, f"{PEER.spiffe_id} isn't wanted")


async def test_a_server_that_refuses_us_after_our_handshake_is_a_failed_handshake(
    engine: Engine,
) -> None:
    """In TLS 1.3 its alert comes when the handshake has ended for us."""
    async with listening() as upstream, outbound(engine, upstream.address) as (door, address):
        downstream = await Stream.connect(address)
        there = TlsStream(await upstream.accept(), PEER, server=True, root=STRANGERS.root)
        with pytest.raises(SSL.Error, match="certificate verify failed"):
            await there.handshake()
        there.stream.close()
        assert await downstream.is_reset()
        ending = await door.ending()
    assert ending.outcome is Outcome.HANDSHAKE_FAILED
    assert ending.reason == REFUSED


async def test_that_refusal_is_found_behind_the_reset_that_sending_runs_into(
    engine: Engine,
) -> None:
    async with listening() as upstream, outbound(engine, upstream.address) as (door, address):
        downstream = await Stream.connect(address)
        there = TlsStream(await upstream.accept(), PEER, server=True, root=STRANGERS.root)
        pushing = asyncio.create_task(downstream.send(bytes(32 * MIB)))
        with pytest.raises(SSL.Error, match="certificate verify failed"):
            await there.handshake()
        there.stream.close()  # with bytes unread: a reset on the alert's heels
        ending = await door.ending()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await pushing
    assert ending.outcome is Outcome.HANDSHAKE_FAILED
    assert ending.reason == REFUSED


@pytest.mark.parametrize("said", [b"", b"a question"])
@pytest.mark.parametrize("how", ["reset", "truncate"])
async def test_a_server_that_cuts_before_its_first_byte_has_probably_refused_us(
    engine: Engine, how: str, said: bytes
) -> None:
    async with listening() as upstream, outbound(engine, upstream.address) as (door, address):
        downstream = await Stream.connect(address)
        await downstream.send(said)
        there = await answer(upstream)
        await door.connection()
        there.stream.reset() if how == "reset" else there.truncate()
        assert await downstream.is_reset()
        ending = await door.ending()
    assert ending.outcome is Outcome.PEER_REFUSED
    assert str(ending.reason).endswith(
        " before its first byte, probably refused there: its log says why"
    )


async def test_a_server_that_has_answered_before_it_cuts_refuses_nobody(engine: Engine) -> None:
    async with listening() as upstream, outbound(engine, upstream.address) as (door, address):
        downstream = await Stream.connect(address)
        there = await answer(upstream)
        await there.send(b"!")
        assert await downstream.receive_exactly(1) == b"!"
        there.stream.reset()
        ending = await door.ending()
    assert (ending.outcome, ending.reason) == (Outcome.RESET, "reset by the peer")


async def test_a_server_that_cuts_late_refuses_nobody(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "REFUSED_WITHIN_S", 0.0)
    async with listening() as upstream, outbound(engine, upstream.address) as (door, address):
        await Stream.connect(address)
        there = await answer(upstream)
        await door.connection()
        there.stream.reset()
        ending = await door.ending()
    assert (ending.outcome, ending.reason) == (Outcome.RESET, "reset by the peer")


async def test_an_application_that_resets_is_refused_by_nobody(engine: Engine) -> None:
    async with listening() as upstream, outbound(engine, upstream.address) as (door, address):
        downstream = await Stream.connect(address)
        await answer(upstream)
        await door.connection()
        downstream.reset()
        ending = await door.ending()
    assert (ending.outcome, ending.reason) == (Outcome.RESET, "reset by the application")


async def test_a_caller_that_cuts_before_its_first_byte_refuses_nobody(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer, _there = await here.relay()
        peer.stream.reset()
        ending = await here.door.ending()
    assert (ending.outcome, ending.reason) == (Outcome.RESET, "reset by the peer")


async def test_somebody_who_does_not_speak_tls_is_told_apart(engine: Engine) -> None:
    async with inbound(engine) as here:
        for said, reason in (
            (b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n", "plain HTTP where TLS was expected"),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "the other side doesn't speak TLS"),
        ):
            stream = await Stream.connect(here.address)
            await stream.send(said)
            await stream.is_reset()
            stream.close()
            await eventually(lambda: here.door.endings, "an ending")
            ending = here.door.endings.pop()[1]
            assert (ending.outcome, ending.reason) == (Outcome.HANDSHAKE_FAILED, reason)


async def test_an_upstream_side_that_does_not_speak_tls_fails_the_handshake(engine: Engine) -> None:
    async with listening() as upstream, outbound(engine, upstream.address) as (door, address):
        downstream = await Stream.connect(address)
        there = await upstream.accept()
        await there.send(b"220 mail.example.org ESMTP\r\n")
        assert await downstream.is_reset()
        ending = await door.ending()
    assert ending.outcome is Outcome.HANDSHAKE_FAILED
    assert ending.reason == "the other side doesn't speak TLS"


@pytest.mark.parametrize("goes", ["close", "reset", "finish"])
async def test_who_connects_and_goes_without_a_byte_is_a_probe(engine: Engine, goes: str) -> None:
    async with inbound(engine) as here:
        stream = await Stream.connect(here.address)
        getattr(stream, goes)()
        ending = await here.door.ending()
    assert ending.outcome is Outcome.PROBED
    assert ending.reason == "the peer closed without a ClientHello"


@pytest.mark.parametrize("goes", ["close", "reset"])
async def test_half_a_hello_is_no_probe(engine: Engine, goes: str) -> None:
    async with inbound(engine) as here:
        stream = await Stream.connect(here.address)
        await stream.send(b"\x16\x03\x01")
        getattr(stream, goes)()
        ending = await here.door.ending()
    assert ending.outcome is Outcome.HANDSHAKE_FAILED


async def test_silence_until_the_deadline_is_no_probe(engine: Engine) -> None:
    """Whoever waits for our first word doesn't speak TLS, as a client of MySQL: to be told."""
    async with inbound(engine, handshake=0.1) as here:
        await Stream.connect(here.address)
        assert (await here.door.ending()).outcome is Outcome.TIMED_OUT


# While there is no identity.


NO_SVID = Refusal(Outcome.NO_IDENTITY, "no identity yet")


@asynccontextmanager
async def without_identity(engine: Engine, **timeouts: float) -> AsyncIterator[Inbound]:
    """An inbound mTLS door that has no SVID yet, with its application behind it."""
    limits = Timeouts(**timeouts)
    async with listening() as application:
        there = route(application.address, timeouts=limits)
        door = RecordingDoor(Direction.INBOUND, there, NO_SVID, limits)
        async with open_door(engine, door) as address:
            yield Inbound(door, application, address)


def identity_comes(door: RecordingDoor) -> None:
    door.downstream_tls = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    door.ask_again()


async def is_waited_for(here: Inbound) -> None:
    """Return when whoever connected before has been accepted: this one was, behind it."""
    stream = await Stream.connect(here.address)
    await stream.send(b"\x16")
    assert await stream.is_reset()
    assert (await here.door.ending()).outcome is Outcome.NO_IDENTITY
    here.door.endings.clear()


@pytest.mark.parametrize("goes", ["close", "reset", "finish"])
async def test_without_identity_too_who_goes_without_a_byte_is_a_probe(
    engine: Engine, goes: str
) -> None:
    async with without_identity(engine) as here:
        stream = await Stream.connect(here.address)
        await is_waited_for(here)
        getattr(stream, goes)()
        ending = await here.door.ending()
    assert (ending.outcome, ending.state) == (Outcome.PROBED, State.HANDSHAKING_DOWNSTREAM)
    assert ending.reason == "the peer closed without a ClientHello"


async def test_a_probe_that_has_gone_before_it_is_accepted_is_one_too(engine: Engine) -> None:
    async with without_identity(engine) as here:
        for _ in range(5):
            (await Stream.connect(here.address)).close()
        await here.door.ending(5)
    assert {ending.outcome for _, ending in here.door.endings} == {Outcome.PROBED}


@pytest.mark.parametrize("goes", ["close", "reset", "finish", "stay"])
@pytest.mark.parametrize("said", [b"\x16", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"])
async def test_without_identity_the_first_byte_is_refused(
    engine: Engine, goes: str, said: bytes
) -> None:
    async with without_identity(engine) as here:
        stream = await Stream.connect(here.address)
        await stream.send(said)
        if goes == "stay":
            assert await stream.is_reset()
        else:
            getattr(stream, goes)()
        ending = await here.door.ending()
        assert here.door.arrivals == []
    assert (ending.outcome, ending.state) == (Outcome.NO_IDENTITY, State.HANDSHAKING_DOWNSTREAM)
    assert ending.reason == NO_SVID.reason


async def test_the_refusal_is_the_one_of_the_moment_when_the_byte_comes(engine: Engine) -> None:
    async with without_identity(engine) as here:
        stream = await Stream.connect(here.address)
        await is_waited_for(here)
        here.door.downstream_tls = Refusal(Outcome.NO_IDENTITY, "the agent has no entry for us")
        here.door.ask_again()
        await stream.send(b"\x16")
        ending = await here.door.ending()
    assert ending.reason == "the agent has no entry for us"


async def test_without_identity_silence_has_the_deadline_of_a_handshake(engine: Engine) -> None:
    async with without_identity(engine, handshake=0.2) as here:
        silent = await Stream.connect(here.address)
        assert await silent.is_reset()
        ending = await here.door.ending()
    assert (ending.outcome, ending.state) == (Outcome.TIMED_OUT, State.HANDSHAKING_DOWNSTREAM)
    assert (
        ending.reason == "the peer didn't finish the handshake in 0.2 s: is it frozen, or far away?"
    )
    assert 0.2 <= ending.duration < 1


async def test_an_identity_that_comes_serves_who_is_waiting_with_its_hello(engine: Engine) -> None:
    async with without_identity(engine) as here:
        stream = await Stream.connect(here.address)
        await is_waited_for(here)
        identity_comes(here.door)
        peer = TlsStream(stream, PEER, root=OURS.root)
        await peer.handshake()
        await peer.send(b"hello")
        assert await (await here.application.accept()).receive_exactly(5) == b"hello"
        connection = await here.door.connection()
        assert connection.peer is not None
        assert connection.peer.spiffe_id == "spiffe://example.org/ns/web/sa/frontend"


async def test_an_identity_that_comes_leaves_the_deadline_as_it_was(engine: Engine) -> None:
    """Half a ClientHello after the identity has come doesn't begin another one."""
    async with without_identity(engine, handshake=1.0) as here:
        stream = await Stream.connect(here.address)
        await is_waited_for(here)
        await asyncio.sleep(0.6)  # most of its time
        identity_comes(here.door)
        await stream.send(b"\x16\x03\x01")
        ending = await here.door.ending()
    assert ending.outcome is Outcome.TIMED_OUT
    assert 1.0 <= ending.duration < 1.4


async def test_a_probe_is_one_though_an_identity_has_come_meanwhile(engine: Engine) -> None:
    async with without_identity(engine) as here:
        stream = await Stream.connect(here.address)
        await is_waited_for(here)
        identity_comes(here.door)
        stream.close()
        assert (await here.door.ending()).outcome is Outcome.PROBED


async def test_who_waits_at_a_door_that_becomes_plaintext_is_relayed_all_it_sends(
    engine: Engine,
) -> None:
    engine.set_limits(Limits(connections=2))
    async with without_identity(engine) as here:
        stream = await Stream.connect(here.address)
        await is_waited_for(here)
        here.door.downstream_tls = None
        here.door.ask_again()
        await stream.send(b"hello")
        there = await here.application.accept()
        assert await there.receive_exactly(5) == b"hello"
        await Stream.connect(here.address)
        await here.door.connection(2)
        assert await (await Stream.connect(here.address)).is_reset()  # nobody is evicted for it
        await there.send(b"hello yourself")
        assert await stream.receive_exactly(14) == b"hello yourself"


async def test_who_waits_at_a_door_that_is_taken_away_is_told_so(engine: Engine) -> None:
    async with without_identity(engine) as here:
        stream = await Stream.connect(here.address)
        await is_waited_for(here)
        assert here.door.listener is not None
        here.door.listener.replace(None)
        await stream.send(b"\x16")
        assert (await here.door.ending()).outcome is Outcome.POLICY_CHANGED


async def test_when_full_who_waits_without_identity_makes_room(engine: Engine) -> None:
    engine.set_limits(Limits(connections=2))
    async with without_identity(engine) as here:
        silent = await Stream.connect(here.address)
        await is_waited_for(here)
        identity_comes(here.door)
        await here.relay(root=OURS.root)
        await here.relay(root=OURS.root)
        assert await silent.is_reset()
        ending = await here.door.ending()
    assert (ending.outcome, ending.state) == (Outcome.LIMIT, State.HANDSHAKING_DOWNSTREAM)
    assert ending.reason == "silent for the longest when connections were full"


async def test_an_svid_that_openssl_refuses_is_told_to_callers_and_not_to_probes(
    engine: Engine,
) -> None:
    """As without any: nobody can shake hands."""
    wrong = Issued(US.chain, PEER.key)
    async with without_identity(engine) as here:
        here.door.downstream_tls = plan(Role.SERVER, wrong, verifier(Role.CLIENT, OURS))
        here.door.ask_again()
        (await Stream.connect(here.address)).close()
        assert (await here.door.ending()).outcome is Outcome.PROBED
        caller = TlsStream(await Stream.connect(here.address), PEER)
        with pytest.raises((EOFError, ConnectionResetError)):
            await caller.handshake()
        caller.stream.close()
        ending = await here.door.ending(2)
    assert ending.outcome is Outcome.HANDSHAKE_FAILED
    assert ending.reason == "OpenSSL refused our key: key values mismatch"


async def test_a_handshake_has_a_deadline_on_either_side(engine: Engine) -> None:
    async with inbound(engine, handshake=0.2) as here:
        silent = await Stream.connect(here.address)
        assert await silent.is_reset()
        ending = await here.door.ending()
        assert (ending.outcome, ending.state) == (Outcome.TIMED_OUT, State.HANDSHAKING_DOWNSTREAM)
    async with (
        listening() as upstream,
        outbound(engine, upstream.address, handshake=0.2) as (door, address),
    ):
        downstream, _there = await Stream.connect(address), await upstream.accept()
        assert await downstream.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.state) == (Outcome.TIMED_OUT, State.HANDSHAKING_UPSTREAM)
        assert (
            ending.reason
            == "the peer didn't finish the handshake in 0.2 s: is it frozen, or far away?"
        )


async def test_a_denied_peer_is_reset_behind_its_handshake(engine: Engine) -> None:
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    door = RecordingDoor(Direction.INBOUND, Refusal(Outcome.DENIED, "no rule", "web"), ours)
    async with open_door(engine, door) as address:
        peer = TlsStream(await Stream.connect(address), PEER)
        await peer.handshake()
        with pytest.raises(ConnectionResetError):
            await peer.receive()
        assert (await door.ending()).outcome is Outcome.DENIED


async def test_a_verifier_with_a_defect_lets_nobody_in(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def verify(_chain: tuple[bytes, ...]) -> PeerSvid:
        raise RuntimeError("a defect of the verifier")

    door = RecordingDoor(
        Direction.INBOUND, Refusal(Outcome.DENIED, "no"), plan(Role.SERVER, US, verify)
    )
    async with open_door(engine, door) as address:
        peer = TlsStream(await Stream.connect(address), PEER)
        await peer.handshake()
        with pytest.raises((SSL.Error, ConnectionResetError)):
            await peer.receive()
        peer.stream.close()
        ending = await door.ending()
    assert ending.outcome is Outcome.RESET
    assert not door.arrivals
    assert "a defect of the verifier" in caplog.text


async def test_alpn_is_agreed_when_both_name_it(engine: Engine) -> None:
    async with inbound(engine, alpn=("h2", "http/1.1")) as here:
        peer, _there = await here.relay(alpn=("http/1.1", "h2"))
        assert peer.tls.get_alpn_proto_negotiated() == b"h2"


async def test_alpn_with_nothing_in_common_is_refused_with_its_alert(engine: Engine) -> None:
    async with inbound(engine, alpn=("h2",)) as here:
        with pytest.raises(SSL.Error, match="no application protocol"):
            await here.call(alpn=("spdy",))
        assert (await here.door.ending()).outcome is Outcome.HANDSHAKE_FAILED


async def test_a_caller_that_names_no_protocol_passes_an_alpn_door(engine: Engine) -> None:
    async with inbound(engine, alpn=("h2",)) as here:
        peer, _there = await here.relay()
        assert peer.tls.get_alpn_proto_negotiated() == b""


# Closing a door.


async def test_closing_a_door_waits_until_every_arrival_is_admitted_or_refused(
    engine: Engine,
) -> None:
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    door = RecordingDoor(Direction.INBOUND, Refusal(Outcome.DENIED, "no"), ours)
    listener = sockets.listen(TcpAddress("127.0.0.1", 0))
    opened = engine.open(listener, door)
    slow = TlsStream(await Stream.connect(TcpAddress(*listener.getsockname())), PEER)
    closing = [asyncio.create_task(opened.close()) for _ in range(2)]
    await eventually(lambda: listener.fileno() == -1, "the listener is closed")
    assert not any(task.done() for task in closing)
    await slow.handshake()
    await asyncio.gather(*closing)
    assert len(door.arrivals) == 1


async def test_who_waits_no_longer_for_a_door_to_close_keeps_nobody_else_waiting(
    engine: Engine,
) -> None:
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    door = RecordingDoor(Direction.INBOUND, Refusal(Outcome.DENIED, "no"), ours)
    listener = sockets.listen(TcpAddress("127.0.0.1", 0))
    opened = engine.open(listener, door)
    slow = TlsStream(await Stream.connect(TcpAddress(*listener.getsockname())), PEER)
    hasty, patient = (asyncio.create_task(opened.close()) for _ in range(2))
    await eventually(lambda: listener.fileno() == -1, "the listener is closed")
    hasty.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hasty
    await slow.handshake()
    async with asyncio.timeout(5):
        await patient


async def test_stopping_waits_for_no_arrival(engine: Engine) -> None:
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    door = RecordingDoor(Direction.INBOUND, Refusal(Outcome.DENIED, "no"), ours)
    listener = sockets.listen(TcpAddress("127.0.0.1", 0))
    opened = engine.open(listener, door)
    silent = await Stream.connect(TcpAddress(*listener.getsockname()))
    closing = asyncio.create_task(opened.close())
    await eventually(lambda: listener.fileno() == -1, "the listener is closed")
    await engine.stop()
    await closing
    assert await silent.is_reset()
    assert (await door.ending()).outcome is Outcome.DRAINED


# Relaying.


async def shake_and_say(peer: TlsStream, data: bytes) -> None:
    """The end of the handshake, `data` and close_notify in one segment."""
    with pytest.raises(SSL.WantReadError):
        peer.tls.do_handshake()
    await peer.flush()
    while True:  # the server's flight
        peer.tls.bio_write(await peer.stream.receive())
        try:
            peer.tls.do_handshake()
        except SSL.WantReadError:
            continue
        break
    peer.tls.sendall(data)
    peer.tls.shutdown()
    await peer.stream.send(peer.pending())


async def test_bytes_behind_the_finished_of_the_same_segment_are_not_lost(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = TlsStream(await Stream.connect(here.address), PEER)
        await shake_and_say(peer, b"early bird")
        there = await here.application.accept()
        assert await there.receive_all() == b"early bird"
        there.close()
        assert await peer.receive_all() == b""
        assert (await here.door.ending()).outcome is Outcome.CLOSED


async def test_not_a_byte_passes_when_the_connection_is_cut_as_it_opens(engine: Engine) -> None:
    refusal = Refusal(Outcome.IDENTITY_DISTRUSTED, "revoked while it was connecting")
    async with inbound(engine) as here:
        assert isinstance(here.door.answer, Route)
        here.door.answer = replace(here.door.answer, preface=b"PROXY")
        here.door.on_opened = lambda connection: connection.close(refusal)
        peer = TlsStream(await Stream.connect(here.address), PEER)
        await shake_and_say(peer, b"early bird")
        there = await here.application.accept()
        with pytest.raises(ConnectionResetError):
            assert await there.receive() == b"nothing"
        ending = await here.door.ending()
        assert (ending.outcome, ending.bytes_received) == (Outcome.IDENTITY_DISTRUSTED, 0)


async def test_close_notify_is_a_half_close_in_both_directions(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer, there = await here.relay()
        await peer.send(b"request")
        await peer.finish()
        assert await there.receive_all() == b"request"
        await there.send(b"late")
        assert await peer.receive_exactly(4) == b"late"
        there.finish()
        assert await peer.receive() == b""
        assert (await here.door.ending()).outcome is Outcome.CLOSED
        peer, there = await here.relay()
        there.finish()
        assert await peer.receive() == b""
        await peer.send(b"still talking")
        await peer.finish()
        assert await there.receive_all() == b"still talking"
        assert (await here.door.ending(2)).outcome is Outcome.CLOSED


async def test_everything_before_a_close_notify_is_delivered(engine: Engine) -> None:
    payload = os.urandom(3 * MIB)
    async with inbound(engine) as here:
        peer, there = await here.relay()

        async def speak() -> None:
            await peer.send(payload)
            await peer.finish()

        speaking = asyncio.create_task(speak())
        heard = await there.receive_all()
        await speaking
        assert heard == payload
        there.close()
        assert (await here.door.ending()).bytes_received == len(payload)


@pytest.mark.parametrize(
    ("last_words", "outcome"), [(b"", Outcome.CLOSED), (b"too late", Outcome.RESET)]
)
async def test_a_peer_that_ends_and_is_gone_loses_nothing_but_what_comes_later(
    engine: Engine, last_words: bytes, outcome: Outcome
) -> None:
    """It resets what answers its end: our close_notify, which matters to nobody, or bytes."""
    async with inbound(engine) as here:
        peer, there = await here.relay()
        await there.send(b"hello")
        assert await peer.receive_exactly(5) == b"hello"
        await peer.finish()
        peer.stream.close()
        assert await there.receive() == b""
        await there.send(last_words)
        there.close()
        assert (await here.door.ending()).outcome is outcome


async def test_what_an_application_says_before_it_resets_is_delivered(engine: Engine) -> None:
    """As one does that answers early, and closes with a request unread."""
    async with inbound(engine) as here:
        for _ in range(40):
            peer, there = await here.relay()
            await peer.send(b"a long request")
            await eventually(lambda: here.door.opened_[-1].bytes_received, "the request")
            await there.send(b"413 too long")
            there.close()
            assert await peer.receive_exactly(12) == b"413 too long"
            with pytest.raises(ConnectionResetError):
                await peer.receive()
        assert {ending.outcome for _, ending in here.door.endings} <= {Outcome.RESET}


async def test_last_bytes_for_a_peer_that_is_gone_are_no_orderly_end(engine: Engine) -> None:
    """Though they wait for the end, and go with it."""
    async with inbound(engine) as here:
        for _ in range(20):
            peer, there = await here.relay()
            await peer.finish()
            peer.stream.close()
            assert await there.receive() == b""
            there.send_last(b"too late")
        await here.door.ending(20)
        assert {ending.outcome for _, ending in here.door.endings} == {Outcome.RESET}


async def test_last_bytes_for_an_application_that_is_gone_are_no_orderly_end(
    engine: Engine,
) -> None:
    async with inbound(engine) as here:
        for _ in range(20):
            peer, there = await here.relay()
            there.close()
            assert await peer.receive() == b""
            await peer.send_last(b"too late")
        await here.door.ending(20)
        assert {ending.outcome for _, ending in here.door.endings} == {Outcome.RESET}


async def test_ends_that_cross_are_both_orderly(engine: Engine) -> None:
    """The peer's end may still wait to be read when ours is answered with a reset."""
    async with inbound(engine) as here:
        for _ in range(20):
            peer, there = await here.relay()
            await there.send(b"hello")
            assert await peer.receive_exactly(5) == b"hello"
            there.close()
            await peer.finish()
            peer.stream.close()
        await here.door.ending(20)
        assert {ending.outcome for _, ending in here.door.endings} == {Outcome.CLOSED}


async def test_the_end_of_tcp_without_close_notify_is_a_reset(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer, there = await here.relay()
        await peer.send(b"half a mess")
        assert await there.receive_exactly(11) == b"half a mess"
        peer.truncate()
        assert await there.is_reset()
        ending = await here.door.ending()
    assert ending.outcome is Outcome.RESET
    assert ending.reason == "the peer closed without a close_notify (truncated)"


async def test_a_reset_of_the_application_is_a_reset_for_the_peer(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer, there = await here.relay()
        there.reset()
        with pytest.raises(ConnectionResetError):
            await peer.receive()
        assert (await here.door.ending()).outcome is Outcome.RESET


async def test_a_broken_record_ends_the_connection(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer, there = await here.relay()
        await peer.stream.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await there.is_reset()
        assert (await here.door.ending()).outcome is Outcome.RESET


@pytest.mark.parametrize("toward", ["peer", "application"])
async def test_a_stalled_reader_bounds_memory_under_tls_too(engine: Engine, toward: str) -> None:
    payload = os.urandom(MIB) * 8
    async with inbound(engine) as here:
        peer, there = await here.relay()
        connection = await here.door.connection()
        pushing: asyncio.Task[None]
        if toward == "application":
            pushing = asyncio.create_task(peer.send(payload * 8))
            count = partial(getattr, connection, "bytes_received")
        else:
            pushing = asyncio.create_task(there.send(payload * 8))
            count = partial(getattr, connection, "bytes_sent")
        last, windows_without = 0, 0
        while windows_without < 3:  # the writer's own buffers still grow in the first ones
            before = resident()
            await asyncio.sleep(0.3)
            grown = resident() - before
            last, moved = count(), count() != last
            windows_without = 0 if moved or not last else windows_without + 1
        assert last < 32 * MIB
        assert grown < 2 * MIB
        heard = await (peer if toward == "peer" else there).receive_exactly(64 * MIB)
        await pushing
        assert heard == payload * 8


def resident() -> int:
    """Bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_bulk_passes_both_ways_at_once(engine: Engine) -> None:
    payload = os.urandom(4 * MIB)
    async with inbound(engine) as here:
        peer, there = await here.relay()
        pushing = asyncio.gather(peer.send(payload), there.send(payload))
        assert await there.receive_exactly(len(payload)) == payload
        assert await peer.receive_exactly(len(payload)) == payload
        await pushing


async def test_an_upstream_tls_side_may_be_a_unix_socket(engine: Engine, tmp_path: object) -> None:
    async with (
        listening(f"{tmp_path}/peer.sock") as upstream,
        outbound(engine, upstream.address) as (door, address),
    ):
        downstream = await Stream.connect(address)
        there = await answer(upstream)
        await downstream.send(b"x")
        assert await there.receive_exactly(1) == b"x"
        downstream.finish()
        await there.finish()
        assert (await door.ending()).outcome is Outcome.CLOSED


async def test_endpoints_are_tried_in_order_until_one_answers(engine: Engine) -> None:
    async with listening() as gone, listening() as upstream:
        tls = plan(Role.CLIENT, US, verifier(Role.SERVER, OURS))
        gone.close()
        candidates = (
            Candidate("first", (gone.address,)),
            Candidate("second", (upstream.address,)),
        )
        there = Route("db", candidates, Tls(tls), Timeouts())
        door = RecordingDoor(Direction.OUTBOUND, there)
        async with open_door(engine, door) as address:
            await Stream.connect(address)
            await answer(upstream)
            assert (await door.connection()).endpoint == "second"
    (first, why), (second, none) = door.attempts
    assert (first, second, none) == ("first", "second", None)
    assert why == Refusal(
        Outcome.CONNECT_FAILED,
        f"connection refused by {gone.address}: is the proxy of db running?",
    )


# What a server hears of why it was refused.


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("asks", [False, True], ids=["it asks for nothing", "it is a stranger"])
async def test_a_server_hears_why_it_is_refused(
    engine: Engine, version: tuple[int, int], asks: bool
) -> None:
    """Sealed under TLS 1.3, because there nothing but an alert that was sealed is one."""
    shows = STRANGERS.issue("/ns/a/sa/b") if asks else PEER
    ours = plan(
        Role.CLIENT, US, verifier(Role.SERVER, OURS), settings=TlsSettings(min_version="1.2")
    )
    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address, tls=ours))
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            accepted = (await upstream.accept()).socket
            accepted.setblocking(True)
            alert = await asyncio.to_thread(
                HostileServer.refused, accepted, shows, asks=asks, version=version
            )
            assert await downstream.is_reset()
            ending = await door.ending()
    sealed = APPLICATION_DATA if version == TLS_1_3 else ALERT
    assert alert == (UNKNOWN_CA if asks else HANDSHAKE_FAILURE, sealed)
    assert ending.outcome is (Outcome.PEER_UNTRUSTED if asks else Outcome.HANDSHAKE_FAILED)
    assert asks or ending.reason == UNASKED
