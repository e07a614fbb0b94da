"""A snapshot: everything that decisions depend on at one moment: configuration, credentials,
addresses.

A reload, a rotation, a new answer of the resolver each make a new snapshot out of the one before;
nothing in an old one changes, and none refers to another.  Parts that would be equal are used
again: a policy isn't compiled anew for a new SVID, nor a plan while nothing changes that it is
made of.  Making a snapshot changes nothing else, so it may be done in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from types import MappingProxyType

from uproxy.addresses import Addresses, Records
from uproxy.config.settings import InboundSettings, Settings
from uproxy.contract import OwnSvid, Refusal, TlsPlan
from uproxy.destinations import L7, Key
from uproxy.errors import UntrustedError
from uproxy.identity.credentials import Credentials
from uproxy.identity.verifier import Verifier
from uproxy.matching import Matching
from uproxy.model import (
    Address,
    Direction,
    Host,
    Role,
    TcpAddress,
)
from uproxy.policy import Policy, Target
from uproxy.snapshot.destinations import Destination, destinations_of
from uproxy.snapshot.handshakes import Expected, inbound_kind, outbound_kinds
from uproxy.snapshot.l7 import L7Proxy, l7_kinds
from uproxy.snapshot.plans import HandshakeKind, Plans
from uproxy.speaking import InboundTrust
from uproxy.spiffe.ids import SpiffeId

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
    """With hbone those of the door's `to`, with port 0, or none."""
    target: Target
    """What rules see of it; with hbone without address and port, which each tunnel names."""
    tls: TlsPlan | Refusal | None
    """None in plaintext; a Refusal says why no handshake can be made."""

    def addresses_at(self, named: TcpAddress) -> Addresses:
        """Return where a stream goes whose tunnel named an address of this workload: there, or to
        the same port of the host in `to`."""
        to = self.settings.to
        if not isinstance(to, Host):
            return Addresses.of((named,), {})
        address = to.at(named.port)
        hosts = [each.host for each in self.addresses.listed if isinstance(each, TcpAddress)]
        records = {address: tuple(TcpAddress(host, named.port) for host in hosts)}
        return Addresses.of((address,), records)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Snapshot:
    """Everything that decisions depend on at one moment; compared by identity."""

    settings: Settings
    credentials: Credentials
    names: frozenset[TcpAddress]
    """The names that `settings` have, which a resolver must look up."""
    records: Records
    """The resolver's last good answers for them."""
    tokens: Mapping[str, str] = field(repr=False)
    """By destination, the JWT-SVID (compact JWS) that proves us to it across an L7 proxy."""
    clock: Clock = field(repr=False)
    own_trust_domain: str | None
    """That of our last SVID; None if there never was one."""
    policy: Policy
    trust: InboundTrust
    matching: Matching
    """Where captured connections go."""
    actions: RecheckActions
    verifier: Verifier
    applications: Mapping[str, Application]
    """By the inbound door's name."""
    destinations: Mapping[str, Destination]
    l7_proxies: Mapping[str, L7Proxy]
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
        return _make(settings, credentials, {}, {}, clock, None)

    def with_settings(self, settings: Settings, records: Records | None = None) -> Snapshot:
        """Return the snapshot after a reload; `records` are answers for names that are new in it.

        Raises:
            SpiffeIdError: a pattern or trust domain that the configuration let through.
        """
        answers = {**self.records, **(records or {})}
        return _make(settings, self.credentials, answers, self.tokens, self.clock, self)

    def with_credentials(self, credentials: Credentials) -> Snapshot:
        """Return the snapshot after a change of SVID, bundles or CRLs."""
        return _make(self.settings, credentials, self.records, self.tokens, self.clock, self)

    def with_records(self, records: Records) -> Snapshot:
        """Return the snapshot after new answers of the resolver.  Records of other names stay; an
        answer without a record is ignored."""
        answers = {**self.records, **{name: found for name, found in records.items() if found}}
        return _make(self.settings, self.credentials, answers, self.tokens, self.clock, self)

    def with_tokens(self, tokens: Mapping[str, str]) -> Snapshot:
        """Return the snapshot with these tokens and no others; those of destinations that it
        doesn't have are left out."""
        return _make(self.settings, self.credentials, self.records, tokens, self.clock, self)

    @property
    def own(self) -> OwnSvid | None:
        """Our SVID without its key."""
        return self.plans.own

    @property
    def addresses(self) -> Mapping[Key, Addresses]:
        """The addresses of every destination, every inbound door's application and every L7
        proxy."""
        kinds = (
            (Direction.INBOUND, self.applications),
            (Direction.OUTBOUND, self.destinations),
            (L7, self.l7_proxies),
        )
        return {(kind, name): each.addresses for kind, all_ in kinds for name, each in all_.items()}


def names_in(settings: Settings) -> frozenset[TcpAddress]:
    """Return the names that a configuration has, which a resolver must look up."""
    return frozenset(
        address
        for address in _all_addresses(settings)
        if isinstance(address, TcpAddress) and address.ip is None
    )


def _all_addresses(settings: Settings) -> Iterator[Address]:
    for door in settings.inbound:
        yield from _application_addresses(door)
    for destination in settings.destinations.values():
        yield from destination.addresses
        if destination.hbone_address is not None:
            yield destination.hbone_address
    for proxy in settings.l7_proxies.values():
        yield from (endpoint.address for endpoint in proxy.addresses)


def _application_addresses(door: InboundSettings) -> tuple[Address, ...]:
    """Return the addresses in a door's `to`; a host's with port 0, since tunnels name the port."""
    if isinstance(door.to, Host):
        return (door.to.at(0),)
    return () if door.to is None else (door.to,)


def _make(
    settings: Settings,
    credentials: Credentials,
    records: Records,
    tokens: Mapping[str, str],
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
    outbound = outbound_kinds(settings, _expected_by(before))
    l7 = dict(l7_kinds(settings, records, {} if before is None else before.l7_proxies))
    inbound = {door.name: inbound_kind(door, settings) for door in settings.inbound}
    kinds = [kind for kind in (*inbound.values(), *outbound.values()) if kind is not None]
    kinds += [kind for each in l7.values() for kind in each.kinds.values()]
    plans = Plans.of(kinds, credentials, verifier, clock, None if before is None else before.plans)
    l7_proxies = {name: each.with_plans(plans) for name, each in l7.items()}
    wanted = _wanted(tokens, settings)
    return Snapshot(
        settings=settings,
        credentials=credentials,
        names=names,
        records=records,
        tokens=wanted,
        clock=clock,
        own_trust_domain=domain,
        policy=_policy(settings, domain, before),
        trust=_trust(settings, credentials, before),
        matching=before.matching
        if before is not None and same_names
        else Matching.of(settings.destinations.values()),
        actions=RecheckActions(
            settings.on_policy_change, settings.identity.on_distrust, settings.identity.on_expiry
        ),
        verifier=verifier,
        applications=_applications(settings, records, inbound, plans),
        destinations=destinations_of(settings, records, outbound, plans, l7_proxies, wanted),
        l7_proxies=MappingProxyType(l7_proxies),
        plans=plans,
        revision=_next_revision(),
        verdicts=before.verdicts if before is not None and same_trust else {},
    )


def _wanted(tokens: Mapping[str, str], settings: Settings) -> Mapping[str, str]:
    """Return the tokens of destinations that are reached across an L7 proxy."""
    via = (name for name, each in settings.destinations.items() if each.via is not None)
    return MappingProxyType({name: tokens[name] for name in via if name in tokens})


def _policy(settings: Settings, domain: str | None, before: Snapshot | None) -> Policy:
    if (
        before is not None
        and before.settings.authorization == settings.authorization
        and before.own_trust_domain == domain
    ):
        return before.policy
    return Policy.compile(settings.authorization, domain)


def _trust(settings: Settings, credentials: Credentials, before: Snapshot | None) -> InboundTrust:
    if (
        before is not None
        and before.settings.inbound_trust == settings.inbound_trust
        and before.credentials.generation == credentials.generation
    ):
        return before.trust
    domains = {name for name, bundle in credentials.bundles.items() if bundle.roots}
    return InboundTrust.of(settings.inbound_trust, frozenset(domains))


def _expected_by(before: Snapshot | None) -> Mapping[str, Expected]:
    """Return the identities that each destination expected, as configured and as parsed."""
    known = {} if before is None else before.destinations
    return {name: (each.settings.identities, each.expected) for name, each in known.items()}


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
            Addresses.of(_application_addresses(door), records),
            rule_target(door),
            None if kind is None else plans[kind],
        )
    return MappingProxyType(made)


def rule_target(door: InboundSettings) -> Target:
    """Return what rules see; an application that is configured by name has no address, and one
    behind tunnels has those that they name."""
    to = door.to
    if isinstance(to, TcpAddress):
        return Target(to.port, to.ip, door.name)
    return Target(None, None, door.name)
