"""Which handshakes the doors and destinations of a configuration make, and how a destination is
reached with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from uproxy.addresses import Records
from uproxy.config.settings import DestinationSettings, InboundSettings, Settings
from uproxy.contract import PLAIN, Refusal, Tls, Tunnel, Upstream
from uproxy.model import Outcome, Role, TcpAddress, TlsSettings, Transport, TunnelSettings
from uproxy.snapshot.plans import HandshakeKind, Plans
from uproxy.spiffe.ids import IdentityPattern

Expected = tuple[tuple[str, ...], tuple[IdentityPattern, ...]]
"""The identities that a destination expects, as configured and as parsed."""


def inbound_kind(door: InboundSettings, settings: Settings) -> HandshakeKind | None:
    """Return the kind of handshake of a door; None in plaintext."""
    if door.transport is Transport.PLAINTEXT:
        return None
    return HandshakeKind(Role.SERVER, *_terms(door, settings))


def outbound_kinds(
    settings: Settings, known: Mapping[str, Expected]
) -> Mapping[str, HandshakeKind | None]:
    """Return the kind of handshake of each destination, None in plaintext; `known` has patterns
    that were parsed before, by destination."""
    kinds: dict[str, HandshakeKind | None] = {}
    for name, each in settings.destinations.items():
        if each.transport is Transport.PLAINTEXT:
            kinds[name] = None
            continue
        patterns, expected = known.get(name, ((), ()))
        if patterns != each.identities:
            expected = tuple(map(IdentityPattern.parse, each.identities))
        kinds[name] = HandshakeKind(Role.CLIENT, *_terms(each, settings), expected)
    return kinds


def _terms(
    of: InboundSettings | DestinationSettings, settings: Settings
) -> tuple[TlsSettings, tuple[str, ...]]:
    """Return what is negotiated, and the application protocols.  Tunnels are HTTP/2 over TLS 1.3
    whatever the configuration allows elsewhere."""
    if of.transport is Transport.HBONE:
        return replace(settings.tls, min_version="1.3"), ("h2",)
    return settings.tls, of.alpn


def upstream_of(
    to: DestinationSettings,
    kind: HandshakeKind | None,
    plans: Plans,
    tunnels: TunnelSettings,
    records: Records,
) -> Upstream | Refusal:
    """Return how a destination is reached, or why no handshake can be made.

    Args:
        kind: of the handshake; None in plaintext.
        records: the resolver's answers.
    """
    if kind is None:
        return PLAIN
    plan = plans[kind]
    if isinstance(plan, Refusal) or to.transport is not Transport.HBONE:
        return plan if isinstance(plan, Refusal) else Tls(plan)
    end = to.tunnel_end
    if isinstance(end, TcpAddress) and end.ip is None:
        found = records.get(end)
        if not found:
            reason = f"hbone_address {end} of destination {to.name} has not been resolved yet"
            return Refusal(Outcome.CONNECT_FAILED, reason)
        end = found[0]
    return Tunnel(plan, end, tunnels)
