"""The warnings of `uproxy check`: settings that are valid but probably not intended.

Warnings are no errors and change no setting; each says what follows from the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from uproxy.config.l7_advice import l7_warnings
from uproxy.config.listeners import beyond_loopback
from uproxy.config.nodes import join
from uproxy.config.rule_advice import target_warnings, trust_warnings
from uproxy.config.settings import ALL_PORTS, InboundSettings, RuleFrom, RuleSettings, Settings
from uproxy.model import Mistake, TcpAddress, Transport

LEAST_STREAMS = 100
"""How many streams ztunnel opens on a tunnel before it has read what the other end allows
(`POOL_MAX_STREAMS_PER_CONNECTION`)."""


def warnings(settings: Settings) -> tuple[Mistake, ...]:
    """Return all warnings, in the order of the file's sections."""
    return tuple(
        warning
        for advise in (
            _identity,
            _doors,
            _inbound,
            _outbound,
            _destinations,
            _tunnels,
            l7_warnings,
            target_warnings,
            _trust,
            _tls,
            _timeouts,
            _admin,
        )
        for warning in advise(settings)
    )


def _identity(settings: Settings) -> Iterator[Mistake]:
    """Warn of a Workload API on the network, and of connections that outlive their trust."""
    endpoint = settings.identity.workload_api
    if isinstance(endpoint, TcpAddress) and beyond_loopback(endpoint):
        reason = "private keys cross the network in clear; use the agent's unix socket"
        yield Mistake("identity.workload_api", reason, f"tcp://{endpoint}")
    if settings.identity.on_distrust == "keep":
        reason = "open connections outlive the trust they were made in; `close` ends them"
        yield Mistake("identity.on_distrust", reason, "keep")


def _tls(settings: Settings) -> Iterator[Mistake]:
    groups = settings.tls.groups
    left_out = [curve for curve in ("P-256", "P-384", "P-521") if curve not in groups]
    if settings.tls.min_version == "1.2" and left_out:
        curves = " and ".join(left_out)
        reason = f"TLS 1.2 takes no certificate on a curve left out: SVIDs on {curves} need TLS 1.3"
        yield Mistake("tls.groups", reason, ", ".join(groups))


def _doors(settings: Settings) -> Iterator[Mistake]:
    if not settings.inbound and not settings.outbound:
        yield Mistake("", "there is no inbound and no outbound door: nothing will be proxied")


def _inbound(settings: Settings) -> Iterator[Mistake]:
    """Warn if no allow rule is enforced, and of plaintext doors that no allow rule opens."""
    allows = [
        rule for rule in settings.authorization if rule.action == "allow" and rule.mode == "enforce"
    ]
    if settings.inbound and not allows:
        yield Mistake("authorization", "there is no allow rule in force: nobody gets in")
    for index, door in enumerate(settings.inbound):
        if allows and door.captured:
            yield from _clear_ports(door, join("inbound", index), allows)
        if not allows or door.captured or door.transport is not Transport.PLAINTEXT:
            continue
        if not any(
            _admits_unauthenticated(rule.from_, door.name, rule.to.inbound) for rule in allows
        ):
            reason = (
                "nobody gets in at this plaintext door: "
                "no allow rule for it says `unauthenticated: true`"
            )
            yield Mistake(join("inbound", index), reason, door.name)


def _clear_ports(
    door: InboundSettings, path: str, allows: Sequence[RuleSettings]
) -> Iterator[Mistake]:
    """Warn of ports of a door for capture whose callers have no identity, and that no rule opens to
    such."""
    for port in door.ports:
        how = door.transport_at(int(port))
        if (how.is_mutual_tls and port not in door.migrate) or any(
            _admits_unauthenticated(rule.from_, door.name, rule.to.inbound)
            and (not rule.to.ports or port in rule.to.ports)
            for rule in allows
        ):
            continue
        reason = (
            f"nobody gets in at port {port} without mtls, because callers have no identity there "
            "and no allow rule for it says `unauthenticated: true`"
        )
        yield Mistake(join(path, "ports"), reason, str(port))


def _admits_unauthenticated(callers: RuleFrom, door: str, doors: tuple[str, ...]) -> bool:
    """Return whether the rule lets callers without an identity in at this door."""
    return callers.unauthenticated and (not doors or door in doors)


def _outbound(settings: Settings) -> Iterator[Mistake]:
    for index, door in enumerate(settings.outbound):
        if door.expose and beyond_loopback(door.listen):
            reason = "whoever can connect here uses our identity"
            yield Mistake(join(join("outbound", index), "listen"), reason, str(door.listen))
        if door.captured and all(each.match is None for each in settings.destinations.values()):
            reason = "every captured connection is refused, because no destination has a `match`"
            yield Mistake(join(join("outbound", index), "captured"), reason)


def _destinations(settings: Settings) -> Iterator[Mistake]:
    """Warn of unused destinations, and of plaintext beyond loopback."""
    used = {door.to for door in settings.outbound}
    captures = any(door.captured for door in settings.outbound)
    for name, destination in settings.destinations.items():
        path = join("destinations", name)
        if name not in used and (destination.match is None or not captures):
            reason = "no outbound door leads here"
            if destination.match is not None:
                reason += "; captured connections need one with `captured: true`"
            yield Mistake(path, reason)
        if destination.transport is not Transport.PLAINTEXT:
            continue
        for index, address in enumerate(destination.addresses):
            if beyond_loopback(address):
                reason = "goes over the network in clear, to whoever answers; use mtls"
                yield Mistake(join(join(path, "addresses"), index), reason, str(address))


def _tunnels(settings: Settings) -> Iterator[Mistake]:
    """Warn of tunnels that reach every port, and of a limit that peers don't know in time."""
    for index, door in enumerate(settings.inbound):
        if door.ports == ALL_PORTS:
            reason = "tunnels reach every port of this workload that a rule allows, SSH too"
            yield Mistake(join(join("inbound", index), "ports"), reason, ALL_PORTS)
    if settings.hbone.max_streams < LEAST_STREAMS:
        reason = (
            f"ztunnel opens up to {LEAST_STREAMS} streams before it has read this, and those above "
            "wait without a word"
        )
        yield Mistake("hbone.max_streams", reason, str(settings.hbone.max_streams))


def _trust(settings: Settings) -> Iterator[Mistake]:
    """Warn of trust domains without a bundle, where the bundles are in files."""
    files = settings.identity.files
    if files is not None:
        yield from trust_warnings(settings, files.bundles.keys())


def _timeouts(settings: Settings) -> Iterator[Mistake]:
    """Warn of timeouts that are switched off."""
    if settings.timeouts.handshake == 0:
        reason = "without it, silent callers hold their places for ever"
        yield Mistake("timeouts.handshake", reason, "0")
    if settings.timeouts.connect == 0:
        reason = "without it, a host that doesn't answer is never passed over"
        yield Mistake("timeouts.connect", reason, "0")
    if settings.timeouts.drain == 0:
        reason = "without it, SIGTERM waits for the last connection, however long"
        yield Mistake("timeouts.drain", reason, "0")


def _admin(settings: Settings) -> Iterator[Mistake]:
    listen = settings.admin.listen
    if listen is not None and beyond_loopback(listen):
        reason = "shows connections and configuration to other hosts; 127.0.0.1 shows them here"
        yield Mistake("admin.listen", reason, str(listen))
