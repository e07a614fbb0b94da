"""The TLS plans of one snapshot: one for each kind of handshake that its doors make.

A plan is immutable, and the next snapshot has the same one unless something has changed that it is
made of, so that an engine may keep what it builds from it.  Rules: without an SVID there is no
handshake; a peer is verified in its handshake by the verifier of the snapshot under which the
handshake began; plans that accept the same chains have the same trust id, also after a reload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.contract import (
    OwnSvid,
    PeerSvid,
    Refusal,
    RefusedError,
    TlsPlan,
    VerifyPeer,
    next_trust_id,
)
from uproxy.identity.credentials import Credentials, Svid
from uproxy.identity.verifier import Verifier
from uproxy.model import Address, Outcome, Role, TlsSettings
from uproxy.spiffe.ids import IdentityPattern, SpiffeId


@dataclass(frozen=True, slots=True)
class HandshakeKind:
    """What the handshakes of a door or a destination are made with, besides credentials."""

    role: Role
    """Ours."""
    settings: TlsSettings
    alpn: tuple[str, ...]
    expected: tuple[IdentityPattern, ...] | None = None
    """Who may answer; None where the policy decides on the caller later."""
    end: Address | None = None
    """The address of the L7 proxy that they are made with, which has a plan of its own; None:
    others share theirs."""


TrustKey = tuple[Role, tuple[IdentityPattern, ...] | None]
"""Everything that decides whether a chain is accepted, besides the verifier."""


@dataclass(frozen=True, slots=True)
class Plans:
    """The plan of each kind of handshake, under one snapshot's credentials."""

    svid: Svid | None
    reason: str
    """Why there is no SVID."""
    own: OwnSvid | None
    """`svid` without its key."""
    verifier: Verifier
    clock: Callable[[], datetime]
    trust_ids: Mapping[TrustKey, int]
    plans: Mapping[HandshakeKind, TlsPlan]

    @classmethod
    def of(
        cls,
        kinds: Iterable[HandshakeKind],
        credentials: Credentials,
        verifier: Verifier,
        clock: Callable[[], datetime],
        before: Plans | None,
    ) -> Plans:
        """Make plans for `kinds`; those of `before` are used again where they would be equal."""
        kinds = dict.fromkeys(kinds)
        svid = credentials.svid
        same_trust = before is not None and before.verifier is verifier
        known_ids = before.trust_ids if before is not None and same_trust else {}
        trust_ids = {
            key: known_ids[key] if key in known_ids else next_trust_id()
            for key in dict.fromkeys((kind.role, kind.expected) for kind in kinds)
        }
        if svid is None:
            none: Mapping[HandshakeKind, TlsPlan] = MappingProxyType({})
            ids = MappingProxyType(trust_ids)
            return cls(None, credentials.reason, None, verifier, clock, ids, none)
        same_svid = before is not None and before.svid is svid
        own = before.own if before is not None and same_svid else None
        own = own or own_svid(svid)
        known = before.plans if before is not None and same_svid and same_trust else {}
        plans = {
            kind: known[kind]
            if kind in known
            else TlsPlan(
                kind.role,
                own,
                svid.key,
                kind.settings,
                _verify_function(kind, verifier, clock),
                kind.alpn,
                trust_ids[kind.role, kind.expected],
            )
            for kind in kinds
        }
        return cls(
            svid, "", own, verifier, clock, MappingProxyType(trust_ids), MappingProxyType(plans)
        )

    def __getitem__(self, kind: HandshakeKind) -> TlsPlan | Refusal:
        """Return the plan for a kind that this was made for, or why no handshake can be made."""
        if self.svid is None:
            return Refusal(Outcome.NO_IDENTITY, self.reason)
        return self.plans[kind]


def own_svid(svid: Svid) -> OwnSvid:
    """Return `svid` without its key."""
    chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in svid.chain)
    return OwnSvid(svid.spiffe_id, chain, svid.not_after)


def unexpected(expected: tuple[IdentityPattern, ...], spiffe_id: str) -> str | None:
    """Return why a verified peer isn't among the `expected`; None: it is."""
    if any(each.matches(SpiffeId.parse(spiffe_id)) for each in expected):
        return None
    wanted = ", ".join(map(str, expected))
    return f"wanted {wanted}, found {spiffe_id}: add it to identities if it is right"


def _verify_function(
    kind: HandshakeKind, verifier: Verifier, clock: Callable[[], datetime]
) -> VerifyPeer:
    """Return the function that verifies peers in handshakes of this kind, and that they are
    expected."""
    theirs = Role.CLIENT if kind.role is Role.SERVER else Role.SERVER
    expected = kind.expected

    def verify(chain: tuple[bytes, ...]) -> PeerSvid:
        peer = verifier.verify(chain, theirs, clock())
        why = None if expected is None else unexpected(expected, peer.spiffe_id)
        if why is not None:
            raise RefusedError(Refusal(Outcome.PEER_UNEXPECTED, why))
        return peer

    return verify
