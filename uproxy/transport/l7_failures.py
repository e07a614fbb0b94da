"""What becomes of a connection that an L7 proxy doesn't serve, in words: pure.

Rules: an L7 proxy that can't be reached, completes no handshake, answers nothing or answers
nonsense is unavailable, and another one is tried; one that refuses, be it our certificate, has
decided, so that nobody goes past it; one that proves another identity is refused like any peer.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Final

from uproxy import tlswords
from uproxy.contract import Candidate, Ending, Refusal, Route, Tunnel
from uproxy.libssl import TlsError
from uproxy.lifecycle import State
from uproxy.model import Outcome, TcpAddress

_UNAVAILABLE: Final = frozenset(
    {Outcome.CONNECT_FAILED, Outcome.TIMED_OUT, Outcome.HANDSHAKE_FAILED}
)
_NAMED: Final = frozenset({Outcome.PEER_UNTRUSTED, Outcome.PEER_UNEXPECTED, Outcome.L7_REFUSED})
_SETTINGS: Final = {
    Outcome.HANDSHAKE_FAILED: "addresses: is this where it takes tunnels?",
    Outcome.PEER_UNEXPECTED: "identities",
}
"""Where to look in the configuration, for what is most likely wrong there."""


def l7_proxy_of(route: Route, candidate: Candidate) -> str | None:
    """Return the name of the L7 proxy through which a candidate is reached; None: through none."""
    upstream = route.upstream_of(candidate)
    return upstream.via if isinstance(upstream, Tunnel) else None


def named(via: str | None, end: TcpAddress | None, why: Refusal) -> Refusal:
    """Return why an attempt failed, with the L7 proxy's name and address, if it went `via` one."""
    if via is None or why.outcome not in _UNAVAILABLE | _NAMED:
        return why
    is_unavailable = why.outcome in _UNAVAILABLE
    setting = _SETTINGS.get(why.outcome)
    where = "" if setting is None else f" (l7_proxies.{via}.{setting})"
    return replace(
        why,
        outcome=Outcome.L7_UNAVAILABLE if is_unavailable else why.outcome,
        reason=f"L7 proxy {via} at {end}: {why.reason}{where}",
    )


def left_after(
    route: Route, failed: Candidate, why: Refusal, left: tuple[Candidate, ...]
) -> tuple[Candidate, ...]:
    """Return which candidates are still tried after one that failed because of `why`: none at an
    L7 proxy's address that is unavailable, and past an L7 proxy only if it is unavailable."""
    if l7_proxy_of(route, failed) is None:
        return left
    if why.outcome is Outcome.L7_UNAVAILABLE:
        end = _end_of(route, failed)
        return tuple(each for each in left if _end_of(route, each) != end)
    return tuple(each for each in left if l7_proxy_of(route, each) is not None)


def failed(via: str, end: TcpAddress | None, error: int | None, *, is_soon: bool) -> Refusal | None:
    """Return the refusal for a stream through an L7 proxy that has failed while bytes were relayed;
    None: nothing is known but the error.

    Args:
        error: ENOLINK: its tunnel was lost; ECONNRESET: the proxy has reset it, or closed it; other
            numbers, and None, say nothing about the proxy.
        is_soon: whether no byte had come back yet, and the connection is young.
    """
    if error == errno.ENOLINK:
        why = f"L7 proxy {via} at {end}: its tunnel was lost, and what was under way on it"
        return Refusal(Outcome.RESET, why)
    return _cut_off(via, end) if error == errno.ECONNRESET and is_soon else None


def _cut_off(via: str, end: TcpAddress | None) -> Refusal:
    # Envoy answers a CONNECT before it dials the destination (hop 3)
    why = (
        "reset before the first byte: it can't reach the destination, found another identity there "
        "than we expect, or was refused: its access log, and that of the destination's proxy, say "
        "which"
    )
    return named(via, end, Refusal(Outcome.L7_REFUSED, why))


def stranded(via: str, end: TcpAddress | None, duration: float) -> Ending:
    """Return the end of a stream with which its connection doesn't end: the tunnel to an L7 proxy
    was lost, and no byte had passed; `duration`: seconds since it was accepted."""
    why = named(via, end, Refusal(Outcome.CONNECT_FAILED, "lost before a byte had passed"))
    return Ending(why.outcome, State.RELAYING, duration, reason=why.reason, goes_on=True)


def refused_handshake(
    who: str, error: BaseException, shown: str | None, *, at_l7: bool
) -> Refusal | None:
    """Return the refusal for the end of a tunnel on which no CONNECT was answered, if it was an
    alert: under TLS 1.3 a server refuses our certificate so.  None: it ended for another reason.

    Args:
        shown: the SPIFFE ID in our certificate; None: it isn't known.
        at_l7: whether an L7 proxy has ended it.
    """
    if not isinstance(error, TlsError) or error.alert is None:
        return None
    outcome = Outcome.L7_REFUSED if at_l7 else Outcome.HANDSHAKE_FAILED
    return Refusal(outcome, tlswords.refusal(who, error.alert, shown))


def _end_of(route: Route, candidate: Candidate) -> TcpAddress | int | None:
    upstream = route.upstream_of(candidate)
    return upstream.end if isinstance(upstream, Tunnel) else None
