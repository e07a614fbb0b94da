"""A stranger on tlslite-ng shakes hands wrongly: without a certificate, with somebody else's,
with one that breaks a rule, with messages left out, repeated or forged.

Nothing of it reaches the application; each gets the alert that fits, one line and one count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from tests.helpers import hostile_account
from tests.helpers.endings import ended, only
from tests.helpers.hostile_account import FRONTEND, account, answers, costs_no_memory, serves
from tests.helpers.hostile_client import (
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    TLS_1_2,
    TLS_1_3,
    HostileClient,
    Received,
    Twist,
    certificates,
    hello,
    instead,
    message,
    raw,
    unchanged,
)
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, Inbound
from uproxy.lab.pki import Authority, Issued

door = hostile_account.door
counted_door = hostile_account.counted_door
classic = hostile_account.classic

UNEXPECTED, FAILURE, BAD, UNSUPPORTED, EXPIRED, ILLEGAL = 10, 40, 42, 43, 45, 47
UNKNOWN_CA, DECODE, DECRYPT, REQUIRED = 48, 50, 51, 116
"""Alerts (RFC 8446 §6)."""

CERTIFICATE, VERIFY, KEY_EXCHANGE, FINISHED = 11, 15, 16, 20
"""Handshake messages (RFC 8446 §4)."""

HOUR = timedelta(hours=1)
STRANGE = "unexpected message"
NO_KEY = "the peer doesn't hold its certificate's key"


@dataclass(frozen=True, slots=True)
class Shown:
    """How a stranger shakes hands, and what becomes of it."""

    alert: int
    words: str
    """Of the error in the access log."""
    chain: Issued | None
    signs: Issued | None = None
    twist: Twist = unchanged
    rule: str | None = None
    """Of the SPIFFE rules; None: the handshake fails before they are asked."""
    may_miss: bool = False
    """The stranger may not hear the alert: it is still talking when the connection ends."""


def kind_of(said: Any) -> int | None:
    return getattr(said, "handshakeType", None)


def with_first(kind: int, other: Any) -> Twist:
    """`other` goes before each message of a kind."""

    def twist(said: Any) -> Iterable[Any]:
        return (other, said) if kind_of(said) == kind else (said,)

    return twist


def twice(kind: int) -> Twist:
    def twist(said: Any) -> Iterable[Any]:
        return (said, said) if kind_of(said) == kind else (said,)

    return twist


def changed(kind: int, **fields: Any) -> Twist:
    """Other values in each message of a kind."""

    def twist(said: Any) -> Iterable[Any]:
        if kind_of(said) == kind:
            for name, value in fields.items():
                setattr(said, name, value)
        return (said,)

    return twist


def without(*kinds: int) -> Twist:
    def twist(said: Any) -> Iterable[Any]:
        return () if kind_of(said) in kinds else (said,)

    return twist


def without_change(said: Any) -> Iterable[Any]:
    return () if said.contentType == CHANGE_CIPHER_SPEC else (said,)


def forged(ca: Authority, web: Issued) -> Mapping[str, Shown]:
    """Handshakes that TLS itself refuses."""

    def shows(alert: int, words: str, twist: Twist) -> Shown:
        return Shown(alert, words, web, twist=twist)

    return {
        "an empty list": Shown(REQUIRED, "the peer showed no certificate", None),
        "no Certificate": shows(UNEXPECTED, STRANGE, without(CERTIFICATE)),
        "no CertificateVerify": shows(UNEXPECTED, STRANGE, without(VERIFY)),
        "neither": shows(UNEXPECTED, STRANGE, without(CERTIFICATE, VERIFY)),
        "somebody's certificate": Shown(DECRYPT, NO_KEY, web, signs=ca.issue(FRONTEND)),
        "an RSA signature": shows(
            ILLEGAL, "wrong signature type", changed(VERIFY, signatureAlgorithm=(8, 4))
        ),
        "a signature with SHA-1": shows(
            ILLEGAL, "wrong signature type", changed(VERIFY, signatureAlgorithm=(2, 3))
        ),
        "no signature": shows(DECRYPT, NO_KEY, changed(VERIFY, signature=bytearray())),
        "a signature of zeros": shows(
            DECRYPT, NO_KEY, changed(VERIFY, signature=bytearray(b"\x30\6\2\1\0\2\1\0"))
        ),
        "a signature of 60,000 bytes": shows(
            DECRYPT, NO_KEY, changed(VERIFY, signature=bytearray(60_000))
        ),
        "a wrong Finished": shows(
            DECRYPT, "digest check failed", changed(FINISHED, verify_data=bytearray(32))
        ),
        "Certificate twice": shows(UNEXPECTED, STRANGE, twice(CERTIFICATE)),
        "CertificateVerify twice": shows(UNEXPECTED, STRANGE, twice(VERIFY)),
        "another ClientHello": shows(
            UNEXPECTED, STRANGE, with_first(CERTIFICATE, message(1, hello()[4:]))
        ),
        "a list that lies": shows(
            DECODE,
            "length mismatch",
            instead(CERTIFICATE, message(CERTIFICATE, b"\0\xff\xff\xff" + bytes(100))),
        ),
        "a context nobody gave": shows(
            DECODE, "invalid context", instead(CERTIFICATE, message(CERTIFICATE, b"\4abcd\0\0\0"))
        ),
        "a compressed certificate": shows(
            UNEXPECTED, STRANGE, instead(CERTIFICATE, message(25, b"\0\1\xff\xff\xff\0\0\4abcd"))
        ),
        "an empty record of handshake": shows(
            UNEXPECTED, "", with_first(CERTIFICATE, raw(HANDSHAKE, b""))
        ),
        "empty data": shows(
            UNEXPECTED, "unexpected record", with_first(CERTIFICATE, raw(APPLICATION_DATA, b""))
        ),
        "data before Finished": shows(
            UNEXPECTED, "unexpected record", with_first(FINISHED, raw(APPLICATION_DATA, b"early"))
        ),
        "KeyUpdate before Finished": shows(
            UNEXPECTED, STRANGE, with_first(FINISHED, message(24, b"\1"))
        ),
        "EndOfEarlyData": shows(UNEXPECTED, STRANGE, with_first(CERTIFICATE, message(5, b""))),
        "a session ticket": shows(UNEXPECTED, STRANGE, with_first(FINISHED, message(4, bytes(20)))),
    }


def unreadable(ca: Authority, web: Issued) -> Mapping[str, Shown]:
    """Certificates that are none (corrupt: bad_certificate, or decode_error where not even the leaf
    can be decoded), and too many of them: RFC 8446 §6.2, docs/reference/spiffe-rules.md."""
    der = web.der[0]

    def odd(alert: int, *ders: bytes) -> Shown:
        twist = instead(CERTIFICATE, certificates(ders))
        return Shown(alert, "what is no certificate", web, twist=twist, rule="X5-14")

    def many(alert: int, words: str, kib: int, *, may_miss: bool = False) -> Shown:
        chain = padded(ca, web, kib)
        return Shown(alert, words, chain, rule="UP-1", may_miss=may_miss)

    large = "message of more than 100 KiB"
    endless = instead(CERTIFICATE, raw(HANDSHAKE, b"\x0b\xff\xff\xff"))
    return {
        "noise for a certificate": odd(DECODE, b"\xff" * 400),
        "a certificate cut short": odd(DECODE, der[:-20]),
        "bytes behind a certificate": odd(DECODE, der + b"more"),
        "noise behind the leaf": odd(BAD, der, b"\xff" * 400),
        "an empty certificate": odd(DECODE, b""),
        "50 KiB of certificates": many(BAD, "at most 10 are read", 50),
        "95 KiB of them": many(DECODE, "at most 10 are read", 95),
        "more than 100 KiB of them": many(ILLEGAL, large, 101, may_miss=True),
        "1 MiB of them": many(ILLEGAL, large, 1024, may_miss=True),
        "16 MiB of them": Shown(ILLEGAL, large, web, twist=endless, rule="UP-1"),
    }


def padded(ca: Authority, web: Issued, kib: int) -> Issued:
    """A good leaf, behind which so many KiB of other certificates go."""
    size = len(ca.der)
    return Issued((web.certificate, *[ca.certificate] * (kib * 1024 // size + 1)), web.key)


def untrusted(ca: Authority, stranger: Authority) -> Mapping[str, Shown]:
    """Chains that our rules refuse."""

    def by(rule: str, alert: int, words: str, issued: Issued) -> Shown:
        return Shown(alert, words, issued, rule=rule)

    past = {"not_before": ca.now - 2 * HOUR, "not_after": ca.now - HOUR}
    later = {"not_before": ca.now + HOUR, "not_after": ca.now + 2 * HOUR}
    no_id = "no URI name"
    return {
        "expired": by("X5-14", EXPIRED, "expired at", ca.issue(FRONTEND, **past)),
        "not yet valid": by("X5-14", EXPIRED, "not valid before", ca.issue(FRONTEND, **later)),
        "another trust domain": by("X5-17", UNKNOWN_CA, "no bundle", stranger.issue(FRONTEND)),
        "another CA of our name": by(
            "X5-14", UNKNOWN_CA, "no root", Authority("example.org").issue(FRONTEND)
        ),
        "our CA's name only": by("X5-14", UNKNOWN_CA, "no root", ca.issue(FRONTEND, forged=True)),
        "two identities": by("X5-2", BAD, "2 URI names", ca.issue(uris=(WEB, ORDERS))),
        "a host's name": by("X5-1", BAD, no_id, ca.issue(uris=(), dns=("example.org",))),
        "no name": by("X5-1", BAD, no_id, ca.issue(without_san=True)),
        "a CA as a leaf": by(
            "X5-8", BAD, "signing", ca.issue(FRONTEND, ca=True, key_usage=("key_cert_sign",))
        ),
        "the CA itself": by("X5-8", BAD, "signing", Issued((ca.certificate,), ca.key)),
        "a weak key": by("X5-14", UNSUPPORTED, "weak", ca.issue(FRONTEND, key="rsa1024")),
        "an extension nobody knows": by(
            "X5-14", BAD, "critical", ca.issue(FRONTEND, unknown_critical=True)
        ),
    }


def forged_in_tls_1_2(ca: Authority, web: Issued, stranger: Authority) -> Mapping[str, Shown]:
    """What differs, or matters more, without TLS 1.3."""
    early = raw(CHANGE_CIPHER_SPEC, b"\1")
    return {
        "an empty list": Shown(FAILURE, "the peer showed no certificate", None),
        "no Certificate": Shown(UNEXPECTED, STRANGE, web, twist=without(CERTIFICATE)),
        "no ClientKeyExchange": Shown(UNEXPECTED, STRANGE, web, twist=without(KEY_EXCHANGE)),
        "no CertificateVerify": Shown(UNEXPECTED, STRANGE, web, twist=without(VERIFY)),
        "no ChangeCipherSpec": Shown(UNEXPECTED, STRANGE, web, twist=without_change),
        "an early ChangeCipherSpec": Shown(
            UNEXPECTED, STRANGE, web, twist=with_first(CERTIFICATE, early)
        ),
        "somebody's certificate": Shown(DECRYPT, NO_KEY, web, signs=ca.issue(FRONTEND)),
        "a wrong Finished": Shown(
            DECRYPT, "digest", web, twist=changed(FINISHED, verify_data=bytearray(12))
        ),
        "another trust domain": Shown(
            UNKNOWN_CA, "no bundle", stranger.issue(FRONTEND), rule="X5-17"
        ),
        "two identities": Shown(BAD, "2 URI", ca.issue(uris=(WEB, ORDERS)), rule="X5-2"),
    }


@pytest.fixture(scope="module")
def web(file_world: FileWorld) -> Issued:
    return file_world.ca.issue(FRONTEND)


@pytest.fixture(scope="module")
def handshakes(file_world: FileWorld, web: Issued) -> Mapping[str, Shown]:
    ca, stranger = file_world.ca, file_world.stranger_ca
    return {**forged(ca, web), **unreadable(ca, web), **untrusted(ca, stranger)}


@pytest.fixture(scope="module")
def old_handshakes(file_world: FileWorld, web: Issued) -> Mapping[str, Shown]:
    return forged_in_tls_1_2(file_world.ca, web, file_world.stranger_ca)


_CA = Authority("example.org")
NAMES = [
    *forged(_CA, _CA.issue()),
    *unreadable(_CA, _CA.issue()),
    *untrusted(_CA, Authority("stranger.test")),
]
OLD_NAMES = list(forged_in_tls_1_2(_CA, _CA.issue(), Authority("stranger.test")))


def answer_to(uproxy: Inbound, shown: Shown, version: tuple[int, int] = TLS_1_3) -> Received:
    with HostileClient(
        uproxy.port, shown.chain, signs=shown.signs, twist=shown.twist, version=version
    ) as stranger:
        return stranger.refused()


def check(uproxy: Inbound, shown: Shown, version: tuple[int, int]) -> None:
    outcome = "peer_untrusted" if shown.rule else "handshake_failed"
    with account(uproxy, outcome, rule=shown.rule) as lines:
        heard = answer_to(uproxy, shown, version)

    assert heard.data == b""
    assert heard.alert == shown.alert or (shown.may_miss and heard.alert is None)
    line = only(lines)
    assert shown.words in line["error"]
    assert line["src.identity"] is None
    assert (line["bytes_recv"], line["bytes_sent"]) == (0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_refused(door: Inbound, handshakes: Mapping[str, Shown], name: str) -> None:
    check(door, handshakes[name], TLS_1_3)


@pytest.mark.parametrize("name", OLD_NAMES)
def test_it_is_refused_in_tls_1_2(
    classic: Inbound, old_handshakes: Mapping[str, Shown], name: str
) -> None:
    check(classic, old_handshakes[name], TLS_1_2)


def test_a_caller_whom_no_rule_allows_sees_a_reset(door: Inbound, file_world: FileWorld) -> None:
    unwanted = file_world.ca.issue("/ns/web/sa/unwanted")
    with ended(door, "denied") as lines, HostileClient(door.port, unwanted) as stranger:
        heard = stranger.refused()
    assert heard == Received(b"", None, reset=True)
    assert only(lines)["src.identity"] == unwanted.spiffe_id


def test_what_a_chain_needs_not_does_no_harm_up_to_ten_certificates(
    door: Inbound, file_world: FileWorld, web: Issued
) -> None:
    """The path is found among what is sent, and what isn't part of it isn't looked at."""
    others = [file_world.ca.certificate, file_world.stranger_ca.certificate]
    serves(door, Issued((web.certificate, *others * 4, others[0]), web.key))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_again_and_again_it_costs_no_memory(
    counted_door: Inbound, web: Issued, handshakes: Mapping[str, Shown]
) -> None:
    attacks = [partial(answer_to, counted_door, shown) for shown in handshakes.values()]
    costs_no_memory(counted_door, attacks)
    answers(counted_door, web)
