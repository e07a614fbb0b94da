"""What somebody may present as its certificates is bounded before anything is spent on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from cryptography import x509
from OpenSSL import SSL

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route, verifier
from tests.helpers.streams import Stream, listening
from tests.helpers.tls_streams import TlsStream
from uproxy.contract import Engine
from uproxy.lab.pki import UNKNOWN_OID, Authority, Issued, Quirks
from uproxy.model import Address, Direction, Outcome, Role, TcpAddress, TlsSettings
from uproxy.spiffe.presented import MAX_CHAIN, MAX_CHAIN_BYTES, MAX_EXTENSIONS, MAX_PARTS, MAX_TEXT

engine = engines.engine

OURS = Authority("example.org")
US = OURS.issue("/ns/shop/sa/orders")
PEER = OURS.issue("/ns/web/sa/frontend")
TRUSTS_US = verifier(Role.CLIENT, OURS)
VERSIONS = [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION]


def padded(size: int, authority: Authority = OURS, path: str = "/padded") -> x509.Certificate:
    """A certificate with so many bytes in an extension that nobody knows."""
    builder = x509.CertificateBuilder()
    leaf = authority.issue(path).certificate
    builder = (
        builder.subject_name(leaf.subject)
        .issuer_name(leaf.issuer)
        .public_key(PEER.certificate.public_key())
        .serial_number(leaf.serial_number)
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
    )
    for extension in leaf.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    builder = builder.add_extension(x509.UnrecognizedExtension(UNKNOWN_OID, bytes(size)), False)
    return builder.sign(authority.key, Quirks().hash())  # type: ignore[arg-type]  # P-256


def followed_by(*others: x509.Certificate, leaf: x509.Certificate = PEER.certificate) -> Issued:
    return Issued((leaf, *others), PEER.key)


LARGE = padded(MAX_TEXT - 1024)
MANY_NAMES = OURS.issue("/a", dns=tuple(f"{n}.test" for n in range(MAX_PARTS)))
EXTENDED = OURS.issue(
    extensions=tuple(
        (x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.3.6.1.4.1.99999.{n}"), b""), False)
        for n in range(MAX_EXTENSIONS + 1 - 6)
    )
)
TOO_MUCH = {
    f"the peer sent {MAX_CHAIN + 1} certificates": followed_by(*[OURS.certificate] * MAX_CHAIN),
    f"at most {MAX_CHAIN_BYTES} are read": followed_by(*[LARGE] * (MAX_CHAIN - 1)),
    f"more than {MAX_PARTS} parts": MANY_NAMES,
    f"of {MAX_EXTENSIONS + 1} extensions": EXTENDED,
    f"at most {MAX_TEXT} are read": followed_by(leaf=padded(MAX_TEXT)),
    "more than 100 KiB": followed_by(*[padded(20_000)] * 6),
}
ENOUGH = {
    "ten certificates": followed_by(*[OURS.certificate] * (MAX_CHAIN - 1)),
    "60 KiB": followed_by(*[LARGE] * 8),
    "a hundred names": OURS.issue("/a", dns=tuple(f"{n}.test" for n in range(100))),
}


@asynccontextmanager
async def inbound(engine: Engine) -> AsyncIterator[tuple[RecordingDoor, Address]]:
    settings = TlsSettings(min_version="1.2")
    ours = plan(Role.SERVER, US, TRUSTS_US, settings=settings)
    async with listening() as application:
        door = RecordingDoor(Direction.INBOUND, route(application.address), ours)
        async with open_door(engine, door) as address:
            yield door, address


async def shake(address: Address, shows: Issued, version: int) -> TlsStream:
    """In TLS 1.3 a refusal comes when the handshake has ended for the client."""
    peer = TlsStream(await Stream.connect(address), shows, version=version)
    await peer.handshake()
    return peer


async def alert_of(address: Address, shows: Issued, version: int) -> str:
    with pytest.raises(SSL.Error) as caught:
        await (await shake(address, shows, version)).receive()
    return str(caught.value)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("words", TOO_MUCH)
async def test_a_caller_that_presents_too_much_is_refused_in_words(
    engine: Engine, words: str, version: int
) -> None:
    async with inbound(engine) as (door, address):
        alert = await alert_of(address, TOO_MUCH[words], version)
        ending = await door.ending()
    assert "alert" in alert
    assert (ending.outcome, ending.rule) == (Outcome.PEER_UNTRUSTED, "UP-1")
    assert ending.reason is not None
    assert words in ending.reason
    assert not door.arrivals


async def test_too_many_certificates_are_a_bad_certificate(engine: Engine) -> None:
    async with inbound(engine) as (_, address):
        shows = followed_by(*[OURS.certificate] * MAX_CHAIN)
        assert "bad certificate" in await alert_of(address, shows, SSL.TLS1_3_VERSION)


async def test_a_known_caller_that_presents_too_much_is_refused_alike(engine: Engine) -> None:
    async with inbound(engine) as (door, address):
        peer = await shake(address, PEER, SSL.TLS1_3_VERSION)
        await door.connection()
        peer.stream.close()
        await door.ending()
        shows = followed_by(*[OURS.certificate] * MAX_CHAIN)
        assert "alert" in await alert_of(address, shows, SSL.TLS1_3_VERSION)
        ending = await door.ending(2)
    assert (ending.outcome, ending.rule) == (Outcome.PEER_UNTRUSTED, "UP-1")
    assert len(door.arrivals) == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", ENOUGH)
async def test_the_largest_chains_that_svids_need_are_let_in(
    engine: Engine, what: str, version: int
) -> None:
    async with inbound(engine) as (door, address):
        peer = await shake(address, ENOUGH[what], version)
        assert (await door.connection()).peer is not None
        peer.stream.close()


async def test_a_server_that_presents_too_much_is_refused_too(engine: Engine) -> None:
    shows = followed_by(*[OURS.certificate] * MAX_CHAIN)
    tls = plan(Role.CLIENT, US, verifier(Role.SERVER, OURS))
    async with listening() as there:
        assert isinstance(there.address, TcpAddress)
        door = RecordingDoor(Direction.OUTBOUND, route(there.address, tls=tls))
        async with open_door(engine, door) as address:
            ours = await Stream.connect(address)
            server = TlsStream(await there.accept(), shows, server=True)
            with pytest.raises(SSL.Error, match="bad certificate"):
                await server.handshake()
            ending = await door.ending()
            ours.close()
    assert (ending.outcome, ending.rule) == (Outcome.PEER_UNTRUSTED, "UP-1")
