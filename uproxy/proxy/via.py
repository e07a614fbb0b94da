"""Connects to a destination through an L7 proxy: chooses which addresses of the proxy are tried,
and remembers which of them have failed.

Attempts that failed at the L7 proxy are told from those that failed behind it.  An address of the
proxy that can't be used, or at which somebody else has answered, is passed over by every
destination that uses the proxy.  If the proxy refuses the stream, only the application's address
is passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from uproxy.contract import (
    Candidate,
    Connection,
    Ending,
    OnClosed,
    Refusal,
    Tunnel,
    Upstream,
)
from uproxy.destinations import L7, Endpoints
from uproxy.l7 import by_way_of
from uproxy.log import alike
from uproxy.model import Direction, Outcome, TcpAddress
from uproxy.proxy.services import HANDSHAKE_FAILURES, Reports, unresolved
from uproxy.snapshot import Destination, Via

_log = logging.getLogger(__name__)

SOMEBODY_ELSE = frozenset({Outcome.PEER_UNTRUSTED, Outcome.PEER_UNEXPECTED})
"""The outcomes of an attempt that has met somebody else at the L7 proxy's address."""
AT_THE_PROXY = SOMEBODY_ELSE | {Outcome.L7_UNAVAILABLE}
"""The outcomes of an attempt that has failed at the L7 proxy itself."""


@dataclass(frozen=True, slots=True)
class L7Reports:
    """Reports what becomes of connections to a destination that has an L7 proxy.  An open
    connection keeps this, so it refers to nothing of the snapshot."""

    proxy: str
    """The L7 proxy's name."""
    destination: str
    """The destination's name."""
    endpoints: Endpoints
    """The addresses of the L7 proxy, and how they fare."""
    behind: Reports
    """What reports connections to the destination itself."""

    def opened(self, connection: Connection) -> OnClosed:
        """Report that a connection is open, through the L7 proxy or past it; return what is called
        with its end."""
        services = self.behind.services
        if connection.via is None:
            services.metrics.l7_bypassed(self.proxy, self.destination)
            _log.warning(
                "connection %d to %s goes past L7 proxy %s, which is unavailable, and without its "
                "policy (when_unavailable: bypass)",
                connection.arrival.id, self.destination, self.proxy,
                extra=alike("bypass", self.proxy),
            )  # fmt: skip
        elif connection.tunnel_end is not None:
            self.endpoints.opened((), connection.tunnel_end, services.monotonic())
        self.behind.opened(connection)
        return self

    def closed(self, connection: Connection, ending: Ending) -> None:
        """Report the end of a connection that was open.  One that the L7 proxy cut off before a
        byte came back counts as a failed attempt, and so does one that goes on by another way."""
        if connection.via is not None and connection.tunnel_end is not None:
            self.endpoints.closed(connection.tunnel_end)
            if ending.goes_on:
                self.behind.services.metrics.l7_failed(self.proxy, ending.outcome)
                self.pass_over(connection.tunnel_end, ending.outcome, str(ending.reason))
        if ending.outcome is Outcome.L7_REFUSED and connection.dialled is not None:
            services = self.behind.services
            services.metrics.l7_failed(self.proxy, ending.outcome)
            now, reason = services.monotonic(), str(ending.reason)
            self.behind.endpoints.failed(connection.dialled, now, reason)
        self.behind.closed(connection, ending)

    __call__ = closed  # as of Reports

    def pass_over(self, end: TcpAddress, outcome: Outcome, reason: str) -> None:
        """Have an address of the L7 proxy at which something has failed passed over for a while."""
        now = self.behind.services.monotonic()
        if not self.endpoints.failing(end, now):
            words = "%s; it is passed over for a while"
            _log.warning(words, reason, extra=alike("l7", self.proxy, str(end)))
        self.endpoints.failed(end, now, reason, is_other=outcome in SOMEBODY_ELSE)


class L7Way:
    """The way to one destination through its L7 proxy, under one snapshot."""

    def __init__(self, destination: Destination, via: Via, behind: Reports) -> None:
        """`via` is the destination's, `behind` reports what becomes of connections to it."""
        self._destination = destination
        self._via = via
        self._services = behind.services
        self._name = via.proxy.settings.name
        self._endpoints = self._services.endpoints[L7, self._name]
        self._reports = L7Reports(self._name, destination.settings.name, self._endpoints, behind)

    @property
    def is_only_one(self) -> bool:
        """Return whether every connection takes the same way, so that an engine may give its route
        to later ones without asking."""
        return not self._via.may_bypass and not self._via.proxy.serving.choice

    def attempted(self, candidate: Candidate, failure: Refusal | None) -> bool:
        """Count an attempt that has failed; return whether it failed at the L7 proxy."""
        upstream = candidate.upstream
        if failure is None or not isinstance(upstream, Tunnel) or upstream.via is None:
            return False
        metrics = self._services.metrics
        metrics.l7_failed(self._name, failure.outcome)
        if failure.outcome not in AT_THE_PROXY or not isinstance(upstream.end, TcpAddress):
            return False
        if failure.outcome in HANDSHAKE_FAILURES:
            metrics.handshake_failed(Direction.OUTBOUND, failure.outcome, failure.rule)
        self._reports.pass_over(upstream.end, failure.outcome, failure.reason)
        return True

    def opened(self, connection: Connection) -> OnClosed:
        """Report a connection that is open; return what reports its end."""
        end = connection.tunnel_end
        if connection.via is not None and end is not None:
            label = self._via.proxy.addresses.listed.get(end, end)
            self._services.metrics.l7_used(self._name, str(label))
        return self._reports.opened(connection)

    def candidates(self, applications: Sequence[Candidate]) -> tuple[Candidate, ...] | Refusal:
        """Return the candidates, of which `applications` are the destination's own, or why there is
        none."""
        upstreams = self._via.upstreams
        if isinstance(upstreams, Refusal):
            return upstreams
        past = self._past()
        ends = [upstreams[end] for end in self._usable(waits=past is None)]
        if not ends and past is None:
            return self._nobody_there()
        return by_way_of(applications, ends, past)

    def _usable(self, *, waits: bool) -> Sequence[TcpAddress]:
        """Return the addresses of the L7 proxy to try, best first; unless there is nothing else to
        wait for (`waits`), none at which an attempt has just failed: who waits for them would wait
        for the bypass.  A health check that fails switches no policy off: it may be the check that
        is wrong, so such an address is tried before anybody goes past it."""
        serving, now = self._via.proxy.serving, self._services.monotonic()
        choose = self._endpoints.choose if waits else self._endpoints.choose_unfailed
        chosen = choose(serving, now)
        return [each for each in chosen if isinstance(each, TcpAddress)]

    def _past(self) -> Upstream | None:
        """Return the way past the L7 proxy, if connections may go it.  They may not for want of a
        proxy while somebody else is found in its place."""
        upstream, serving = self._destination.upstream, self._via.proxy.serving
        if not self._via.may_bypass or isinstance(upstream, Refusal):
            return None
        return None if self._endpoints.has_other(serving, self._services.monotonic()) else upstream

    def _nobody_there(self) -> Refusal:
        """Return why no address of the L7 proxy can be used."""
        proxy = self._via.proxy
        if not proxy.serving.configured:
            why = "each of its addresses is draining: add one that isn't"
        else:
            why = unresolved(proxy.serving.names, self._services).reason
        return Refusal(Outcome.L7_UNAVAILABLE, f"L7 proxy {self._name}: {why}")
