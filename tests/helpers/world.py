"""What surrounds doors and the registry in tests: real credentials, registry and services, with
clocks that a test moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from uproxy.accesslog import AccessRecord
from uproxy.config.settings import IdentitySettings, RuleFrom, RuleSettings, Settings
from uproxy.connections import Connections
from uproxy.contract import Door, Listener, PeerSvid
from uproxy.destinations import AllEndpoints, Endpoints
from uproxy.identity.credentials import Credentials
from uproxy.identity.verifier import Verifier
from uproxy.lab.pki import Authority, Issued
from uproxy.metrics import Metrics
from uproxy.model import Direction, ListenAddress, Outcome, Role, TcpAddress
from uproxy.proxy.doors import make_doors
from uproxy.proxy.services import Services
from uproxy.snapshot import Snapshot
from uproxy.spiffe.bundles import Bundle

ANYBODY = RuleSettings("anybody", "allow", RuleFrom(any=True))


def credentials(
    ours: Issued | None,
    *authorities: Authority,
    generation: int = 1,
    reason: str = "no identity yet",
) -> Credentials:
    """Return a snapshot of credentials that trusts these authorities."""
    bundles = {each.trust_domain: each.bundle for each in authorities}
    svid = None if ours is None else ours.svid
    return Credentials(svid, "" if svid else reason, bundles, generation)


def with_crl(believed: Credentials, authority: Authority, *revoked: Issued) -> Credentials:
    """Return the next snapshot, with a CRL of `authority`."""
    bundle = Bundle(authority.trust_domain, (authority.root,), (authority.crl(revoked),))
    bundles = {**believed.bundles, authority.trust_domain: bundle}
    return Credentials(believed.svid, believed.reason, bundles, believed.generation + 1)


def peer(issued: Issued, authority: Authority, role: Role = Role.CLIENT) -> PeerSvid:
    """Return what a handshake with this certificate would have verified."""
    verifier = Verifier(credentials(None, authority))
    return verifier.verify(issued.der, role, authority.now)


def settings(*rules: RuleSettings, **facts: object) -> Settings:
    identity = facts.pop("identity", IdentitySettings())
    return Settings(identity, authorization=rules, **facts)  # type: ignore[arg-type]  # the caller's


@dataclass
class KeptRecords:
    """An access log that keeps all records."""

    records: list[AccessRecord]

    def wants(self, outcome: Outcome) -> bool:
        return True

    def access(self, record: AccessRecord) -> None:
        self.records.append(record)


@dataclass
class World:
    """The parts of one uProxy without an engine."""

    settings: Settings
    credentials: Credentials
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """The time of day."""
    at: float = 0.0
    """Monotonic seconds."""
    records: list[AccessRecord] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    all_endpoints: AllEndpoints = field(default_factory=AllEndpoints)
    listening: dict[ListenAddress, Listener] = field(default_factory=dict)
    """An engine's listeners, which follow every new snapshot."""
    failing: dict[TcpAddress, str] = field(default_factory=dict)
    """Why names can't be resolved."""
    own: set[str] = field(default_factory=set)
    """The addresses of this host, besides loopback."""
    connections: Connections = field(init=False)

    def __post_init__(self) -> None:
        first = Snapshot.first(self.settings, self.credentials, lambda: self.now)
        self.connections = Connections(first, self.metrics, self.log, clock=lambda: self.now)

    @property
    def log(self) -> KeptRecords:
        """The access log."""
        return KeptRecords(self.records)

    @property
    def services(self) -> Services:
        return Services(
            self.connections,
            self.all_endpoints,
            self.metrics,
            lambda: self.now,
            lambda: self.at,
            self.failing.get,
            lambda ip: ip.is_loopback or str(ip) in self.own,
        )

    @property
    def snapshot(self) -> Snapshot:
        """The one in force."""
        return self.connections.snapshot

    @property
    def doors(self) -> Mapping[ListenAddress, Door]:
        """Of the snapshot in force."""
        return make_doors(self.snapshot, self.services)

    def door(self) -> Door:
        """The only one."""
        [door] = self.doors.values()
        return door

    def endpoints(self, direction: Direction, name: str) -> Endpoints:
        """How the endpoints of a destination, or of a door's application, fare."""
        return self.all_endpoints[direction, name]

    def put(self, snapshot: Snapshot) -> None:
        """Put it in force, as the wiring does."""
        self.connections.replace(snapshot)
        self.all_endpoints.follow(snapshot.addresses)
        doors = self.doors
        for address, opened in self.listening.items():
            opened.replace(doors.get(address))

    def configure(self, settings: Settings) -> None:
        """The configuration was reloaded."""
        self.settings = settings
        self.put(self.snapshot.with_settings(settings))

    def resolve(self, name: TcpAddress, *records: TcpAddress) -> None:
        """The resolver gave an answer."""
        self.put(self.snapshot.with_records({name: records}))

    def pass_time(self, **duration: float) -> None:
        self.now += timedelta(**duration)

    def believe(self, after: Credentials) -> None:
        """Replace the credentials, as the identity's source does."""
        self.credentials = after
        self.put(self.snapshot.with_credentials(after))

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of `name` with these labels."""
        from prometheus_client.parser import text_string_to_metric_families as parse

        _, text = self.metrics.render()
        return sum(
            sample.value
            for family in parse(text.decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
