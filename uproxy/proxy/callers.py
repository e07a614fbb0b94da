"""Finds out who calls at an inbound door: the peer itself, or, if the peer is an L7 proxy, the
workload for which it connects."""

from __future__ import annotations

from dataclasses import replace

from uproxy.connections import caller_of
from uproxy.contract import Arrival
from uproxy.policy import DIRECT, Caller, Target
from uproxy.proxy.caller_proofs import Moment
from uproxy.proxy.services import Services
from uproxy.snapshot import Snapshot
from uproxy.speaking import Disbelief, Doubt


class Callers:
    """Finds the caller of each arrival by one snapshot, and counts those that aren't believed."""

    def __init__(self, snapshot: Snapshot, services: Services) -> None:
        self._snapshot = snapshot
        self._services = services

    def of(self, arrival: Arrival, target: Target) -> Caller | Disbelief:
        """Return the caller of an arrival that is meant for `target`; a Disbelief if an L7 proxy
        names a caller and isn't believed."""
        found = caller_of(self._snapshot, arrival)
        if isinstance(found, Caller) and self._snapshot.trust.requires_proof(found):
            # whom the rules refuse takes no room from those whom they let in
            is_welcome = self._snapshot.policy.decide(found, target).allowed
            found = self._proved(found, arrival, remembers=is_welcome)
        if isinstance(found, Disbelief):
            self._services.metrics.l7_refused(found.doubt)
        elif arrival.spoken and found.via == DIRECT:
            self._services.metrics.l7_headers_ignored()
        return found

    def _proved(self, caller: Caller, arrival: Arrival, *, remembers: bool) -> Caller | Disbelief:
        """Check the proof of a caller for which an L7 proxy connects; return the caller marked as
        proved, or why the proof isn't accepted."""
        own, services = self._snapshot.own, self._services
        if own is None:
            reason = "no proof can be for us: we have no identity"
            return Disbelief(Doubt.BAD_PROOF, reason, caller.via)
        by = Moment(own.spiffe_id, self._snapshot.credentials.jwt_bundles, services.wall_clock())
        disbelief = services.proofs.doubt(arrival.spoken.proofs, caller, by, remembers=remembers)
        return disbelief or replace(caller, is_proved=True)


def ignored(arrival: Arrival, caller: Caller) -> str:
    """Return a remark about headers that were ignored, to be put behind the reason of a refusal;
    empty if there were none."""
    if not arrival.spoken or caller.via != DIRECT:
        return ""
    return "; it sent an L7 proxy's headers, which are ignored: it isn't in inbound_trust"
