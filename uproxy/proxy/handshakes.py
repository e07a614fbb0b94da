"""The TLS plan of the moment, for one door or destination.

A plan is made once per snapshot of credentials, so that an engine may keep what it builds
from it.  Rules: without an SVID there is no handshake; a peer is judged inside its handshake
by the verifier of the snapshot that the handshake began with; whoever judges alike has the
same number (`TlsPlan.trust`), also after a reload.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakKeyDictionary

from uproxy.connections import InForce, Party, Shown
from uproxy.contract import PeerSvid, Refusal, RefusedError, TlsPlan
from uproxy.identity.credentials import Svid
from uproxy.model import Outcome, Role, TlsSettings
from uproxy.spiffe.ids import IdentityPattern, SpiffeId


@dataclass(frozen=True, slots=True)
class Handshake:
    """A plan and what connections made with it are."""

    plan: TlsPlan
    party: Party


@dataclass(frozen=True, slots=True)
class Terms:
    """What the handshakes of one door or destination have in common."""

    role: Role
    """Ours."""
    settings: TlsSettings
    alpn: tuple[str, ...]
    expected: tuple[IdentityPattern, ...] | None = None
    """Who may answer; None where the policy decides on the caller later."""


class Handshakes:
    """Makes the plan for what is in force, once each."""

    def __init__(
        self,
        terms: Terms,
        wall_clock: Callable[[], datetime],
        party: Callable[[Shown | None], Party],
    ) -> None:
        """`party` makes what the door's connections are that showed this, or nothing."""
        self._terms = terms
        self._wall_clock = wall_clock
        self._party = party
        self._in_clear = party(None)
        self._made_for: InForce | None = None  # set with `_handshake`
        self._handshake: Handshake | None = None  # the last one made
        self._parties: WeakKeyDictionary[TlsPlan, Party] = WeakKeyDictionary()

    def now(self, in_force: InForce) -> Handshake | Refusal:
        """The handshake to make under `in_force`, or why none can be made."""
        svid = in_force.credentials.svid
        if svid is None:
            return Refusal(Outcome.NO_IDENTITY, in_force.credentials.reason)
        if self._handshake is None or not self._fits(in_force):
            ours = Shown.of(svid)
            plan, party = self._plan(svid, ours, in_force), self._party(ours)
            self._handshake = Handshake(plan, party)
            self._made_for = in_force
            self._parties[plan] = party
        return self._handshake

    def party(self, plan: TlsPlan | None) -> Party:
        """What a connection made with `plan` is, whatever is in force by now."""
        return self._in_clear if plan is None else self._parties.get(plan, self._in_clear)

    def _fits(self, in_force: InForce) -> bool:
        """Whether the last plan shows the same SVID and believes the same peers."""
        made_for = self._made_for
        return made_for is in_force or (
            made_for is not None
            and made_for.credentials.svid is in_force.credentials.svid
            and made_for.verifier is in_force.verifier
        )

    def _plan(self, svid: Svid, ours: Shown, in_force: InForce) -> TlsPlan:
        terms, verifier, wall_clock = self._terms, in_force.verifier, self._wall_clock
        theirs = Role.CLIENT if terms.role is Role.SERVER else Role.SERVER

        def verify(chain: tuple[bytes, ...]) -> PeerSvid:
            peer = verifier.verify(chain, theirs, wall_clock())
            if terms.expected is not None:
                _expect(terms.expected, peer)
            return peer

        # what else the terms say changes nothing in how a chain is judged
        trust = in_force.trust((terms.role, terms.expected))
        return TlsPlan(terms.role, ours.chain, svid.key, terms.settings, verify, terms.alpn, trust)


def _expect(expected: tuple[IdentityPattern, ...], peer: PeerSvid) -> None:
    """Refuse a verified peer that isn't one of those wanted.

    Raises:
        RefusedError: naming the identities wanted and the one found.
    """
    if any(each.matches(SpiffeId.parse(peer.spiffe_id)) for each in expected):
        return
    wanted = ", ".join(map(str, expected))
    reason = f"wanted {wanted}, found {peer.spiffe_id}: add it to identities if it is right"
    raise RefusedError(Refusal(Outcome.PEER_UNEXPECTED, reason))
