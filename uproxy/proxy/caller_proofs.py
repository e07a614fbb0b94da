"""Checks and remembers callers' proofs: the JWT-SVIDs that an L7 proxy forwards for the callers
that it names.

Rules: the token's subject is the caller that the proxy names, its audience is our SPIFFE ID, and it
is valid now.  The identity of the L7 proxy that brings a token first is the only one from which
the token is accepted until it expires.  A token that was verified isn't verified again while
neither the bundle nor our own SPIFFE ID changes.  Tokens are the same if their signed part is: a
signature can be rewritten by whoever has it (ECDSA), the signed part can't.  No token is kept, only
digests; where there is no room for more, new ones are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from uproxy.errors import UntrustedError
from uproxy.policy import Caller
from uproxy.speaking import Disbelief, Doubt
from uproxy.spiffe.ids import SpiffeId
from uproxy.spiffe.jwt_bundles import JwtBundle

MAX_PROOFS = 8192
"""How many are remembered; one takes about 500 bytes."""
SHARE = 64
"""How many each caller may have in any case, all of its instances together."""
MAX_COMMON = MAX_PROOFS // 2
"""How many callers may have above their shares, all together.  The other half is for shares:
however many proofs a few callers send, 64 others can prove themselves."""
SWEEP_AFTER = timedelta(minutes=1)
"""How long after a search for expired proofs the next one may be made."""
CROWDED_SWEEP_AFTER = timedelta(seconds=1)
"""The same while there is no room for a new proof."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What proofs are checked against: our SPIFFE ID, the bundles and the time."""

    own: str
    """Our SPIFFE ID, which must be in the tokens' audience."""
    bundles: Mapping[str, JwtBundle]
    """By trust domain."""
    now: datetime

    def bundle_of(self, caller: Caller) -> JwtBundle | None:
        """Return the bundle with which a caller's tokens are verified."""
        identity = caller.identity
        return None if identity is None else self.bundles.get(identity.trust_domain.name)


@dataclass(frozen=True, slots=True)
class _Proof:
    """What is remembered of a token that was verified."""

    signed: bytes
    """The SHA-256 of the token's signed part."""
    token: bytes
    """The SHA-256 of the whole token."""
    about: str
    """The caller's SPIFFE ID."""
    proxy: SpiffeId | None
    """The identity of the L7 proxy that brought it."""
    expires: datetime
    own: str
    """Our SPIFFE ID when it was verified."""
    bundle: JwtBundle | None
    """The bundle with which it was verified."""


class CallerProofs:
    """The proofs that were accepted and haven't expired."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Proof] = {}  # by `signed`
        self._of_caller = Counter[str]()
        self._common = 0  # above their callers' shares
        self._swept_at: datetime | None = None

    def __len__(self) -> int:
        return len(self._known)

    def doubt(
        self, proofs: tuple[str, ...], caller: Caller, by: Moment, *, remembers: bool = True
    ) -> Disbelief | None:
        """Check the proof of a caller for which an L7 proxy connects; return why it isn't accepted,
        None if it is.

        Args:
            proofs: the values of `x-uproxy-proof`; there must be one.
            remembers: False if the rules refuse the caller anyway, so that its proof takes no room.
        """
        found = _doubt_of_number(proofs, caller)
        found = found or self._doubt(proofs[0], caller, by, remembers=remembers)
        if found is None:
            return None
        doubt, words = found
        who = f"{caller.via_identity} (inbound_trust.{caller.via})"
        return Disbelief(doubt, f"{who} {words}", caller.via)

    def _doubt(
        self, token: str, caller: Caller, by: Moment, *, remembers: bool
    ) -> tuple[Doubt, str] | None:
        signed, whole = _digest(token.rpartition(".")[0]), _digest(token)
        known = self._known.get(signed)
        if known is not None and known.proxy != caller.via_identity:
            came = f"a proof of {known.about} that had come through {known.proxy}"
            return Doubt.REPLAYED, f"sent {came}: it is good for one L7 proxy only"
        if known is None or not _is_verified(known, whole, caller, by):
            try:
                known = _verified(token, signed, whole, caller, by)
            except UntrustedError as error:
                why = f"{error.reason} ({error.rule})"
                return Doubt.BAD_PROOF, f"sent no good proof of {caller.identity}: {why}"
        if known.about != str(caller.identity):
            return Doubt.BAD_PROOF, f"sent a proof of {known.about} for {caller.identity}"
        if remembers and not self._remember(known, by.now):
            words = f"sent a proof of {caller.identity}, and no more of them can be remembered"
            return Doubt.PROOFS_FULL, f"{words} until some expire"
        return None

    def _remember(self, proof: _Proof, now: datetime) -> bool:
        """Remember a proof, or replace what was known of it; return False if there is no room."""
        if proof.signed not in self._known:
            self._sweep(now, SWEEP_AFTER)
            if not self._has_room(proof.about):
                self._sweep(now, CROWDED_SWEEP_AFTER)
            if not self._has_room(proof.about):
                return False
            self._common += self._of_caller[proof.about] >= SHARE
            self._of_caller[proof.about] += 1
        self._known[proof.signed] = proof
        return True

    def _has_room(self, caller: str) -> bool:
        """Whether one more proof of a caller may be remembered: one of its share, or one of what is
        common, of which it may have as much as it leaves for others."""
        above = self._of_caller[caller] - SHARE  # below 0 within its share
        return len(self._known) < MAX_PROOFS and above < MAX_COMMON - self._common

    def _sweep(self, now: datetime, after: timedelta) -> None:
        """Forget what has expired, unless that was done less than `after` ago."""
        if self._swept_at is not None and abs(now - self._swept_at) < after:
            return
        self._swept_at = now
        self._known = {key: each for key, each in self._known.items() if now < each.expires}
        self._of_caller = Counter(each.about for each in self._known.values())
        self._common = sum(max(0, count - SHARE) for count in self._of_caller.values())


def _doubt_of_number(proofs: tuple[str, ...], caller: Caller) -> tuple[Doubt, str] | None:
    if not proofs:
        words = f"sent no proof of {caller.identity} (x-uproxy-proof), which is required"
        return Doubt.NO_PROOF, f"{words}: does the caller's agent issue JWT-SVIDs?"
    if len(proofs) > 1:
        return Doubt.SEVERAL, f"sent x-uproxy-proof {len(proofs)} times, where one is expected"
    return None


def _digest(text: str) -> bytes:
    return sha256(text.encode("latin-1")).digest()


def _is_verified(known: _Proof, token: bytes, caller: Caller, by: Moment) -> bool:
    """Return whether this very token was verified before, and nothing has changed that the result
    depends on."""
    same = (known.token, known.own) == (token, by.own)
    return same and known.bundle is by.bundle_of(caller) and by.now < known.expires


def _verified(token: str, signed: bytes, whole: bytes, caller: Caller, by: Moment) -> _Proof:
    """Verify a token and return what is to be remembered of it.

    Raises:
        UntrustedError: it isn't a valid token for us; says why.
    """
    # imported here to save memory: most uProxies never see a token
    from uproxy.spiffe.jwt_svids import verify_jwt_svid

    svid = verify_jwt_svid(token, by.bundles, by.own, by.now)
    bundle, proxy = by.bundle_of(caller), caller.via_identity
    return _Proof(signed, whole, svid.spiffe_id, proxy, svid.expires, by.own, bundle)
