"""`uproxy check --as ID --to DOOR[:PORT]`: what the rules of a configuration would decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from uproxy.cli.suggestions import allow_rule
from uproxy.config import Settings
from uproxy.config.settings import ALL_PORTS, InboundSettings
from uproxy.errors import SpiffeIdError, UsageError
from uproxy.model import TcpAddress, Transport
from uproxy.policy import Caller, IpAddress, Policy, Target
from uproxy.snapshot import rule_target
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
    source, proven = _source(question.source), door.transport is not Transport.PLAINTEXT
    notes = [] if proven else [f"door {door.name} is plaintext, so its callers prove no identity"]
    if proven and trust.bundles is not None and not _has_root(trust.bundles, identity):
        domain = identity.trust_domain.name
        why = f"its certificate would be refused (X5-17): no bundle for the trust domain {domain}"
        return Answer(False, (why,))
    if source is None and any(
        rule.from_.cidrs or rule.from_.not_cidrs for rule in settings.authorization
    ):
        notes.append("a rule looks at addresses: say where the caller comes from with --from")
    if target.address is None and _asks_for_address(settings, door):
        notes.append("a rule looks at the address that a tunnel names, which isn't known here")
    if trust.own_trust_domain is None and _needs_domain(settings):
        notes.append("our own trust domain isn't known, which namespaces need: ask with --wait 10s")
    policy = Policy.compile(settings.authorization, trust.own_trust_domain)
    decision = policy.decide(Caller(identity if proven else None, source), target)
    notes += [f"shadow rule {each.rule} would {each.action}" for each in decision.shadow]
    if not decision.allowed and decision.rule is None and proven:
        names = {rule.name for rule in settings.authorization}
        port = target.port if door.transport is Transport.HBONE else None
        notes += ["to let it in, add", allow_rule(question.caller, door.name, names, port)]
    return Answer(decision.allowed, (decision.reason, *notes))


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
        there = ", ".join(door.name for door in settings.inbound) or "there is none"
        raise UsageError(f"--to {text!r} is no inbound door: {there}")
    return doors[name], _behind(doors[name], text, int(port))


def _behind(door: InboundSettings, text: str, port: int | None) -> Target:
    """Return what rules see of a door's application at a port; None: at the only one."""
    if door.transport is not Transport.HBONE:
        to = door.to
        if port is not None and (not isinstance(to, TcpAddress) or to.port != port):
            raise UsageError(f"--to {text!r}: door {door.name} leads to {to} alone")
        return rule_target(door)
    if port is None and len(door.ports) == 1 and isinstance(door.ports[0], int):
        port = door.ports[0]
    if port is None:
        raise UsageError(f"--to {text!r}: which port? --to {door.name}:PORT, of {door.leads_to}")
    if door.ports != ALL_PORTS and port not in door.ports:
        raise UsageError(f"--to {text!r}: tunnels to door {door.name} reach {door.leads_to} alone")
    arrives = door.listen.ip if isinstance(door.listen, TcpAddress) else None
    known = None if arrives is None or arrives.is_unspecified else arrives
    return Target(port, known, door.name)


def _asks_for_address(settings: Settings, door: InboundSettings) -> bool:
    """Whether a rule for a door with tunnels looks at the address that they name."""
    return door.transport is Transport.HBONE and any(
        rule.to.addresses or rule.to.not_addresses for rule in settings.authorization
    )


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
