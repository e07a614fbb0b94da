"""uproxy.transport.failures: what both engines say of the same thing, once."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from uproxy.contract import PLAIN, Candidate, Refusal, RefusedError, Route
from uproxy.errors import IdentityError, UntrustedError
from uproxy.libssl import TlsError
from uproxy.lifecycle import State
from uproxy.model import Alert, Limits, Outcome, TcpAddress, Timeouts
from uproxy.spiffe.presented import Excess
from uproxy.transport import failures
from uproxy.transport.failures import Failure
from uproxy.transport.native._engine import FAILURES

LIMITS = Limits(connections=7, per_source_connections=3, handshakes_in_flight=2)
ROUTE = Route("db", (), PLAIN, Timeouts())
DB = Candidate("db", (TcpAddress("10.0.0.1", 5432),))
EXPLAINED = (
    Outcome.HANDSHAKE_FAILED,
    Outcome.PEER_UNTRUSTED,
    Outcome.PROBED,
    Outcome.TIMED_OUT,
)
SHAKING = State.HANDSHAKING_DOWNSTREAM


def failure(what: str, error: int = 0, verdict: object = None, code: int = 0) -> Failure:
    """As a thread reports it of the peer."""
    return Failure(what, "the peer", SHAKING, error, code, verdict)


def handshake(error: BaseException) -> Refusal:
    return failures.handshake("the peer", error, 5.0)


@pytest.mark.parametrize("what", FAILURES.values())
def test_every_failure_of_a_thread_is_explained(what: str) -> None:
    if what in ("none", "cut"):
        with pytest.raises(ValueError, match=f"{what} has no cause"):
            failure(what).cause()
    elif what in failures.LIMITS:
        assert failures.limit(what, LIMITS).outcome is Outcome.LIMIT
    elif what in failures.STREAM_FAILURES:
        refusal = failures.candidate(failure(what, 503), ROUTE, DB, ())
        assert refusal.outcome is Outcome.CONNECT_FAILED
        assert refusal.reason.startswith("the peer")
    elif what in ("idle", "half_closed"):
        assert failures.relay(failure(what), ROUTE, None).outcome is Outcome.TIMED_OUT
    else:
        number = Excess.BYTES if what == "excess" else errno.ECONNRESET
        refusal = handshake(failure(what, number).cause())
        assert refusal.outcome in EXPLAINED
        assert refusal.reason


def test_a_failure_is_the_exception_that_the_python_engine_would_have_met() -> None:
    reset = failure("os", errno.ECONNRESET).cause()
    assert handshake(reset) == Refusal(Outcome.HANDSHAKE_FAILED, "reset by the peer")
    gone = failure("os", errno.ETIMEDOUT).cause()
    assert handshake(gone).reason == "the peer vanished: keepalive got no answer"
    late = failure("timeout").cause()
    assert handshake(late) == Refusal(
        Outcome.TIMED_OUT, "the peer didn't finish the handshake in 5 s: is it frozen, or far away?"
    )
    assert handshake(failure("verify").cause()).reason == "no memory left"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("short_hello", "the peer closed in the middle of a ClientHello"),
        ("short_handshake", "the peer closed in the middle of the handshake"),
        ("truncated", "the peer closed without a close_notify (truncated)"),
        ("unproven", "the handshake ended without a verified peer"),
        ("unasked", "the peer asked for no certificate: mutual TLS or none"),
    ],
)
def test_tls_that_broke_off_says_where(what: str, words: str) -> None:
    assert handshake(failure(what).cause()) == Refusal(Outcome.HANDSHAKE_FAILED, words)


def test_who_went_without_a_byte_has_failed_at_nothing() -> None:
    expected = Refusal(Outcome.PROBED, "the peer closed without a ClientHello")
    assert handshake(failure("no_hello").cause()) == expected


def test_a_refusal_of_the_verifier_keeps_its_own_words() -> None:
    untrusted = UntrustedError("X5-1", "not this one", Alert.UNKNOWN_CA)
    expected = Refusal(Outcome.PEER_UNTRUSTED, "not this one", "X5-1")
    assert handshake(failure("verify", verdict=untrusted).cause()) == expected
    other = Refusal(Outcome.PEER_UNEXPECTED, "another")
    assert handshake(failure("verify", verdict=RefusedError(other)).cause()) == other
    assert handshake(IdentityError("no such group")).reason == "no such group"


def test_a_verifiers_defect_is_no_refusal() -> None:
    with pytest.raises(ValueError, match="x"):
        handshake(failure("verify", verdict=ValueError("x")).cause())


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("evicted", "silent for the longest when connections were full"),
        (
            "stalled",
            "its handshake had stalled for the longest when 2 were in flight "
            "(limits.handshakes_in_flight)",
        ),
        ("slots", "2 handshakes are in flight (limits.handshakes_in_flight)"),
        ("full", "7 connections are open (limits.connections)"),
        ("source_full", "10.0.0.1 has 3 connections already (limits.per_source_connections)"),
    ],
)
def test_a_limit_is_named_with_its_number(what: str, words: str) -> None:
    refusal = Refusal(Outcome.LIMIT, words)
    assert failures.limit(what, LIMITS, TcpAddress("10.0.0.1", 4711)) == refusal
    assert failures.limit(what, LIMITS, "10.0.0.1") == refusal


def test_a_relay_ends_by_silence_a_reset_or_a_late_refusal_of_our_certificate() -> None:
    timeouts = Timeouts(idle=1.5, half_close=0.5)
    along = replace(ROUTE, timeouts=timeouts)
    idle, half_closed = failure("idle"), failure("half_closed")
    assert failures.relay(idle, along, None).reason == "nothing moved for 1.5 s"
    words = "one side had finished, the other sent nothing for 0.5 s"
    assert failures.relay(half_closed, along, None) == Refusal(Outcome.TIMED_OUT, words)
    reset = Refusal(Outcome.RESET, "reset by the peer")
    assert failures.relay(failure("os", errno.EPIPE), along, None) == reset
    # SSL_R_TLSV1_ALERT_UNKNOWN_CA of ERR_LIB_SSL
    refused = failure("after_handshake", code=20 << 23 | 1048)
    told = failures.relay(refused, along, 0.1)
    assert told.outcome is Outcome.HANDSHAKE_FAILED
    assert told.reason.startswith("the peer refused our certificate (unknown ca): ")


@pytest.mark.parametrize(
    ("what", "error", "age", "outcome"),
    [
        ("os", errno.ECONNRESET, 0.1, Outcome.PEER_REFUSED),
        ("truncated", 0, failures.REFUSED_WITHIN_S, Outcome.PEER_REFUSED),
        ("os", errno.ECONNRESET, failures.REFUSED_WITHIN_S + 0.1, Outcome.RESET),
        ("os", errno.ETIMEDOUT, 0.1, Outcome.RESET),
        ("tls", 0, 0.1, Outcome.RESET),
    ],
)
def test_only_a_cut_soon_after_the_handshake_is_probably_a_refusal(
    what: str, error: int, age: float, outcome: Outcome
) -> None:
    assert failures.relay(failure(what, error), ROUTE, age).outcome is outcome


def test_other_errors_are_the_systems_words() -> None:
    assert failures.describe("the peer", OSError(errno.ENOBUFS, "")).startswith("the peer failed: ")
    assert failures.describe("the peer", TlsError("as it is")) == "as it is"
