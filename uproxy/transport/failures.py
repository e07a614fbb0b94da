"""Why connections end, in the words of both engines: pure.

The Python engine's failures are exceptions; the compiled engine's threads report numbers, which
`Failure.cause` turns into the same exceptions.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

from uproxy import libssl, sockets, tlswords
from uproxy.contract import Candidate, Refusal, RefusedError, Route, Tunnel
from uproxy.errors import IdentityError, UntrustedError
from uproxy.libssl import TlsError
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, Limits, Outcome, TcpAddress, Timeouts
from uproxy.sockaddr import network_of
from uproxy.spiffe import presented
from uproxy.tlswords import UNASKED, UNPROVEN
from uproxy.transport.l7_failures import l7_proxy_of, refused_handshake

NAMES: Final = {
    Direction.INBOUND: ("the peer", "the application"),
    Direction.OUTBOUND: ("the application", "the peer"),
}
"""Who is downstream and who upstream, for the reasons."""

STOPPED: Final = Refusal(Outcome.DRAINED, "uProxy stopped")
DEFECT: Final = Refusal(Outcome.RESET, "a defect in uProxy: its log says more")

REFUSED_WITHIN_S: Final = 10.0
"""A server that cuts a connection within so many seconds of its acceptance, and has sent nothing,
has probably refused it; one that takes longer has been waiting for something else to fail."""

LIMITS: Final = frozenset({"slots", "full", "source_full", "evicted", "stalled", "held"})
"""The values of `Failure.what` that `limit` explains."""

_UNVERIFIED: Final = {"unproven": UNPROVEN, "unasked": UNASKED}

STREAM_FAILURES: Final = frozenset({"status", "stream_refused", "stream_reset"})
"""The values of `Failure.what` that `unopened` explains."""

NO_TUNNELS: Final = "does it take tunnels (HBONE) there, and may it have more streams?"
"""What to ask whoever runs an address at which no CONNECT gets an answer."""

_RESETS: Final = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)

_CLOSED: Final = {
    "no_hello": "closed without a ClientHello",
    "short_hello": "closed in the middle of a ClientHello",
    "short_handshake": "closed in the middle of the handshake",
    "truncated": "closed without a close_notify (truncated)",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step failed, as a thread of the compiled engine reports it."""

    what: str
    """One of the values of `_engine.FAILURES`."""
    who: str
    """The name of the side that failed, as reasons say it: `the peer`, `the application`."""
    state: State
    error: int
    """An errno, for `os`; a `presented.Excess`, for `excess`; the answer's number, for `status`;
    HTTP/2's error code, for `stream_reset`."""
    code: int
    """OpenSSL's error code, for `tls` and `after_handshake`; HTTP/2's, for `http2`; the size in
    bytes, or the number, that was too large, for `excess`."""
    verdict: object
    """The exception that refused the peer, for `verify`; the rule that the peer has broken, in
    words, for `http2`."""
    flood: str = ""
    """For `http2`: of what the peer has sent too much, a value of `hbone.budgets.Flood`; empty: it
    has broken another rule."""

    def cause(self) -> BaseException:
        """Return the exception with which the Python engine reports the same failure.

        Raises:
            ValueError: `what` is no failure of a handshake or a relay.
        """
        if self.what in _CLOSED:
            return closed(self.who, self.what)
        if self.what in _UNVERIFIED:
            return TlsError(_UNVERIFIED[self.what])
        match self.what:
            case "os":
                return OSError(self.error, "")
            case "timeout":
                return TimeoutError()
            case "tls" | "after_handshake":
                return libssl.in_words(self.code)
            case "verify" if isinstance(self.verdict, BaseException):
                return self.verdict
            case "excess":
                return presented.refusal(self.error, self.code)
            case "http2":
                return broken_http2(self.who, self.code, str(self.verdict), self.flood)
            case "memory" | "verify":  # no memory for the verdict either
                return MemoryError()
        raise ValueError(f"{self.what} has no cause")


class ProbedError(TlsError):
    """A client connected to a door with TLS and closed without sending a byte, as probes do."""


class TruncatedError(TlsError):
    """A peer closed TCP without the close_notify that ends TLS."""


class BrokenHttp2Error(TlsError):
    """The peer of a tunnel broke a rule of HTTP/2 that ends the tunnel; `breach` is as in
    `contract.Refusal`."""

    def __init__(self, reason: str, breach: str) -> None:
        super().__init__(reason)
        self.breach = breach


_KINDS: Final = {"no_hello": ProbedError, "truncated": TruncatedError}


def closed(who: str, what: str) -> TlsError:
    """Return the error of a side that closed TCP before TLS had ended; `what`: a value of
    `_engine.FAILURES`."""
    return _KINDS.get(what, TlsError)(f"{who} {_CLOSED[what]}")


def describe(who: str, error: BaseException) -> str:
    """Return what happened to a side's socket or TLS, in one line.

    Raises:
        BaseException: `error`, where it is a defect.
    """
    if isinstance(error, TlsError):
        return error.reason
    if isinstance(error, MemoryError):
        return "no memory left"
    if not isinstance(error, OSError):
        raise error
    if error.errno in _RESETS:
        return f"reset by {who}"
    if error.errno == errno.ETIMEDOUT:
        return f"{who} vanished: keepalive got no answer"
    if error.errno == errno.ENOLINK:
        return f"the tunnel to {who} was lost"
    return f"{who} failed: {os.strerror(error.errno or 0).lower()}"


def limit(what: str, limits: Limits, source: Address | str = "") -> Refusal:
    """Return the refusal by a limit; `what`: one of LIMITS; `source`: the address, or network, that
    connected."""
    most = limits.handshakes_in_flight
    if what == "evicted":
        why = "silent for the longest when connections were full"
    elif what == "stalled":
        why = (
            f"its handshake had stalled for the longest when {most} were in flight "
            "(limits.handshakes_in_flight)"
        )
    elif what == "slots":
        why = f"{most} handshakes are in flight (limits.handshakes_in_flight)"
    elif what == "held":
        why = "its reader stalled while its tunnel kept too many bytes for its streams"
    elif what == "full":
        why = f"{limits.connections} connections are open (limits.connections)"
    else:
        who = network_of(source) if isinstance(source, TcpAddress) else source
        most = limits.per_source_connections
        why = f"{who} has {most} connections already (limits.per_source_connections)"
    return Refusal(Outcome.LIMIT, why)


def handshake(who: str, error: BaseException, seconds: float, shown: str | None = None) -> Refusal:
    """Return the refusal for a handshake that failed; `seconds`: its deadline; `shown`: the SPIFFE
    ID that we show in it.

    Raises:
        BaseException: `error`, where it is a defect.
    """
    if isinstance(error, UntrustedError):
        return Refusal(Outcome.PEER_UNTRUSTED, error.reason, error.rule, error.claim)
    if isinstance(error, RefusedError):
        return error.refusal
    if isinstance(error, IdentityError):
        return Refusal(Outcome.HANDSHAKE_FAILED, str(error))
    if isinstance(error, TimeoutError) and error.errno is None:  # the kernel's has a number
        why = f"{who} didn't finish the handshake in {seconds:g} s: is it frozen, or far away?"
        return Refusal(Outcome.TIMED_OUT, why)
    if isinstance(error, TlsError) and error.alert is not None:
        return Refusal(Outcome.HANDSHAKE_FAILED, tlswords.refusal(who, error.alert, shown))
    outcome = Outcome.PROBED if isinstance(error, ProbedError) else Outcome.HANDSHAKE_FAILED
    return Refusal(outcome, describe(who, error))


def no_address(route: Route) -> Refusal:
    """Return the refusal for a route without candidates."""
    return Refusal(Outcome.CONNECT_FAILED, f"{route.destination} has no address to try")


def unreachable(error: int, address: Address, server: str) -> Refusal:
    """Return the refusal for connect(2) having failed with an errno; `server`: what should listen
    there."""
    return Refusal(Outcome.CONNECT_FAILED, sockets.explain(error, address, server))


def server_of(route: Route, tried: Candidate) -> str:
    """Return what should listen where a candidate is dialled, in words: with TLS that is another
    proxy, and whether its application runs can't be seen from here."""
    upstream = route.upstream_of(tried)
    if isinstance(upstream, Tunnel) and upstream.via is not None:
        return f"the L7 proxy {upstream.via}"
    return "the application" if upstream.plan is None else f"the proxy of {route.destination}"


def no_answer(addresses: tuple[Address, ...], seconds: float) -> Refusal:
    """Return the refusal for addresses none of which answered within `seconds`."""
    where = ", ".join(map(str, addresses))
    why = f"no answer from {where} in {seconds:g} s: is it there, does a firewall drop?"
    return Refusal(Outcome.TIMED_OUT, why)


def unanswered_connect(who: str, seconds: float) -> Refusal:
    """Return the refusal for the end of a tunnel that didn't answer a CONNECT within `seconds`."""
    why = f"{who} didn't answer the CONNECT in {seconds:g} s: is it frozen, or waiting itself?"
    return Refusal(Outcome.TIMED_OUT, why)


def candidate(
    failure: Failure, route: Route, tried: Candidate, addresses: tuple[Address, ...]
) -> Refusal:
    """Return the refusal for a candidate whose connect or handshake failed, or whose CONNECT;
    `addresses`: those that were dialled."""
    if failure.what in STREAM_FAILURES:
        return unopened(failure, at_l7=l7_proxy_of(route, tried) is not None)
    if failure.what == "after_handshake" and failure.state is State.OPENING_STREAM:
        at_l7 = l7_proxy_of(route, tried) is not None
        refused = refused_handshake(failure.who, failure.cause(), route.shown, at_l7=at_l7)
        return refused or Refusal(Outcome.CONNECT_FAILED, f"{failure.who} ended the tunnel")
    if failure.what == "http2":
        return broke_http2(failure.who, failure.verdict)
    if failure.state is State.HANDSHAKING_UPSTREAM:
        return handshake(failure.who, failure.cause(), route.timeouts.handshake, route.shown)
    if failure.what == "timeout" and failure.state is State.OPENING_STREAM:
        return unanswered_connect(failure.who, route.timeouts.connect)
    if failure.what == "timeout":
        return no_answer(addresses, route.timeouts.connect)
    return unreachable(failure.error, addresses[0], server_of(route, tried))


def broke_http2(who: str, rule: object) -> Refusal:
    """Return the refusal for the end of a tunnel that broke a rule of HTTP/2 before it answered a
    CONNECT."""
    return Refusal(Outcome.CONNECT_FAILED, f"{who} broke HTTP/2: {rule}: {NO_TUNNELS}")


def broken_http2(who: str, code: int, rule: str, flood: str) -> BrokenHttp2Error:
    """Return the error of a side that broke a rule of HTTP/2, which ends its tunnel with a code;
    `flood`: as in Failure."""
    from uproxy.hbone.codes import ErrorCode  # to save memory where there are no tunnels

    name = ErrorCode.of(code).name
    return BrokenHttp2Error(f"{who} broke HTTP/2 ({name}): {rule}", flood or name.lower())


def unserved(reason: str, code: int) -> Refusal:
    """Return the refusal of a request on a tunnel that got no stream; `code`: HTTP/2's error code,
    which is REFUSED_STREAM for one too many."""
    from uproxy.hbone.codes import ErrorCode  # to save memory where there are no tunnels

    is_limit = code == ErrorCode.REFUSED_STREAM
    return Refusal(Outcome.LIMIT if is_limit else Outcome.NO_DESTINATION, reason)


def unopened(failure: Failure, *, at_l7: bool = False) -> Refusal:
    """Return the refusal for a CONNECT that was refused, by an L7 proxy or not; `failure.what`: one
    of STREAM_FAILURES."""
    from uproxy.hbone import statuses  # to save memory where there are no tunnels
    from uproxy.hbone.codes import ErrorCode

    if failure.what == "stream_refused":
        why = f"{failure.who} takes no stream on its tunnels: {NO_TUNNELS}"
        return Refusal(Outcome.CONNECT_FAILED, why)
    if failure.what == "status":
        return Refusal(*statuses.meaning_of(failure.error, at_l7=at_l7))
    return Refusal(*statuses.meaning_of_reset(ErrorCode.of(failure.error), at_l7=at_l7))


def idle(timeouts: Timeouts, *, half_closed: bool) -> Refusal:
    """Return the refusal for a connection on which no byte moved for too long."""
    if half_closed:
        seconds = timeouts.half_close
        why = f"one side had finished, the other sent nothing for {seconds:g} s"
    else:
        why = f"nothing moved for {timeouts.idle:g} s"
    return Refusal(Outcome.TIMED_OUT, why)


def is_cut(error: BaseException) -> bool:
    """Whether the other end has ended a TLS connection without saying so in TLS."""
    return isinstance(error, TruncatedError) or (
        isinstance(error, OSError) and error.errno in _RESETS
    )


def broken(who: str, error: BaseException) -> Refusal:
    """Return the refusal for a side that failed while bytes were relayed."""
    breach = error.breach if isinstance(error, BrokenHttp2Error) else None
    return Refusal(Outcome.RESET, describe(who, error), breach=breach)


def ended_tunnel(who: str, error: BaseException) -> Refusal:
    """Return why a tunnel that we have dialled has ended.  If with an alert, its far end has
    refused our certificate, which under TLS 1.3 it says behind the handshake."""
    if isinstance(error, TlsError) and error.alert is not None:
        return handshake(who, error, 0)
    return broken(who, error)


def unanswered(who: str, error: BaseException, age: float) -> Refusal:
    """Return the refusal for a TLS server that failed while bytes were relayed, and hadn't sent
    any; `age`: seconds since the connection was accepted."""
    refusal = broken(who, error)
    if not is_cut(error) or age > REFUSED_WITHIN_S:
        return refusal
    # what a proxy refuses after the handshake, it resets: our own do
    why = f"{refusal.reason} before its first byte, probably refused there: its log says why"
    return Refusal(Outcome.PEER_REFUSED, why)


def relay(failure: Failure, route: Route, unanswered_for: float | None) -> Refusal:
    """Return the refusal for a failure of the compiled engine's relay along a route.

    `unanswered_for`: if the side that failed is a TLS server that has sent nothing, the seconds
    since the connection was accepted; otherwise None.
    """
    if failure.what in ("idle", "half_closed"):
        return idle(route.timeouts, half_closed=failure.what == "half_closed")
    # under TLS 1.3 a client learns that its certificate was refused when its handshake has ended
    if failure.what == "after_handshake":
        return handshake(failure.who, failure.cause(), 0, route.shown)
    if unanswered_for is not None:
        return unanswered(failure.who, failure.cause(), unanswered_for)
    return broken(failure.who, failure.cause())
