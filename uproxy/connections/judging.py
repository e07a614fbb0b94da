"""May an open connection stay open under what is in force now?

`verdict` decides, purely; `InForce` gathers what it decides on: the policy, the trust and
the switches of one moment.  It closes nothing.  Rules: a peer's whole chain is judged again
by `Verifier.recheck`; time alone is never distrust, and expiry is a matter of its own; distrust is
told before policy, policy before expiry.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from itertools import count

from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.config.settings import Settings
from uproxy.contract import Arrival, Connection, Refusal, next_trust
from uproxy.errors import UntrustedError
from uproxy.identity.credentials import Credentials, Svid
from uproxy.identity.verifier import Verifier
from uproxy.model import Direction, Outcome, Role, TcpAddress, Transport
from uproxy.policy import Caller, Decision, Policy, Target
from uproxy.spiffe.ids import SpiffeId

MAX_JUDGED_CHAINS = 4096
"""Chains whose verdict under the current trust is remembered; one is some 2 KiB."""

_next_edition: Callable[[], int] = count(1).__next__


@dataclass(frozen=True, slots=True)
class Shown:
    """The SVID that we showed in a handshake, without its key: a connection mustn't keep an old
    key in memory."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    """DER, leaf first."""
    not_after: datetime
    """The earliest in the chain, UTC."""

    @classmethod
    def of(cls, svid: Svid) -> Shown:
        """What others see of `svid`."""
        chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in svid.chain)
        return cls(svid.spiffe_id, chain, svid.not_after)


@dataclass(frozen=True, slots=True)
class Party:
    """What a door knows of a connection that it admits, beyond the engine's handle."""

    direction: Direction
    door: str
    transport: Transport
    ours: Shown | None
    """None in plaintext."""
    target: Target | None
    """What the caller asked for; None outbound, where no policy applies."""
    port: int | None
    """The application's, or the destination's where it has only one."""


@dataclass(frozen=True, slots=True)
class Switches:
    """What becomes of open connections: `close` or `keep`."""

    on_policy_change: str
    on_distrust: str
    on_expiry: str


@dataclass(frozen=True, slots=True)
class Distrust:
    """Why a certificate of the handshake isn't believed any more."""

    reason: str
    rule: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a connection stands under what is in force now."""

    decision: Decision | None
    """The policy's; None where none applies."""
    distrust: Distrust | None
    not_after: datetime | None
    """When the first certificate of the handshake expires; None in plaintext."""


def verdict(standing: Standing, switches: Switches, now: datetime) -> Refusal | None:
    """Why the connection must go, or None: it may stay."""
    distrust, decision, not_after = standing.distrust, standing.decision, standing.not_after
    if distrust is not None and switches.on_distrust == "close":
        return Refusal(Outcome.IDENTITY_DISTRUSTED, distrust.reason, distrust.rule)
    if decision is not None and not decision.allowed and switches.on_policy_change == "close":
        return Refusal(Outcome.POLICY_CHANGED, decision.reason, decision.rule)
    if not_after is not None and now > not_after and switches.on_expiry == "close":
        reason = f"a certificate of its handshake expired at {not_after.isoformat()}"
        return Refusal(Outcome.IDENTITY_EXPIRED, reason)
    return None


def caller_of(arrival: Arrival) -> Caller:
    """The policy's view of who dialled in."""
    identity = None if arrival.peer is None else _identity(arrival.peer.spiffe_id)
    source = arrival.source.ip if isinstance(arrival.source, TcpAddress) else None
    return Caller(identity, source)


def not_after(party: Party, connection: Connection) -> datetime | None:
    """When the first certificate of the connection's handshake expires."""
    ends = [] if party.ours is None else [party.ours.not_after]
    ends += [] if connection.peer is None else [connection.peer.not_after]
    return min(ends, default=None)


@dataclass(frozen=True, slots=True)
class InForce:
    """The configuration and credentials of one moment; replaced whole, never changed."""

    settings: Settings
    credentials: Credentials
    policy: Policy
    switches: Switches
    verifier: Verifier
    own_trust_domain: str | None
    edition: int
    """A number that nothing else in force has had."""
    _judged: dict[tuple[tuple[bytes, ...], Role], UntrustedError | None] = field(repr=False)
    """Verdicts on whole chains under this verifier; shared while the trust stays the same."""
    _judges: dict[Hashable, int] = field(repr=False)
    """The numbers of the judges that this verifier was made part of; shared likewise."""

    @classmethod
    def first(cls, settings: Settings, credentials: Credentials) -> InForce:
        """What is in force at start."""
        return _in_force(settings, credentials, None)

    def with_settings(self, settings: Settings) -> InForce:
        """What is in force after a reload."""
        return _in_force(settings, self.credentials, self)

    def with_credentials(self, credentials: Credentials) -> InForce:
        """What is in force after a change of SVID, bundles or CRLs."""
        return _in_force(self.settings, credentials, self)

    def trust(self, terms: Hashable) -> int:
        """The `TlsPlan.trust` of who judges by this verifier and by equal `terms`."""
        if terms not in self._judges:
            self._judges[terms] = next_trust()
        return self._judges[terms]

    def judge(self, party: Party, connection: Connection, now: datetime) -> Refusal | None:
        """Why an open connection must go, or None."""
        decision = None
        if party.target is not None:
            decision = self.policy.decide(caller_of(connection.arrival), party.target)
        distrust = self._distrust_of_peer(party, connection, now) or self._distrust_of_us(
            party, now
        )
        standing = Standing(decision, distrust, not_after(party, connection))
        return verdict(standing, self.switches, now)

    def _distrust_of_peer(
        self, party: Party, connection: Connection, now: datetime
    ) -> Distrust | None:
        peer = connection.peer
        if peer is None:
            return None
        role = Role.CLIENT if party.direction is Direction.INBOUND else Role.SERVER
        error = self._remembered(
            ((*peer.chain, peer.anchor), role), lambda: self.verifier.recheck(peer, role, now)
        )
        return None if error is None else Distrust(str(error.reason), error.rule)

    def _distrust_of_us(self, party: Party, now: datetime) -> Distrust | None:
        ours, current = party.ours, self.credentials.svid
        if ours is None:
            return None
        if now <= ours.not_after and (current is None or current.spiffe_id != ours.spiffe_id):
            why = self.credentials.reason or f"we are {current and current.spiffe_id} now"
            return Distrust(f"our SVID {ours.spiffe_id} was withdrawn: {why}", None)
        role = Role.SERVER if party.direction is Direction.INBOUND else Role.CLIENT
        error = self._remembered((ours.chain, role), lambda: self.verifier.recheck_own(ours.chain))
        return None if error is None else Distrust(f"our own {error.reason}", error.rule)

    def _remembered(
        self, key: tuple[tuple[bytes, ...], Role], recheck: Callable[[], None]
    ) -> UntrustedError | None:
        if key not in self._judged:
            if len(self._judged) >= MAX_JUDGED_CHAINS:
                self._judged.clear()
            try:
                recheck()
                self._judged[key] = None
            except UntrustedError as error:
                self._judged[key] = error.with_traceback(None)
        return self._judged[key]


def _in_force(settings: Settings, credentials: Credentials, before: InForce | None) -> InForce:
    svid = credentials.svid
    known = None if before is None else before.own_trust_domain
    # an SVID that expired doesn't move this workload to another trust domain
    domain = known if svid is None else _identity(svid.spiffe_id).trust_domain.name
    same_trust = before is not None and before.credentials.generation == credentials.generation
    same_rules = (
        before is not None and before.settings.authorization == settings.authorization
        and known == domain
    )  # fmt: skip
    return InForce(
        settings=settings,
        credentials=credentials,
        policy=before.policy
        if before is not None and same_rules
        else Policy.compile(settings.authorization, domain),
        switches=Switches(
            settings.on_policy_change,
            settings.identity.on_distrust,
            settings.identity.on_expiry,
        ),
        verifier=before.verifier if before is not None and same_trust else Verifier(credentials),
        own_trust_domain=domain,
        edition=_next_edition(),
        _judged=before._judged if before is not None and same_trust else {},
        _judges=before._judges if before is not None and same_trust else {},
    )


@lru_cache(maxsize=1024)
def _identity(text: str) -> SpiffeId:
    return SpiffeId.parse(text)
