"""A snapshot: everything that decisions depend on at one moment: configuration, credentials,
addresses.

A reload, a rotation, a new answer of the resolver each make a new snapshot out of the one before;
nothing in an old one changes, and none refers to another.  Parts that would be equal are used
again: a policy isn't compiled anew for a new SVID, nor a plan while nothing changes that it is
made of.  Making a snapshot changes nothing else, so it may be done in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from types import MappingProxyType

from uproxy.config.settings import DestinationSettings, InboundSettings, Settings
from uproxy.contract import PLAIN, OwnSvid, Refusal, Tls, TlsPlan, Upstream
from uproxy.destinations import Addresses, Key, Records
from uproxy.errors import UntrustedError
from uproxy.identity.credentials import Credentials
from uproxy.identity.verifier import Verifier
from uproxy.model import Address, Direction, Role, TcpAddress, Timeouts, Transport
from uproxy.policy import Policy, Target
from uproxy.snapshot.plans import HandshakeKind, Plans
from uproxy.spiffe.ids import IdentityPattern, SpiffeId

Clock = Callable[[], datetime]
"""The wall clock, UTC."""

_next_revision: Callable[[], int] = count(1).__next__
_utc_now: Clock = partial(datetime.now, UTC)


@dataclass(frozen=True, slots=True)
class RecheckActions:
    """What is done with open connections after a change: `close` or `keep`."""

    on_policy_change: str
    on_distrust: str
    on_expiry: str


@dataclass(frozen=True, slots=True)
class Application:
    """Where an inbound door leads, and the plan of its handshakes."""

    settings: InboundSettings
    addresses: Addresses
    target: Target
    """What rules see of it."""
    tls: TlsPlan | Refusal | None
    """None in plaintext; a Refusal says why no handshake can be made."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where outbound doors lead, and how."""

    settings: DestinationSettings
    addresses: Addresses
    expected: tuple[IdentityPattern, ...]
    """Who may answer; empty in plaintext."""
    upstream: Upstream | Refusal
    """How its addresses are reached; a Refusal says why no handshake can be made."""
    timeouts: Timeouts
    """The configuration's, with the destination's own where it has one."""
    port: int | None
    """The port of every address, if it is one and the same."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Snapshot:
    """Everything that decisions depend on at one moment; compared by identity."""

    settings: Settings
    credentials: Credentials
    names: frozenset[TcpAddress]
    """The names that `settings` have, which a resolver must look up."""
    records: Records
    """The resolver's last good answers for them."""
    clock: Clock = field(repr=False)
    own_trust_domain: str | None
    """That of our last SVID; None if there never was one."""
    policy: Policy
    actions: RecheckActions
    verifier: Verifier
    applications: Mapping[str, Application]
    """By the inbound door's name."""
    destinations: Mapping[str, Destination]
    plans: Plans = field(repr=False)
    revision: int
    """A number that no other snapshot has; never 0."""
    verdicts: dict[tuple[tuple[bytes, ...], Role | None], UntrustedError | None] = field(repr=False)
    """A memory of what `verifier` said of whole chains, in a peer's role, or of our own (None): new
    with a new verifier."""

    @classmethod
    def first(
        cls, settings: Settings, credentials: Credentials, clock: Clock = _utc_now
    ) -> Snapshot:
        """Make the snapshot at start."""
        return _make(settings, credentials, {}, clock, None)

    def with_settings(self, settings: Settings, records: Records | None = None) -> Snapshot:
        """Return the snapshot after a reload; `records` are answers for names that are new in it.

        Raises:
            SpiffeIdError: a pattern or trust domain that the configuration let through.
        """
        return _make(
            settings, self.credentials, {**self.records, **(records or {})}, self.clock, self
        )

    def with_credentials(self, credentials: Credentials) -> Snapshot:
        """Return the snapshot after a change of SVID, bundles or CRLs."""
        return _make(self.settings, credentials, self.records, self.clock, self)

    def with_records(self, records: Records) -> Snapshot:
        """Return the snapshot after new answers of the resolver.  Records of other names stay; an
        answer without a record is ignored."""
        answers = {name: found for name, found in records.items() if found}
        return _make(self.settings, self.credentials, {**self.records, **answers}, self.clock, self)

    @property
    def own(self) -> OwnSvid | None:
        """Our SVID without its key."""
        return self.plans.own

    @property
    def addresses(self) -> Mapping[Key, Addresses]:
        """The addresses of every destination and of every inbound door's application."""
        here: dict[Key, Addresses] = {
            (Direction.INBOUND, name): each.addresses for name, each in self.applications.items()
        }
        return here | {
            (Direction.OUTBOUND, name): each.addresses for name, each in self.destinations.items()
        }


def names_in(settings: Settings) -> frozenset[TcpAddress]:
    """Return the names that a configuration has, which a resolver must look up."""
    return frozenset(
        address
        for address in _all_addresses(settings)
        if isinstance(address, TcpAddress) and address.ip is None
    )


def _all_addresses(settings: Settings) -> Iterator[Address]:
    for door in settings.inbound:
        yield door.to
    for destination in settings.destinations.values():
        yield from destination.addresses


def _make(
    settings: Settings,
    credentials: Credentials,
    records: Records,
    clock: Clock,
    before: Snapshot | None,
) -> Snapshot:
    svid = credentials.svid
    known = None if before is None else before.own_trust_domain
    # an SVID that expired doesn't move this workload to another trust domain
    domain = known if svid is None else SpiffeId.parse(svid.spiffe_id).trust_domain.name
    same_trust = before is not None and before.credentials.generation == credentials.generation
    verifier = before.verifier if before is not None and same_trust else Verifier(credentials)
    same_names = before is not None and before.settings is settings
    names = before.names if before is not None and same_names else names_in(settings)
    records = MappingProxyType({name: records[name] for name in names if name in records})
    outbound = _outbound_kinds(settings, before)
    inbound = {door.name: _inbound_kind(door, settings) for door in settings.inbound}
    kinds = [kind for kind in (*inbound.values(), *outbound.values()) if kind is not None]
    plans = Plans.of(kinds, credentials, verifier, clock, None if before is None else before.plans)
    return Snapshot(
        settings=settings,
        credentials=credentials,
        names=names,
        records=records,
        clock=clock,
        own_trust_domain=domain,
        policy=_policy(settings, domain, before),
        actions=RecheckActions(
            settings.on_policy_change, settings.identity.on_distrust, settings.identity.on_expiry
        ),
        verifier=verifier,
        applications=_applications(settings, records, inbound, plans),
        destinations=_destinations(settings, records, outbound, plans),
        plans=plans,
        revision=_next_revision(),
        verdicts=before.verdicts if before is not None and same_trust else {},
    )


def _policy(settings: Settings, domain: str | None, before: Snapshot | None) -> Policy:
    if (
        before is not None
        and before.settings.authorization == settings.authorization
        and before.own_trust_domain == domain
    ):
        return before.policy
    return Policy.compile(settings.authorization, domain)


def _inbound_kind(door: InboundSettings, settings: Settings) -> HandshakeKind | None:
    if door.transport is Transport.PLAINTEXT:
        return None
    return HandshakeKind(Role.SERVER, settings.tls, door.alpn)


def _outbound_kinds(
    settings: Settings, before: Snapshot | None
) -> Mapping[str, HandshakeKind | None]:
    """Return the kind of handshake of each destination; parsed patterns of `before` are used
    again."""
    known = {} if before is None else before.destinations
    kinds: dict[str, HandshakeKind | None] = {}
    for name, each in settings.destinations.items():
        if each.transport is Transport.PLAINTEXT:
            kinds[name] = None
            continue
        same = name in known and known[name].settings.identities == each.identities
        expected = (
            known[name].expected if same else tuple(map(IdentityPattern.parse, each.identities))
        )
        kinds[name] = HandshakeKind(Role.CLIENT, settings.tls, each.alpn, expected)
    return kinds


def _applications(
    settings: Settings,
    records: Records,
    kinds: Mapping[str, HandshakeKind | None],
    plans: Plans,
) -> Mapping[str, Application]:
    made = {}
    for door in settings.inbound:
        kind = kinds[door.name]
        made[door.name] = Application(
            door,
            Addresses.of((door.to,), records),
            rule_target(door),
            None if kind is None else plans[kind],
        )
    return MappingProxyType(made)


def _destinations(
    settings: Settings,
    records: Records,
    kinds: Mapping[str, HandshakeKind | None],
    plans: Plans,
) -> Mapping[str, Destination]:
    made = {}
    for name, each in settings.destinations.items():
        kind = kinds[name]
        made[name] = Destination(
            settings=each,
            addresses=Addresses.of(each.addresses, records, each.server_name),
            expected=() if kind is None or kind.expected is None else kind.expected,
            upstream=_upstream(kind, plans),
            timeouts=_timeouts(settings.timeouts, each),
            port=_port(each),
        )
    return MappingProxyType(made)


def _upstream(kind: HandshakeKind | None, plans: Plans) -> Upstream | Refusal:
    if kind is None:
        return PLAIN
    plan = plans[kind]
    return plan if isinstance(plan, Refusal) else Tls(plan)


def rule_target(door: InboundSettings) -> Target:
    """Return what rules see; an application that is configured by name has no address."""
    to: Address = door.to
    if isinstance(to, TcpAddress):
        return Target(to.port, to.ip, door.name)
    return Target(None, None, door.name)


def _timeouts(timeouts: Timeouts, to: DestinationSettings) -> Timeouts:
    return timeouts if to.idle is None else replace(timeouts, idle=to.idle)


def _port(to: DestinationSettings) -> int | None:
    ports = {address.port if isinstance(address, TcpAddress) else None for address in to.addresses}
    return ports.pop() if len(ports) == 1 else None
