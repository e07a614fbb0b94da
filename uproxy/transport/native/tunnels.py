"""Tunnels of the compiled engine, as its loop sees them: how a stream is opened through one, and
what becomes of those that the threads dial.

A thread has a pool of its own.  It knows a plan by a number only, because a plan has a key: when
the last snapshot with a plan is gone, the threads are told to open no more streams on its tunnels.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Final, cast
from weakref import ReferenceType, ref

from uproxy import sockaddr
from uproxy.contract import (
    Candidate,
    OnTunnelEnded,
    OwnSvid,
    PeerSvid,
    Refusal,
    Route,
    TlsPlan,
    Tunnel,
)
from uproxy.lifecycle import State
from uproxy.model import Direction, TunnelSettings
from uproxy.transport import failures
from uproxy.transport.failures import Failure
from uproxy.transport.native._engine import CARRYING, CLOSED, ConnectionHandle, words_of
from uproxy.transport.through import end_delay

if TYPE_CHECKING:
    from uproxy.transport.native._engine import TunnelLimits, Way


_PREFIX: Final = 127
_FAR_END: Final = 1  # the side at which a tunnel that was dialled has its peer


class PooledTunnel(ConnectionHandle):
    """A tunnel that a thread has dialled."""

    __slots__ = ("_has_carried", "_on_ended")

    def __init__(self, on_ended: OnTunnelEnded) -> None:
        self._on_ended = on_ended
        self._has_carried = False  # its handshake has succeeded

    def on_reported(self, events: int) -> None:
        """Keep nothing of the snapshot that it was dialled under; tell and forget it at its end."""
        self._has_carried |= bool(events & CARRYING)
        if not events & CLOSED:
            self.release_door_state()
            return
        try:
            if self._has_carried:
                self._tell_end()
        finally:
            self.release()

    def _tell_end(self) -> None:
        end = sockaddr.address_of(*cast("tuple[bytes, int]", self.meant()))
        self._on_ended(cast("PeerSvid", self.verdict(_FAR_END)), end, self._reason())

    def _reason(self) -> Refusal | None:
        """Return why it has ended; None for the orderly end."""
        fault = self.failure()
        if fault[0] == "none":
            return None
        if fault[0] == "cut":
            return failures.STOPPED
        who = failures.NAMES[Direction.OUTBOUND][_FAR_END]
        failure = failure_of(fault, who, State.CARRYING, None)
        return failures.ended_tunnel(who, failure.cause())


def failure_of(
    fault: tuple[str, int, int, int], who: str, state: State, verdict: object
) -> Failure:
    """Make a Failure of what `failure` or `candidate_failure` returned."""
    what, _side, error, code = fault
    if what != "http2":
        return Failure(what, who, state, error, code, verdict)
    return Failure(what, who, state, error, code, *words_of(error))


class PlanNumbers:
    """A number for each plan with which tunnels may have been dialled.

    Args:
        retire: called with the number of a plan that is gone, in any thread.
    """

    def __init__(self, retire: Callable[[int], None]) -> None:
        self._retire = retire
        self._numbers: dict[ReferenceType[TlsPlan], int] = {}
        self._next = count(1).__next__

    def number_of(self, plan: TlsPlan) -> int:
        """Return the plan's number, the same each time."""
        number = self._numbers.get(ref(plan))
        if number is None:
            number = self._next()
            self._numbers[ref(plan, self._forget)] = number
        return number

    def _forget(self, gone: ReferenceType[TlsPlan]) -> None:
        self._retire(self._numbers.pop(gone))


def way_of(numbers: PlanNumbers, route: Route, candidate: Candidate) -> Way | None:
    """Return how a thread opens a stream to a candidate; None where upstream is no tunnel."""
    upstream = route.upstream_of(candidate)
    if not isinstance(upstream, Tunnel):
        return None
    authority = str(candidate.addresses[0]).encode()
    settings = upstream.settings
    own = upstream.plan.own
    limits = limits_of(settings, settings.streams_per_connection, settings.idle, own)
    fields, delay = fields_of(upstream.headers), end_delay(route, candidate)
    return numbers.number_of(upstream.plan), authority, limits, fields, delay


def fields_of(headers: tuple[tuple[str, str], ...]) -> bytes:
    """Return headers as HPACK's literal fields that are never indexed (RFC 7541 §6.2.3), which mean
    the same whatever is in the peer's table."""
    return b"".join(b"\x10" + _string(name) + _string(value) for name, value in headers)


def _string(text: str) -> bytes:
    """Return a string as its length, an integer with a prefix of 7 bits (§5.1), and its bytes."""
    coded = text.encode()
    size = len(coded)
    if size < _PREFIX:
        return bytes((size,)) + coded
    size -= _PREFIX
    length = bytearray((_PREFIX,))
    while size >= 128:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes(length) + coded


def limits_of(
    settings: TunnelSettings, streams: int, idle: float, own: OwnSvid | None
) -> TunnelLimits:
    """Return what a thread needs to know of the tunnels of one end: how many streams each may
    have, for how many seconds none, and with which SVID of ours they are made."""
    expires = 0 if own is None else own.not_after.timestamp()
    windows = settings.stream_window, settings.connection_window
    return streams, *windows, idle, expires, settings.keepalive
