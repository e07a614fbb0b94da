"""Who speaks for whom: for which caller a connection is made, where an L7 proxy may have made it.

Pure.  An L7 proxy names the caller in a header of its CONNECT, and anybody can send that header.
Rules: it is believed only from a verified peer among the identities of `inbound_trust`, only where
there is exactly one, and only about a caller whom `speaks_for` matches and whose trust domain has
a bundle; from such a peer any other CONNECT is refused.  From every other peer the header means
nothing: the caller is the peer.  No L7 proxy speaks for an L7 proxy, itself included, so that a
request which goes round through it gains nobody its identity.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

from uproxy.config.settings import InboundTrustSettings
from uproxy.contract import SILENT, Refusal, Spoken
from uproxy.errors import SpiffeIdError
from uproxy.model import Outcome
from uproxy.policy import DIRECT, Caller, IpAddress
from uproxy.spiffe.ids import IdentityPattern, SpiffeId

TRUST_RULE = "inbound_trust."
"""How the rule of a refusal begins that says why an L7 proxy isn't believed."""


class Doubt(enum.StrEnum):
    """Why an L7 proxy isn't believed; label values of `uproxy_l7_refused_total`."""

    MISSING = "missing"
    SEVERAL = "several"
    MALFORMED = "malformed"
    L7_PROXY = "l7_proxy"
    NOT_FOR = "not_for"
    NO_BUNDLE = "no_bundle"
    NO_PROOF = "no_proof"
    BAD_PROOF = "bad_proof"
    REPLAYED = "replayed"
    PROOFS_FULL = "proofs_full"


@dataclass(frozen=True, slots=True)
class Disbelief:
    """An L7 proxy isn't believed, or isn't any more."""

    doubt: Doubt
    reason: str
    """One line for the log."""
    name: str
    """The key of `inbound_trust`."""

    @property
    def refusal(self) -> Refusal:
        """The refusal of its stream; the rule that it names is no rule of the policy."""
        return Refusal(Outcome.DENIED, self.reason, self.rule)

    @property
    def rule(self) -> str:
        """What in the configuration decided."""
        return f"{TRUST_RULE}{self.name}"


@dataclass(frozen=True, slots=True)
class Trusted:
    """An entry of `inbound_trust`."""

    name: str
    speaks_for: tuple[IdentityPattern, ...]
    require_proof: bool


@dataclass(frozen=True, slots=True)
class InboundTrust:
    """The L7 proxies that may say for whom they connect."""

    proxies: Mapping[str, Trusted]
    """By their SPIFFE IDs."""
    domains: Set[str]
    """The names of the trust domains that have a usable bundle."""

    @classmethod
    def of(cls, trusted: Mapping[str, InboundTrustSettings], domains: Set[str]) -> InboundTrust:
        """Make it of the configuration's `inbound_trust`."""
        proxies: dict[str, Trusted] = {}
        for name, each in trusted.items():
            patterns = tuple(map(IdentityPattern.parse, each.speaks_for))
            entry = Trusted(name, patterns, each.require_proof)
            proxies |= {str(SpiffeId.parse(text)): entry for text in each.identities}
        return cls(MappingProxyType(proxies), domains)

    def caller(
        self,
        peer: str | None,
        source: IpAddress | None,
        spoken: Spoken = SILENT,
        *,
        is_stream: bool,
    ) -> Caller | Disbelief:
        """Return who calls, or why a stream of an L7 proxy must be refused.

        Args:
            peer: the verified SPIFFE ID of the connection's peer, or its tunnel's; None without.
            source: the address of the same.
            is_stream: whether it is a stream of a tunnel; other connections can't name anybody,
                so an L7 proxy makes them for itself.
        """
        if peer is None:
            return Caller(None, source)
        trusted, identity = self.proxies.get(peer), _parsed(peer)
        if trusted is None:
            return Caller(identity, source)
        if not is_stream:
            return Caller(identity, source, via_identity=identity)
        named = _named(peer, trusted, spoken)
        if isinstance(named, Disbelief):
            return named
        disbelief = self._disbelief(peer, trusted, named)
        return disbelief or Caller(named, source, trusted.name, identity)

    def requires_proof(self, caller: Caller) -> bool:
        """Whether a caller, as `caller` returns it, must prove itself although an L7 proxy connects
        for it."""
        trusted = None if caller.via == DIRECT else self.proxies.get(str(caller.via_identity))
        return trusted is not None and trusted.require_proof

    def still(
        self,
        peer: str | None,
        source: IpAddress | None,
        caller: Caller | None,
        *,
        is_stream: bool,
    ) -> Caller | Disbelief:
        """Return who calls on a connection that is open, or why that isn't believed any more.

        Args:
            caller: for whom an L7 proxy, `peer`, had made it as was believed then; None: nobody.
        """
        if caller is None:
            found = self.caller(peer, source, is_stream=is_stream)
            if isinstance(found, Caller):
                return found
            reason = f"{peer} is an L7 proxy ({found.rule}), and for whom this is isn't known"
            return replace(found, reason=f"{reason}: dial again")
        peer, named = str(peer), caller.identity
        trusted = self.proxies.get(peer)
        if trusted is None or named is None:
            reason = f"{peer} isn't in inbound_trust, so it doesn't speak for {named}"
            return Disbelief(Doubt.NOT_FOR, reason, caller.via)
        disbelief = self._disbelief(peer, trusted, named)
        # a missing bundle is distrust, which may be kept, and excuses from nothing
        is_spoken_for = disbelief is None or disbelief.doubt is Doubt.NO_BUNDLE
        if is_spoken_for and trusted.require_proof and not caller.is_proved:
            reason = f"{_who(peer, trusted)} has sent no proof of {named}, which is required"
            disbelief = Disbelief(Doubt.NO_PROOF, reason, trusted.name)
        return disbelief or replace(caller, via=trusted.name)

    def _disbelief(self, peer: str, trusted: Trusted, named: SpiffeId) -> Disbelief | None:
        """Return why an L7 proxy doesn't speak for a caller; None: it does."""
        who, domain = _who(peer, trusted), named.trust_domain.name
        if str(named) in self.proxies:
            reason = f"{who} can't speak for {named}, which is an L7 proxy: does it call itself?"
            return Disbelief(Doubt.L7_PROXY, reason, trusted.name)
        if not any(pattern.matches(named) for pattern in trusted.speaks_for):
            reason = f"{who} may not speak for {named}: add it to speaks_for if it is right"
            return Disbelief(Doubt.NOT_FOR, reason, trusted.name)
        if domain not in self.domains:
            reason = f"{who} speaks for {named}, but there is no bundle for the trust domain"
            return Disbelief(Doubt.NO_BUNDLE, f"{reason} {domain}", trusted.name)
        return None


def _who(peer: str, trusted: Trusted) -> str:
    return f"{peer} (inbound_trust.{trusted.name})"


def _named(peer: str, trusted: Trusted, spoken: Spoken) -> SpiffeId | Disbelief:
    """Return the caller that a CONNECT names, which must be one."""
    who = _who(peer, trusted)
    if not spoken.callers:
        reason = f"{who} doesn't say for whom it connects: its CONNECT needs x-uproxy-caller"
        return Disbelief(Doubt.MISSING, reason, trusted.name)
    if len(spoken.callers) > 1:
        count = len(spoken.callers)
        reason = f"{who} sent x-uproxy-caller {count} times: it mustn't pass on what callers send"
        return Disbelief(Doubt.SEVERAL, reason, trusted.name)
    try:
        named = _parsed(spoken.callers[0])
    except SpiffeIdError as error:
        return Disbelief(Doubt.MALFORMED, f"{who} sent x-uproxy-caller: {error}", trusted.name)
    if not named.path:
        reason = f"{who} sent x-uproxy-caller {named}, which names no workload"
        return Disbelief(Doubt.MALFORMED, reason, trusted.name)
    return named


# of what isn't an ID, nothing is kept
_parsed = lru_cache(maxsize=1024)(SpiffeId.parse)
