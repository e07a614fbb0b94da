"""What the threads report of a failure, in the words of an ending: pure."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from uproxy import libssl, sockets
from uproxy.contract import Refusal, RefusedError, Route
from uproxy.errors import UntrustedError
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, Limits, Outcome, TcpAddress
from uproxy.transport.dial import no_answer


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step failed."""

    what: str
    """As in `_engine.FAILURES`."""
    who: str
    """The side, as reasons name it."""
    state: State
    error: int
    """errno, for `os`."""
    code: int
    """OpenSSL's, for `tls`."""
    verdict: object
    """The exception that refused the peer, for `verify`."""


NAMES = {
    Direction.INBOUND: ("the peer", "the application"),
    Direction.OUTBOUND: ("the application", "the peer"),
}
"""Of the near and the far side."""

STOPPED = Refusal(Outcome.DRAINED, "uProxy stopped")

LIMITS = frozenset({"slots", "full", "source_full", "evicted"})
"""What the limits say no with."""

_CLOSED = {
    "no_hello": "closed without a ClientHello",
    "short_hello": "closed in the middle of a ClientHello",
    "short_handshake": "closed in the middle of the handshake",
}


def limit(failure: Failure, limits: Limits, source: Address) -> Refusal:
    """Why there was no room."""
    if failure.what == "evicted":
        why = "silent for the longest when connections were full"
    elif failure.what == "slots":
        most = limits.handshakes_in_flight
        why = f"{most} handshakes are in flight (limits.handshakes_in_flight)"
    elif failure.what == "full":
        why = f"{limits.connections} connections are open (limits.connections)"
    else:
        host = source.host if isinstance(source, TcpAddress) else source
        most = limits.per_source_connections
        why = f"{host} has {most} connections already (limits.per_source_connections)"
    return Refusal(Outcome.LIMIT, why)


def handshake(failure: Failure, limit: float) -> Refusal:
    """Why a handshake failed, on either side; `limit` was its deadline.

    Raises:
        BaseException: what the verifier raised that is no refusal.
    """
    verdict = failure.verdict
    if failure.what == "timeout":
        why = f"{failure.who} didn't finish the handshake in {limit:g} s"
        return Refusal(Outcome.TIMED_OUT, why)
    if failure.what == "verify" and isinstance(verdict, UntrustedError):
        return Refusal(Outcome.PEER_UNTRUSTED, verdict.reason, verdict.rule)
    if failure.what == "verify" and isinstance(verdict, RefusedError):
        return verdict.refusal
    if failure.what == "verify" and isinstance(verdict, BaseException):
        raise verdict  # a defect of the verifier
    return Refusal(Outcome.HANDSHAKE_FAILED, _words(failure))


def far_step(failure: Failure, route: Route, addresses: tuple[Address, ...]) -> Refusal:
    """Why a candidate couldn't be reached, or be shaken hands with."""
    if failure.state is State.HANDSHAKING_FAR:
        return handshake(failure, route.timeouts.handshake)
    if failure.what == "timeout":
        return no_answer(addresses, route.timeouts.connect)
    return Refusal(Outcome.CONNECT_FAILED, sockets.explain(failure.error, addresses[0]))


def relay(failure: Failure, route: Route) -> Refusal:
    """Why a relay ended."""
    if failure.what == "idle":
        return Refusal(Outcome.TIMED_OUT, f"nothing moved for {route.timeouts.idle:g} s")
    if failure.what == "half_closed":
        limit = route.timeouts.half_close
        why = f"one side had finished, the other sent nothing for {limit:g} s"
        return Refusal(Outcome.TIMED_OUT, why)
    if failure.what == "after_handshake":
        return Refusal(Outcome.HANDSHAKE_FAILED, _words(failure))
    return Refusal(Outcome.RESET, _words(failure))


def _words(failure: Failure) -> str:
    if failure.what in ("tls", "after_handshake"):
        return libssl.in_words(failure.code).reason
    if failure.what in _CLOSED:
        return f"{failure.who} {_CLOSED[failure.what]}"
    if failure.what == "truncated":
        return f"{failure.who} closed without a close_notify (truncated)"
    if failure.what == "unproven":
        return "the handshake ended without a verified peer"
    if failure.what == "unasked":
        return "the peer asked for no certificate: mutual TLS or none"
    if failure.what in ("memory", "verify"):  # a verdict has its own words, unless there is none
        return "no memory left"
    return _system(failure)


def _system(failure: Failure) -> str:
    if failure.error in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
        return f"reset by {failure.who}"
    if failure.error == errno.ETIMEDOUT:
        return f"{failure.who} vanished: keepalive got no answer"
    return f"{failure.who} failed: {os.strerror(failure.error).lower()}"
