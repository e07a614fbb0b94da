"""A workload's surroundings for tests of doors and the registry: credentials, a registry and
the services, all real; only time stands still until a test moves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from uproxy.accesslog import AccessRecord
from uproxy.config.settings import IdentitySettings, RuleFrom, RuleSettings, Settings
from uproxy.connections import Connections, InForce
from uproxy.contract import PeerSvid
from uproxy.destinations import Destinations
from uproxy.identity.credentials import Credentials
from uproxy.identity.verifier import Verifier
from uproxy.lab.pki import Authority, Issued
from uproxy.metrics import Metrics
from uproxy.model import Outcome, Role
from uproxy.proxy.services import Services
from uproxy.spiffe.bundles import Bundle

ANYBODY = RuleSettings("anybody", "allow", RuleFrom(any=True))


def credentials(
    ours: Issued | None,
    *authorities: Authority,
    generation: int = 1,
    reason: str = "no identity yet",
) -> Credentials:
    """A snapshot that believes the authorities named."""
    bundles = {each.trust_domain: each.bundle for each in authorities}
    svid = None if ours is None else ours.svid
    return Credentials(svid, "" if svid else reason, bundles, generation)


def with_crl(believed: Credentials, authority: Authority, *revoked: Issued) -> Credentials:
    """The next snapshot, with a CRL of `authority`."""
    bundle = Bundle(authority.trust_domain, (authority.root,), (authority.crl(revoked),))
    bundles = {**believed.bundles, authority.trust_domain: bundle}
    return Credentials(believed.svid, believed.reason, bundles, believed.generation + 1)


def peer(issued: Issued, authority: Authority, role: Role = Role.CLIENT) -> PeerSvid:
    """What a handshake would have proven."""
    verifier = Verifier(credentials(None, authority))
    return verifier.verify(issued.der, role, authority.now)


def settings(*rules: RuleSettings, **facts: object) -> Settings:
    identity = facts.pop("identity", IdentitySettings())
    return Settings(identity, authorization=rules, **facts)  # type: ignore[arg-type]  # the caller's


@dataclass
class KeptRecords:
    """An access log that keeps everything."""

    records: list[AccessRecord]

    def wants(self, outcome: Outcome) -> bool:
        return True

    def access(self, record: AccessRecord) -> None:
        self.records.append(record)


@dataclass
class World:
    """One uProxy without an engine."""

    settings: Settings
    credentials: Credentials
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """The wall clock."""
    at: float = 0.0
    """The monotonic clock."""
    records: list[AccessRecord] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    destinations: Destinations = field(default_factory=Destinations)
    asked_again: int = 0
    """How often an engine would have been told to ask the doors again."""
    connections: Connections = field(init=False)

    def __post_init__(self) -> None:
        self.connections = Connections(
            InForce.first(self.settings, self.credentials),
            self.metrics,
            self.log,
            ask_again=self._count_asking,
            clock=lambda: self.now,
        )
        self.destinations.configure(self.settings)

    @property
    def log(self) -> KeptRecords:
        """The access log."""
        return KeptRecords(self.records)

    @property
    def services(self) -> Services:
        return Services(
            self.connections, self.destinations, self.metrics, lambda: self.now, lambda: self.at
        )

    def _count_asking(self) -> None:
        self.asked_again += 1

    def pass_time(self, **duration: float) -> None:
        self.now += timedelta(**duration)

    def believe(self, after: Credentials) -> None:
        """The source has replaced its snapshot."""
        before, self.credentials = self.credentials, after
        self.connections.credentials_changed(before, after)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of `name` with these labels."""
        from prometheus_client.parser import text_string_to_metric_families as parse

        _, text = self.metrics.render()
        return sum(
            sample.value
            for family in parse(text.decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
