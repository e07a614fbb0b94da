"""The cases of tlsfuzzer's scripts for TLS 1.3 servers, against a door with mutual TLS.

tlsfuzzer isn't in a package registry, so its cases are written down here on tlslite-ng, from which
it is made.  What it tries and other files of attacks have already (records, KeyUpdates, hellos and
certificates) isn't repeated.  The alerts are those that RFC 8446 asks for; where a door answers
with another, OTHER_ALERTS says which and why that is no fault.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.helpers import hostile_account
from tests.helpers.endings import ended
from tests.helpers.hostile_account import FRONTEND, account, serves
from tests.helpers.hostile_client import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    HostileClient,
    RawClient,
    Received,
    Twist,
    hello,
    message,
    raw,
    record,
    record_types,
    records,
)
from uproxy.lab.mesh import FileWorld, Inbound
from uproxy.lab.pki import Issued

pytestmark = pytest.mark.slow

door = hostile_account.door

UNEXPECTED, FAILURE, ILLEGAL, DECODE, DECRYPT, MISSING = 10, 40, 47, 50, 51, 109
"""Alerts (RFC 8446 §6)."""

CERTIFICATE, VERIFY, FINISHED = 11, 15, 20
"""A client's messages behind its hello (RFC 8446 §4)."""

X25519, SECP256R1, SECP384R1 = 0x1D, 0x17, 0x18
KEY_SHARE, PSK, EARLY_DATA, PSK_MODES, COOKIE, AFTERWARDS = 51, 41, 42, 45, 44, 49
AUTHORITIES = 47
"""Extensions (RFC 8446 §4.2)."""

OTHER_ALERTS = {
    # protocol_version: such a hello is one of TLS 1.2, which the door doesn't speak
    "no versions": 70,
}
"""Expected failures: what a door says instead, and why."""


@pytest.fixture(scope="module")
def web(file_world: FileWorld) -> Issued:
    return file_world.ca.issue(FRONTEND)


# A client's flight: Certificate, CertificateVerify, Finished.


def edited(kind: int, edit: Callable[[bytes], bytes]) -> Twist:
    """Another body in each message of a kind; its length is right."""

    def twist(said: Any) -> Iterable[Any]:
        if getattr(said, "handshakeType", None) != kind:
            return (said,)
        return (message(kind, edit(bytes(said.write())[4:])),)

    return twist


def with_length(kind: int, difference: int) -> Twist:
    """A message that lies about its length, followed by nothing."""

    def twist(said: Any) -> Iterable[Any]:
        if getattr(said, "handshakeType", None) != kind:
            return (said,)
        whole = bytes(said.write())
        length = (len(whole) - 4 + difference).to_bytes(3, "big")
        return (raw(HANDSHAKE, whole[:1] + length + whole[4:]),)

    return twist


def before(kind: int, *others: Any) -> Twist:
    def twist(said: Any) -> Iterable[Any]:
        return (*others, said) if getattr(said, "handshakeType", None) == kind else (said,)

    return twist


def in_pieces(size: int) -> Twist:
    """Every handshake message in records of so many bytes."""

    def twist(said: Any) -> Iterable[Any]:
        if said.contentType != HANDSHAKE:
            return (said,)
        whole = bytes(said.write())
        return [raw(HANDSHAKE, whole[at : at + size]) for at in range(0, len(whole), size)]

    return twist


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def scheme(number: int) -> Callable[[bytes], bytes]:
    return lambda body: number.to_bytes(2, "big") + body[2:]


def signature(edit: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Another signature in CertificateVerify, whose length is right."""

    def change(body: bytes) -> bytes:
        other = edit(body[4:])
        return body[:2] + len(other).to_bytes(2, "big") + other

    return change


def says(difference: int) -> Callable[[bytes], bytes]:
    """The signature's length lies."""
    return lambda body: body[:2] + (len(body) - 4 + difference).to_bytes(2, "big") + body[4:]


FLIGHTS: dict[str, tuple[Twist, int]] = {
    # Finished (test-tls13-finished, -finished-plaintext)
    "an empty Finished": (edited(FINISHED, lambda _: b""), DECODE),
    "a Finished one byte short": (edited(FINISHED, lambda body: body[:-1]), DECODE),
    "a Finished one byte long": (edited(FINISHED, lambda body: body + b"\0"), DECODE),
    "a Finished of 16 KiB": (edited(FINISHED, lambda body: body + bytes(16_000)), ILLEGAL),
    "a Finished of zeros": (edited(FINISHED, lambda body: bytes(len(body))), DECRYPT),
    "a Finished of another hash": (edited(FINISHED, lambda body: body + body[:16]), DECODE),
    # CertificateVerify (test-tls13-certificate-verify, -pkcs-signature, -ecdsa-support)
    "an empty signature": (edited(VERIFY, signature(lambda _: b"")), DECRYPT),
    "a signature one byte short": (edited(VERIFY, signature(lambda it: it[:-1])), DECRYPT),
    "a signature one byte long": (edited(VERIFY, signature(lambda it: it + b"\0")), DECRYPT),
    "a signature of zeros": (edited(VERIFY, signature(lambda it: bytes(len(it)))), DECRYPT),
    "noise as a signature": (edited(VERIFY, signature(lambda it: os.urandom(len(it)))), DECRYPT),
    "r and s of zero": (
        edited(VERIFY, signature(lambda _: b"\x30\6\2\1\0\2\1\0")), DECRYPT
    ),
    "a byte behind the signature": (edited(VERIFY, lambda body: body + b"\0"), DECODE),
    "a signature longer than it says": (
        edited(VERIFY, says(-1)), DECODE
    ),
    "a signature shorter than it says": (
        edited(VERIFY, says(1)), DECODE
    ),
    "an empty CertificateVerify": (edited(VERIFY, lambda _: b""), DECODE),
    "rsa_pkcs1_sha256": (edited(VERIFY, scheme(0x0401)), ILLEGAL),
    "rsa_pss_rsae_sha256": (edited(VERIFY, scheme(0x0804)), ILLEGAL),
    "ecdsa_sha1": (edited(VERIFY, scheme(0x0203)), ILLEGAL),
    "ecdsa_secp384r1_sha384 with a P-256 key": (edited(VERIFY, scheme(0x0503)), ILLEGAL),
    "ed25519 with a P-256 key": (edited(VERIFY, scheme(0x0807)), ILLEGAL),
    "a scheme nobody knows": (edited(VERIFY, scheme(0xFEFE)), ILLEGAL),
    # Certificate (test-tls13-certificate-request)
    "a context that nobody asked for": (
        edited(CERTIFICATE, lambda body: b"\3abc" + body[1:]), DECODE
    ),
    "a list longer than the message": (
        edited(CERTIFICATE, lambda body: b"\0\xff\xff\xff" + body[4:]), DECODE
    ),
    "bytes behind the list": (edited(CERTIFICATE, lambda body: body + b"\0\0"), DECODE),
    "an empty Certificate": (edited(CERTIFICATE, lambda _: b""), DECODE),
    # what doesn't belong there (test-tls13-zero-length-data, -zero-content-type, -empty-alert)
    "data before the certificate": (before(CERTIFICATE, raw(APPLICATION_DATA, b"x")), UNEXPECTED),
    "data before Finished": (before(FINISHED, raw(APPLICATION_DATA, b"x")), UNEXPECTED),
    "empty data before the certificate": (
        before(CERTIFICATE, raw(APPLICATION_DATA, b"")), UNEXPECTED
    ),
    "an empty handshake record": (before(CERTIFICATE, raw(HANDSHAKE, b"")), UNEXPECTED),
    "an empty handshake record before Finished": (
        before(FINISHED, raw(HANDSHAKE, b"")), UNEXPECTED
    ),
    "an empty alert": (before(CERTIFICATE, raw(ALERT, b"")), UNEXPECTED),
    "a record of type 0": (before(CERTIFICATE, raw(0, b"x")), UNEXPECTED),
    "a KeyUpdate before Finished": (before(FINISHED, message(24, b"\0")), UNEXPECTED),
    "EndOfEarlyData before Finished": (before(FINISHED, message(5, b"")), UNEXPECTED),
    "a ClientHello in the flight": (before(VERIFY, raw(HANDSHAKE, hello())), UNEXPECTED),
    "a CertificateRequest of the client's": (before(VERIFY, message(13, bytes(12))), UNEXPECTED),
    "Finished and data in one message": (with_length(FINISHED, -1), UNEXPECTED),
}  # fmt: skip


@pytest.mark.parametrize("name", FLIGHTS)
def test_a_flight_that_is_wrong_gets_the_alert(door: Inbound, web: Issued, name: str) -> None:
    twist, alert = FLIGHTS[name]
    with account(door, "handshake_failed"), HostileClient(door.port, web, twist=twist) as caller:
        received = caller.refused()
    assert (received.data, received.alert) == (b"", OTHER_ALERTS.get(name, alert))


def test_each_byte_of_finished_counts(door: Inbound, web: Issued) -> None:
    with ended(door, "handshake_failed", count=32):
        for at in range(32):
            with HostileClient(door.port, web, twist=edited(FINISHED, flipped(at))) as caller:
                assert caller.refused() == Received(b"", DECRYPT, reset=False), at
    serves(door, web)


def test_each_byte_of_the_signature_counts(door: Inbound, web: Issued) -> None:
    with ended(door, "handshake_failed", count=66):
        for at in range(66):  # no signature is shorter but for one in 65,536
            twist = edited(VERIFY, signature(flipped(at)))
            with HostileClient(door.port, web, twist=twist) as caller:
                received = caller.refused()
                assert (received.data, received.alert) == (b"", DECRYPT), at
    serves(door, web)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 300])
def test_a_flight_may_come_in_records_of_any_size(door: Inbound, web: Issued, size: int) -> None:
    with (
        account(door, "closed", opened=True),
        HostileClient(door.port, web, twist=in_pieces(size)) as caller,
    ):
        assert caller.handshake().send(b"hello").receive(5) == b"hello"
        assert not caller.tls.tickets  # no session is to be resumed
        caller.tls.close()


@pytest.mark.parametrize("kind", [CERTIFICATE, VERIFY, FINISHED])
def test_a_handshake_may_end_anywhere(door: Inbound, web: Issued, kind: int) -> None:
    """test-tls13-connection-abort: with a FIN, a reset or an alert, before each message."""
    for end in (HostileClient.finish, HostileClient.__exit__, _give_up):
        with ended(door, "handshake_failed"), HostileClient(door.port, web) as caller:

            def twist(said: Any, end: Any = end, caller: HostileClient = caller) -> Iterable[Any]:
                if getattr(said, "handshakeType", None) == kind:
                    end(caller)
                return (said,)

            caller.tls._twist = twist
            try:
                caller.refused()
            except (OSError, ValueError):
                continue
    serves(door, web)


def _give_up(caller: HostileClient) -> None:
    caller.send(b"\2\x5a", ALERT).finish()


# Hellos.


def sized(data: bytes) -> bytes:
    """With its length before it."""
    return len(data).to_bytes(2, "big") + data


def with_shares(*shares: tuple[int, bytes], **how: Any) -> bytes:
    """A hello with these key shares, whatever they are."""
    body = b"".join(group.to_bytes(2, "big") + sized(key) for group, key in shares)
    said = hello(shares=[], **how)
    empty = b"\0\x33\0\2\0\0"
    assert said.count(empty) == 1
    extension = b"\0\x33" + sized(sized(body))
    whole = said.replace(empty, extension)
    grown = len(whole) - len(said)
    return _grown(whole, grown)


def _grown(whole: bytes, by: int) -> bytes:
    """With its own length and that of its extensions put right."""
    at = 4 + 2 + 32
    at += 1 + whole[at]
    at += 2 + int.from_bytes(whole[at : at + 2], "big")
    at += 1 + whole[at]
    extensions = (int.from_bytes(whole[at : at + 2], "big") + by).to_bytes(2, "big")
    length = (int.from_bytes(whole[1:4], "big") + by).to_bytes(3, "big")
    return whole[:1] + length + whole[4:at] + extensions + whole[at + 2 :]


def with_compression(methods: bytes) -> bytes:
    said = hello()
    at = 4 + 2 + 32 + 1 + 2 + 2
    assert said[at : at + 2] == b"\1\0"
    whole = said[:at] + bytes([len(methods)]) + methods + said[at + 2 :]
    return whole[:1] + (len(whole) - 4).to_bytes(3, "big") + whole[4:]


def psk(identity: bytes, binder: bytes) -> tuple[int, bytes]:
    binders = bytes([len(binder)]) + binder
    return PSK, sized(sized(identity) + bytes(4)) + sized(binders)


def authorities(size: int) -> tuple[int, bytes]:
    """Empty names, which cost the most for their bytes."""
    return AUTHORITIES, sized(sized(b"\x30\0") * (size // 4))


ANY_PSK = psk(os.urandom(32), bytes(32))
DHE = (PSK_MODES, b"\1\1")

HELLOS: dict[str, tuple[bytes, int]] = {
    # test-tls13-crfg-curves, -dhe-shared-secret-padding, -keyshare-omitted, -obsolete-curves
    "an X25519 share of zeros": (with_shares((X25519, bytes(32))), ILLEGAL),
    "an X25519 share of small order": (
        with_shares((X25519, b"\1" + bytes(31))), ILLEGAL
    ),
    "an X25519 share one byte short": (with_shares((X25519, os.urandom(31))), ILLEGAL),
    "an X25519 share one byte long": (with_shares((X25519, os.urandom(33))), ILLEGAL),
    "an empty share": (with_shares((X25519, b"")), DECODE),
    "a point that isn't on P-256": (
        with_shares((SECP256R1, b"\4" + bytes(63) + b"\1"), groups=[SECP256R1]), ILLEGAL
    ),
    "a point at infinity": (with_shares((SECP256R1, b"\0"), groups=[SECP256R1]), ILLEGAL),
    "a compressed point": (
        with_shares((SECP256R1, b"\2" + bytes(31) + b"\1"), groups=[SECP256R1]), ILLEGAL
    ),
    "X448 alone": (hello(groups=[0x1E], shares=[]), FAILURE),
    "finite fields alone": (hello(groups=[0x0100, 0x0104], shares=[]), FAILURE),
    "obsolete curves alone": (hello(groups=[1, 2, 19, 21], shares=[]), FAILURE),
    # test-tls13-legacy-version, -invalid-ciphers, -non-support
    "deflate offered": (with_compression(b"\1\0"), ILLEGAL),
    "deflate alone": (with_compression(b"\1"), ILLEGAL),
    "no compression method": (with_compression(b""), DECODE),
    # test-tls13-signature-algorithms, -rsapss-signatures
    "signatures of RSA alone": (hello(signatures=[(8, 4), (4, 1)]), FAILURE),
    "signatures nobody knows": (hello(signatures=[(0xFE, 0xFE)]), FAILURE),
    # test-tls13-psk_ke, -psk_dhe_ke, -session-resumption, -0rtt-garbage
    "a PSK that isn't last": (hello(more=[DHE, ANY_PSK, (0x4A4A, b"")]), ILLEGAL),
    "a PSK without a mode": (hello(more=[ANY_PSK]), MISSING),
    "an empty PSK extension": (hello(more=[DHE, (PSK, b"")]), DECODE),
    # others; more than 8 KiB is never parsed
    "26 KiB of authorities": (hello(more=[authorities(26_000)]), ILLEGAL),
    "4,000 extensions nobody knows": (
        hello(more=[(0x4000 + each, b"") for each in range(4_000)]), ILLEGAL
    ),
    "post_handshake_auth that isn't empty": (hello(more=[(AFTERWARDS, b"\0")]), DECODE),
    "early_data that isn't empty": (hello(more=[DHE, (EARLY_DATA, b"\0"), ANY_PSK]), DECODE),
}  # fmt: skip


@pytest.mark.parametrize("name", HELLOS)
def test_a_hello_that_is_wrong_gets_the_alert(door: Inbound, name: str) -> None:
    said, alert = HELLOS[name]
    with account(door, "handshake_failed"), RawClient(door.port) as stranger:
        received = stranger.send_bytes(records(said, 1 << 14)).receive_until_end()
    assert received.alert == OTHER_ALERTS.get(name, alert)
    assert record_types(received.data) == [ALERT]


GOOD = {
    "nothing special": hello(),
    "GREASE": hello(
        ciphers=[0x0A0A, 0x1301], groups=[0x1A1A, X25519], versions=[(0x2A, 0x2A), (3, 4)],
        signatures=[(0x3A, 0x3A), (4, 3)], more=[(0x4A4A, b"\0"), (0x5A5A, b"")],
    ),
    "1,900 extensions nobody knows": hello(more=[(0x4000 + each, b"") for each in range(1_900)]),
    "a PSK nobody knows": hello(more=[DHE, ANY_PSK]),
    "early data with a PSK nobody knows": hello(more=[DHE, (EARLY_DATA, b""), ANY_PSK]),
    "post_handshake_auth": hello(more=[(AFTERWARDS, b"")]),
    # expected failures, for which tlsfuzzer wants decode_error: OpenSSL looks neither at binders of
    # an identity that it doesn't know nor at a cookie that it hasn't given, and uses neither
    "a PSK without a binder": hello(more=[DHE, psk(b"id", b"")]),
    "an empty cookie": hello(more=[(COOKIE, b"\0\0")]),
    "TLS 1.5 too": hello(versions=[(3, 6), (3, 4), (3, 3)]),
    "all the ciphers": hello(ciphers=[*range(0x1301, 0x1306), *range(0xC02B, 0xC031)]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_hello_that_is_odd_gets_its_answer(door: Inbound, name: str) -> None:
    """A ServerHello, and the change_cipher_spec that middleboxes wait for (RFC 8446 §D.4)."""
    with ended(door, "handshake_failed"), RawClient(door.port) as stranger:
        stranger.send_bytes(records(GOOD[name], 1 << 14)).finish()
        types = record_types(stranger.receive_until_end().data)
    assert types[:3] == [HANDSHAKE, CHANGE_CIPHER_SPEC, APPLICATION_DATA]


# HelloRetryRequest (test-tls13-hrr, -shuffled-extentions).


def second(first: bytes, **how: Any) -> bytes:
    """A second hello with the first one's random."""
    again = hello(**how)
    return again[:6] + first[6:38] + again[38:]


RETRIES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "the same again": (lambda first: first, ILLEGAL),
    "a share of another group": (
        lambda first: second(first, groups=[X25519, SECP384R1], shares=[SECP384R1]), ILLEGAL
    ),
    "other ciphers": (
        lambda first: second(first, groups=[X25519, SECP384R1], ciphers=[0x1303]), ILLEGAL
    ),
    "no versions": (
        lambda first: second(first, groups=[X25519, SECP384R1], versions=[]), ILLEGAL
    ),
    "26 KiB of authorities": (
        lambda first: second(first, groups=[X25519, SECP384R1], more=[authorities(26_000)]), DECODE
    ),
    "another message": (lambda _: b"\x14\0\0\x20" + bytes(32), UNEXPECTED),
}  # fmt: skip


@pytest.mark.parametrize("name", RETRIES)
def test_a_second_hello_that_is_wrong_gets_the_alert(door: Inbound, name: str) -> None:
    again, alert = RETRIES[name]
    first = hello(groups=[X25519, SECP384R1], shares=[])
    with account(door, "handshake_failed"), RawClient(door.port) as stranger:
        assert stranger.send_bytes(record(first)).receive_record()[1][:1] == b"\2"
        received = stranger.send_bytes(records(again(first), 1 << 14)).receive_until_end()
    assert received.alert == OTHER_ALERTS.get(name, alert)


def test_no_expected_failure_is_of_a_case_that_is_gone() -> None:
    assert OTHER_ALERTS.keys() <= FLIGHTS.keys() | HELLOS.keys() | RETRIES.keys()
