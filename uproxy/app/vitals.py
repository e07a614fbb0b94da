"""Tells whether a running uProxy is ready and alive, and renders its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from uproxy.app.identity import now
from uproxy.app.onsets import Onsets
from uproxy.app.parts import Parts
from uproxy.app.state import RunState
from uproxy.config import Settings
from uproxy.model import Transport
from uproxy.proxy.admin.vitals import Readiness

NEAR: Final = 0.8
"""The part of the possible connections from which on operators are told."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """Implements `proxy.admin.vitals.Vitals`."""

    state: RunState
    parts: Parts
    versions: Mapping[str, str]
    drain: Callable[[], None]
    """Start to drain without exiting."""
    quit: Callable[[], None]
    """Start to drain, then exit."""
    onsets: Onsets = field(default_factory=Onsets)

    def look(self) -> None:
        """Take a step of the history, and remember since when reasons and notes have been so.
        Called every `history.STEP_S` seconds."""
        self.parts.history.take(self.parts.connections.totals(), time.monotonic())
        self.readiness()

    def readiness(self) -> Readiness:
        """Return the reasons not to send new work here, and notes."""
        reasons = list(self.state.not_ready)
        settings, credentials = self._settings, self.parts.source.current
        if credentials.svid is None and _needs_identity(settings):
            reasons.append(self._no_identity(credentials.reason))
        elif credentials.svid is not None and not any(
            bundle.roots for bundle in credentials.bundles.values()
        ):
            reasons.append("no bundle has a usable root: all peers are refused")
        notes = (*self.state.notes, *self._capacity_notes(), *self._identity_notes())
        since = self.onsets.look((*self.liveness(), *reasons, *notes), now())
        return Readiness(tuple(reasons), notes, since)

    def liveness(self) -> tuple[str, ...]:
        """Return the parts that don't respond.  That this method runs shows that the loop does."""
        return () if self.parts.engine.responsive() else ("an engine thread doesn't answer",)

    def render_metrics(self, accept: str) -> tuple[str, bytes]:
        """Return (content type, text) of the metrics."""
        return self.parts.metrics.render(accept)

    def set_log_level(self, level: str) -> None:
        """Change the log level until a reload that changes `log`."""
        self.parts.log.set_level(level)

    def _no_identity(self, reason: str) -> str:
        """Return why there is no identity, with what the source last failed at."""
        had_one = self.parts.snapshot.own_trust_domain is not None
        words = f"no identity {'any more' if had_one else 'yet'}: {reason}"
        error = self._renewal_error
        return words if error is None or error in reason else f"{words}; {error}"

    def _capacity_notes(self) -> tuple[str, ...]:
        """Return a note if almost as many connections are open as there may be."""
        budget, active = self.state.budget, self.parts.connections.active
        if budget is None or active < NEAR * budget.connections:
            return ()
        way_out = budget.note or "raise limits.connections"
        return (f"limits_near: {active:,} of {budget.connections:,} connections: {way_out}",)

    def _identity_notes(self) -> tuple[str, ...]:
        """Return notes on an SVID that can't be renewed (it is valid until it expires), on the
        trust domains refused because of a bad bundle or CRL, and on missing tokens and keys."""
        source, error = self.parts.source, self._renewal_error
        distrusted = source.status.get("distrusted")
        notes = (
            [f"distrusted: {each}" for each in distrusted] if isinstance(distrusted, list) else []
        )
        if error is not None and source.current.svid is not None:
            notes.insert(0, f"identity_stale: {error}")
        return (*notes, *self._proof_notes())

    def _proof_notes(self) -> Iterator[str]:
        """Yield notes on keys that callers' proofs can't be checked with, and on tokens of ours
        that can't be fetched or renewed."""
        status = self.parts.source.status
        if status.get("jwt_error") is not None:
            yield f"jwt_bundles_stale: {status['jwt_error']}"
        distrusted = status.get("jwt_distrusted")
        if isinstance(distrusted, list):
            yield from (f"distrusted: {each}" for each in distrusted)
        for name, each in self.parts.proofs.status.items():
            if each.error is not None:
                what = "token_missing" if each.expires is None else "token_stale"
                yield f"{what}: for destination {name}: {each.error}"

    @property
    def _renewal_error(self) -> str | None:
        """Why the identity source can't renew our SVID; None: it can."""
        status = self.parts.source.status
        said = status.get("last_error") or status.get("error")
        return None if said is None else str(said)

    @property
    def _settings(self) -> Settings:
        return self.parts.snapshot.settings


def _needs_identity(settings: Settings) -> bool:
    """Return whether any door or destination uses TLS."""
    transports = [door.transport for door in settings.inbound]
    transports += [each.transport for each in settings.destinations.values()]
    return any(each is not Transport.PLAINTEXT for each in transports)
