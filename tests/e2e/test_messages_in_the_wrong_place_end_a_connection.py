"""A caller with a good certificate, let in, begins to break the rules of TLS.

What TLS allows (KeyUpdate, padding's relative the empty record, a warning) passes unnoticed by
the application, also a flood of it; what it doesn't gets the alert that fits, and ends this
connection with a reset, one line and one count.  No peer can renegotiate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from tests.helpers import hostile_account
from tests.helpers.dialogue import s_client
from tests.helpers.endings import ended, handshakes, only
from tests.helpers.hostile_account import FRONTEND, account, answers, costs_no_memory
from tests.helpers.hostile_client import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    HEARTBEAT,
    TLS_1_2,
    TLS_1_3,
    HostileClient,
    Received,
    hello,
    record,
)
from uproxy.lab.mesh import WEB, FileWorld, Inbound
from uproxy.lab.pki import Issued

door = hostile_account.door
counted_door = hostile_account.counted_door
classic = hostile_account.classic

UNEXPECTED, BAD_MAC, OVERFLOW, ILLEGAL, DECODE, NO_RENEGOTIATION = 10, 20, 22, 47, 50, 100
"""Alerts (RFC 8446 §6, RFC 5246 §7.2)."""

STRANGE = "unexpected message"
STRANGE_TYPE = "bad record type"

Deed = Callable[[HostileClient], object]


@dataclass(frozen=True, slots=True)
class Done:
    """What a caller does between two pieces of data, and what becomes of the connection."""

    deed: Deed
    alert: int | None
    """None: a close without a word."""
    words: str
    """Of the error in the access log."""


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def saying(kind: int, body: bytes) -> Deed:
    """A handshake message in a record of its own."""
    return lambda caller: caller.send(message(kind, body), HANDSHAKE)


def of_type(kind: int, content: bytes, times: int = 1) -> Deed:
    """Records, sealed as they should be."""

    def deed(caller: HostileClient) -> None:
        for _ in range(times):
            caller.send(content, kind)

    return deed


def in_the_clear(kind: int, content: bytes, version: int = 0x0303) -> Deed:
    return lambda caller: caller.send_bytes(record(content, kind, version=version))


def then(*deeds: Deed) -> Deed:
    def deed(caller: HostileClient) -> None:
        for each in deeds:
            each(caller)

    return deed


def updates(times: int, *, ask: bool) -> Deed:
    def deed(caller: HostileClient) -> None:
        for _ in range(times):
            caller.update_key(ask=ask)

    return deed


UPDATE = message(24, b"\0")

ALLOWED: dict[str, Deed] = {
    "KeyUpdate": updates(1, ask=False),
    "KeyUpdate, and one back": updates(1, ask=True),
    "500 times KeyUpdate": updates(500, ask=False),
    "500 times KeyUpdate, and one back": updates(500, ask=True),
    "a few empty records": of_type(APPLICATION_DATA, b"", 5),
}

WRONG = {
    # KeyUpdate (RFC 8446 §4.6.3)
    "a KeyUpdate of a third kind": Done(saying(24, b"\2"), ILLEGAL, "bad key update"),
    "a KeyUpdate without a kind": Done(saying(24, b""), DECODE, "bad key update"),
    "a long KeyUpdate": Done(saying(24, b"\0\0"), ILLEGAL, "excessive message size"),
    "two KeyUpdates in one record": Done(
        of_type(HANDSHAKE, UPDATE * 2), UNEXPECTED, "not on record boundary"
    ),
    "old keys after a KeyUpdate": Done(
        then(of_type(HANDSHAKE, UPDATE), of_type(APPLICATION_DATA, b"old")), BAD_MAC, "bad record"
    ),
    "data inside a KeyUpdate": Done(
        then(of_type(HANDSHAKE, UPDATE[:3]), of_type(APPLICATION_DATA, b"data")),
        UNEXPECTED,
        "mixed handshake",
    ),
    "half a KeyUpdate, and FIN": Done(
        then(of_type(HANDSHAKE, UPDATE[:3]), HostileClient.finish), None, "without a close_notify"
    ),
    # messages that only a server says, or only in a handshake
    "HelloRequest": Done(saying(0, b""), UNEXPECTED, STRANGE),
    "ClientHello": Done(of_type(HANDSHAKE, hello()), UNEXPECTED, STRANGE),
    "ServerHello": Done(saying(2, bytes(40)), UNEXPECTED, STRANGE),
    "NewSessionTicket": Done(saying(4, bytes(20)), UNEXPECTED, STRANGE),
    "EndOfEarlyData": Done(saying(5, b""), UNEXPECTED, STRANGE),
    "EncryptedExtensions": Done(saying(8, b"\0\0"), UNEXPECTED, STRANGE),
    "Certificate": Done(saying(11, bytes(4)), UNEXPECTED, STRANGE),
    "CertificateRequest": Done(saying(13, bytes(20)), UNEXPECTED, STRANGE),
    "CertificateVerify": Done(saying(15, bytes(20)), UNEXPECTED, STRANGE),
    "Finished": Done(saying(20, bytes(32)), UNEXPECTED, STRANGE),
    "a message of type 99": Done(saying(99, bytes(32)), UNEXPECTED, STRANGE),
    "a KeyUpdate of 16 MiB": Done(
        of_type(HANDSHAKE, b"\x18\xff\xff\xff"), ILLEGAL, "excessive message size"
    ),
    # records
    "a hundred empty records": Done(
        of_type(APPLICATION_DATA, b"", 100), UNEXPECTED, "record too small"
    ),
    "an empty record of handshake": Done(of_type(HANDSHAKE, b""), UNEXPECTED, "bad length"),
    "an empty alert": Done(of_type(ALERT, b""), UNEXPECTED, "bad length"),
    "half an alert": Done(of_type(ALERT, b"\2"), UNEXPECTED, "invalid alert"),
    "an alert and a half": Done(of_type(ALERT, b"\2\x28\0"), UNEXPECTED, "invalid alert"),
    "a fatal alert": Done(of_type(ALERT, b"\2\x28"), None, "peer sent alert handshake failure"),
    "an alert nobody knows": Done(of_type(ALERT, b"\2\xfa"), None, "peer sent alert 250"),
    "fifty warnings": Done(of_type(ALERT, b"\1\x5a", 50), UNEXPECTED, "too many warn alerts"),
    "a sealed record of type 0": Done(of_type(0, b""), UNEXPECTED, STRANGE_TYPE),
    "a heartbeat": Done(of_type(HEARTBEAT, b"\1\xff\xff" + bytes(16)), UNEXPECTED, STRANGE_TYPE),
    "a record of type 99": Done(of_type(99, b"abc"), UNEXPECTED, STRANGE_TYPE),
    "a record one byte too large": Done(
        of_type(APPLICATION_DATA, bytes(2**14 + 1)), OVERFLOW, "too long"
    ),
    "a record of 60,000 bytes": Done(
        of_type(APPLICATION_DATA, bytes(60_000)), OVERFLOW, "too long"
    ),
    # what nobody has sealed: anybody may put it on the wire
    "change_cipher_spec": Done(in_the_clear(CHANGE_CIPHER_SPEC, b"\1"), UNEXPECTED, STRANGE_TYPE),
    "data in the clear": Done(in_the_clear(APPLICATION_DATA, bytes(40)), BAD_MAC, "bad record"),
    "a byte in the clear": Done(in_the_clear(APPLICATION_DATA, b"x"), BAD_MAC, "bad record"),
    "nothing in the clear": Done(in_the_clear(APPLICATION_DATA, b""), BAD_MAC, "bad record"),
    "a hello in the clear": Done(in_the_clear(HANDSHAKE, hello()), UNEXPECTED, STRANGE_TYPE),
    "an alert in the clear": Done(in_the_clear(ALERT, b"\2\x28"), UNEXPECTED, STRANGE_TYPE),
    "close_notify in the clear": Done(in_the_clear(ALERT, b"\1\0"), UNEXPECTED, STRANGE_TYPE),
    "a record of version 0x9999": Done(
        in_the_clear(APPLICATION_DATA, bytes(40), 0x9999), DECODE, ""
    ),
    "noise": Done(lambda caller: caller.send_bytes(b"\xff" * 1000), UNEXPECTED, STRANGE_TYPE),
    "a record cut short, and FIN": Done(
        lambda caller: caller.send_bytes(b"\x17\3\3\1\0abcd").finish(),
        None,
        "without a close_notify",
    ),
    "FIN": Done(HostileClient.finish, None, "without a close_notify"),
}

OLD = {
    "HelloRequest": Done(saying(0, b""), UNEXPECTED, STRANGE),
    "Certificate": Done(saying(11, bytes(3)), UNEXPECTED, STRANGE),
    "Finished": Done(saying(20, bytes(12)), UNEXPECTED, STRANGE),
    "KeyUpdate": Done(saying(24, b"\0"), UNEXPECTED, STRANGE),
    "ChangeCipherSpec": Done(of_type(CHANGE_CIPHER_SPEC, b"\1"), UNEXPECTED, "ccs"),
    "a heartbeat": Done(of_type(HEARTBEAT, b"\1\xff\xff" + bytes(16)), UNEXPECTED, "record"),
    "a hello of 16 MiB": Done(
        of_type(HANDSHAKE, b"\1\xff\xff\xff"), ILLEGAL, "excessive message size"
    ),
    "data inside a hello": Done(
        then(of_type(HANDSHAKE, hello()[:50]), of_type(APPLICATION_DATA, b"data")),
        UNEXPECTED,
        "unexpected record",
    ),
    "a hundred empty records": Done(
        of_type(APPLICATION_DATA, b"", 100), UNEXPECTED, "record too small"
    ),
    "fifty warnings": Done(of_type(ALERT, b"\1\x5a", 50), UNEXPECTED, "too many warn alerts"),
}
"""In TLS 1.2."""


@pytest.fixture(scope="module")
def web(file_world: FileWorld) -> Issued:
    return file_world.ca.issue(FRONTEND)


def let_in(uproxy: Inbound, web: Issued, version: tuple[int, int] = TLS_1_3) -> HostileClient:
    """A caller who has heard an echo."""
    caller = HostileClient(uproxy.port, web, version=version)
    assert caller.handshake().send(b"hello").receive(5) == b"hello"
    return caller


def check(uproxy: Inbound, web: Issued, done: Done, version: tuple[int, int]) -> None:
    with account(uproxy, "reset", opened=True) as lines, let_in(uproxy, web, version) as caller:
        done.deed(caller)
        heard = caller.receive_until_end()

    assert (heard.data, heard.alert) == (b"hello", done.alert)
    line = only(lines)
    assert done.words in line["error"]
    assert line["src.identity"] == WEB


@pytest.mark.parametrize("name", ALLOWED)
def test_the_application_notices_nothing(door: Inbound, web: Issued, name: str) -> None:
    with account(door, "closed", opened=True) as lines, let_in(door, web) as caller:
        for _ in range(3):
            ALLOWED[name](caller)
            assert caller.send(b"again").receive(5) == b"again"
        caller.tls.close()
        heard = caller.receive_until_end()

    assert heard == Received(b"hello" + b"again" * 3, None, reset=False)
    assert only(lines)["bytes_recv"] == only(lines)["bytes_sent"] == len(heard.data)


@pytest.mark.parametrize("name", WRONG)
def test_it_ends_with_an_alert(door: Inbound, web: Issued, name: str) -> None:
    check(door, web, WRONG[name], TLS_1_3)


@pytest.mark.parametrize("name", OLD)
def test_it_ends_with_an_alert_in_tls_1_2(classic: Inbound, web: Issued, name: str) -> None:
    check(classic, web, OLD[name], TLS_1_2)


def test_renegotiation_is_refused_as_often_as_it_is_asked_for(
    classic: Inbound, web: Issued
) -> None:
    """With a warning each time (RFC 5246 §7.2.2); the connection lives on."""
    again = hello(versions=[], ciphers=[0xC02B, 0x00FF])
    with account(classic, "closed", opened=True), let_in(classic, web, TLS_1_2) as caller:
        for _ in range(200):
            caller.send(again, HANDSHAKE)
            assert caller.receive_record() == (ALERT, bytes([1, NO_RENEGOTIATION]))
        caller.send(b"still here")
        assert caller.receive_record() == (APPLICATION_DATA, b"still here")
        caller.tls.close()
        assert caller.receive_until_end().alert is None


def test_openssl_is_refused_a_renegotiation(classic: Inbound, file_world: FileWorld) -> None:
    before = handshakes(classic, version="TLSv1.2")
    with (
        ended(classic, "reset"),
        s_client(classic.port, file_world.theirs(WEB), "-tls1_2") as client,
    ):
        client.type(b"hello\n")
        client.receive("(?m)^hello$")
        client.type(b"R\n")
        said = client.receive_until_end()
    assert re.search("RENEGOTIATING(?s:.*)no renegotiation", said)
    assert handshakes(classic, version="TLSv1.2") == before + 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_again_and_again_it_costs_no_memory(counted_door: Inbound, web: Issued) -> None:
    """With the deeds that end a connection, and one whose floods don't."""

    def attack(done: Done) -> None:
        with let_in(counted_door, web) as caller:
            done.deed(caller)

    deeds = [*WRONG.values(), Done(updates(50, ask=True), None, "")]
    costs_no_memory(counted_door, [partial(attack, done) for done in deeds], window=100)
    answers(counted_door, web)


def test_an_end_announced_by_a_warning_is_an_ordinary_end(
    door: Inbound, file_world: FileWorld
) -> None:
    """As Java closes: user_canceled, then close_notify (RFC 8446 §6.1)."""
    web = file_world.ca.issue(FRONTEND)
    with account(door, "closed", opened=True), HostileClient(door.port, web) as caller:
        assert caller.handshake().send(b"hello").receive(5) == b"hello"
        caller.send(b"\1\x5a", ALERT).send(b"\1\0", ALERT)
        assert caller.receive_until_end().reset is False
