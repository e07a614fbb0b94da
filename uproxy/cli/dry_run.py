"""`uproxy check --as ID --to DOOR[:PORT]`: what the rules of a configuration would decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from uproxy.cli.suggestions import allow_rule
from uproxy.config import Settings
from uproxy.config.settings import ALL_PORTS, InboundSettings
from uproxy.contract import SILENT, Spoken
from uproxy.errors import SpiffeIdError, UsageError
from uproxy.model import TcpAddress, Transport
from uproxy.policy import OTHER_WAY, Caller, Decision, IpAddress, Policy, Target
from uproxy.snapshot import rule_target
from uproxy.speaking import Disbelief, InboundTrust
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.ids import SpiffeId

REFUSED = 6
"""The exit code when the caller would be refused."""


@dataclass(frozen=True, slots=True)
class Question:
    """Who wants to get in where, as the command line has it."""

    caller: str
    door: str
    """Name or listen address, perhaps with `:PORT` of the application behind it."""
    source: str | None
    """The address that the caller comes from; None: not given."""
    via: str | None = None
    """The key of `inbound_trust` through whose L7 proxy the caller comes; None: none."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What is known of certificates where the question is asked."""

    own_trust_domain: str | None
    """Ours; None: not known, so rules by namespace or service account allow nobody."""
    bundles: Mapping[str, Bundle] | None
    """By trust domain; None: not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What would become of the caller."""

    allowed: bool
    lines: tuple[str, ...]


def answer(settings: Settings, trust: Trust, question: Question) -> Answer:
    """Decide as a running uProxy would.

    Raises:
        UsageError: no such door, no SPIFFE ID, no address.
    """
    identity = _identity(question.caller)
    door, target = _target(settings, question.door)
    transport = door.transport_at(target.port)
    source, proven = _source(question.source), transport.is_mutual_tls
    notes = [] if proven else [f"door {door.name} is {transport}, so its callers prove no identity"]
    peer = identity if question.via is None else _l7_proxy(settings, question.via, door)
    if proven and trust.bundles is not None and not _has_root(trust.bundles, peer):
        whose, domain = "its" if peer == identity else f"{peer}'s", peer.trust_domain.name
        why = f"certificate would be refused (X5-17): no bundle for the trust domain {domain}"
        return Answer(False, (f"{whose} {why}",))
    caller = _caller(settings, trust, identity, peer if proven else None, source, door)
    if isinstance(caller, Disbelief):
        return Answer(False, (caller.reason, *notes))
    if source is None and any(
        rule.from_.cidrs or rule.from_.not_cidrs for rule in settings.authorization
    ):
        notes.append("a rule looks at addresses: say where the caller comes from with --from")
    if target.address is None and _asks_for_address(settings, door):
        notes.append("a rule looks at the address that a tunnel names, which isn't known here")
    if trust.own_trust_domain is None and _needs_domain(settings):
        notes.append("our own trust domain isn't known, which namespaces need: ask with --wait 10s")
    policy = Policy.compile(settings.authorization, trust.own_trust_domain)
    decision = policy.decide(caller, target)
    notes += [f"shadow rule {each.rule} would {each.action}" for each in decision.shadow]
    if question.via is not None and settings.inbound_trust[question.via].require_proof:
        notes.append(f"inbound_trust.{question.via} requires the caller's proof besides")
    if proven and not decision.allowed:
        notes += _way_out(settings, question, door, target, decision)
    return Answer(decision.allowed, (decision.reason, *notes))


def _way_out(
    settings: Settings, question: Question, door: InboundSettings, target: Target, no: Decision
) -> list[str]:
    """Return the rule that would let the caller in, unless one refuses it, or it only has to come
    another way."""
    if no.rule is not None or OTHER_WAY in no.reason:
        return []
    names = {rule.name for rule in settings.authorization}
    port = target.port if _is_by_port(door) else None
    return ["to let it in, add", allow_rule(question.caller, door.name, names, port, question.via)]


def _l7_proxy(settings: Settings, name: str, door: InboundSettings) -> SpiffeId:
    """Return the SPIFFE ID of an L7 proxy that `inbound_trust` has under a name."""
    if name not in settings.inbound_trust:
        there = ", ".join(settings.inbound_trust) or "none"
        raise UsageError(f"--via {name!r} is no key of inbound_trust; there is {there}")
    if door.transport is not Transport.HBONE:
        raise UsageError(f"--via {name!r}: L7 proxies come through tunnels, and door {door.name} "
                         f"is {door.transport}")  # fmt: skip
    return SpiffeId.parse(settings.inbound_trust[name].identities[0])


def _caller(
    settings: Settings,
    trust: Trust,
    identity: SpiffeId,
    peer: SpiffeId | None,
    source: IpAddress | None,
    door: InboundSettings,
) -> Caller | Disbelief:
    """Return what rules would see of a caller whose connection `peer` makes, or why that wouldn't
    be believed."""
    domains = {identity.trust_domain.name}
    if trust.bundles is not None:
        domains = {name for name, bundle in trust.bundles.items() if bundle.roots}
    spoken = SILENT if peer in (None, identity) else Spoken((str(identity),))
    return InboundTrust.of(settings.inbound_trust, domains).caller(
        None if peer is None else str(peer),
        source,
        spoken,
        is_stream=door.transport is Transport.HBONE,
    )


def _identity(text: str) -> SpiffeId:
    try:
        identity = SpiffeId.parse(text)
    except SpiffeIdError as error:
        raise UsageError(f"--as {text!r}: {error}") from None
    if not identity.path:
        raise UsageError(f"--as {text!r} names a trust domain, not a workload")
    return identity


def _source(text: str | None) -> IpAddress | None:
    try:
        return None if text is None else ip_address(text)
    except ValueError:
        raise UsageError(f"--from {text!r} is no IP address") from None


def _target(settings: Settings, text: str) -> tuple[InboundSettings, Target]:
    """Return the inbound door that is meant, and what rules see behind it; make sure that the door
    leads to the port."""
    doors = {door.name: door for door in settings.inbound}
    doors |= {str(door.listen): door for door in settings.inbound}
    if text in doors:
        return doors[text], _behind(doors[text], text, None)
    name, _, port = text.rpartition(":")
    if name not in doors or not port.isdecimal():
        there = ", ".join(door.name for door in settings.inbound) or "none"
        raise UsageError(f"--to {text!r} is no inbound door; there is {there}")
    return doors[name], _behind(doors[name], text, int(port))


def _behind(door: InboundSettings, text: str, port: int | None) -> Target:
    """Return what rules see of a door's application at a port; None: at the only one."""
    if not _is_by_port(door):
        to = door.to
        if port is not None and (not isinstance(to, TcpAddress) or to.port != port):
            raise UsageError(f"--to {text!r}: door {door.name} leads to {to} alone")
        return rule_target(door)
    ports = () if isinstance(door.ports, str) else tuple(door.ports)
    if port is None and len(ports) == 1:
        port = ports[0]
    if port is None:
        raise UsageError(f"--to {text!r}: which port? --to {door.name}:PORT, of {door.leads_to}")
    if door.ports != ALL_PORTS and port not in door.ports:
        raise UsageError(f"--to {text!r}: through door {door.name} go {door.leads_to} alone")
    arrives = door.listen.ip if isinstance(door.listen, TcpAddress) else None
    known = None if arrives is None or arrives.is_unspecified else arrives
    return Target(port, known, door.name)


def _asks_for_address(settings: Settings, door: InboundSettings) -> bool:
    """Whether a rule looks at the address of a door's application, which each caller chooses."""
    return _is_by_port(door) and any(
        rule.to.addresses or rule.to.not_addresses for rule in settings.authorization
    )


def _is_by_port(door: InboundSettings) -> bool:
    """Whether callers choose a port of the application at a door."""
    return door.transport is Transport.HBONE or door.captured


def _has_root(bundles: Mapping[str, Bundle], identity: SpiffeId) -> bool:
    bundle = bundles.get(identity.trust_domain.name)
    return bundle is not None and bool(bundle.roots)


def _needs_domain(settings: Settings) -> bool:
    """Whether a rule asks for a namespace or a service account of our own trust domain."""
    return any(
        not rule.from_.trust_domains
        and any((rule.from_.namespaces, rule.from_.not_namespaces,
                 rule.from_.service_accounts, rule.from_.not_service_accounts))
        for rule in settings.authorization
    )  # fmt: skip
