"""The destinations of one snapshot: where outbound doors lead, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from uproxy.addresses import Addresses, Records
from uproxy.config.settings import DestinationSettings, Settings
from uproxy.contract import Refusal, Upstream
from uproxy.model import TcpAddress, Timeouts, Transport
from uproxy.snapshot.handshakes import upstream_of
from uproxy.snapshot.l7 import L7Proxy, Via, via_of
from uproxy.snapshot.plans import HandshakeKind, Plans
from uproxy.spiffe.ids import IdentityPattern


@dataclass(frozen=True, slots=True)
class Destination:
    """Where outbound doors lead, and how."""

    settings: DestinationSettings
    addresses: Addresses
    """Those configured; none where the original destination of a captured connection is meant."""
    expected: tuple[IdentityPattern, ...]
    """Who may answer; empty in plaintext."""
    upstream: Upstream | Refusal
    """How its addresses are reached, past its L7 proxy if it has one; a Refusal says why no
    handshake can be made."""
    timeouts: Timeouts
    """The configuration's, with the destination's own where it has one."""
    port: int | None
    """The port of every address, if it is one and the same."""
    via: Via | None
    """How it is reached through its L7 proxy; None: it has none, and `upstream` is the only
    way."""

    def addresses_for(self, meant: TcpAddress | None) -> Addresses:
        """Return where a connection goes: to those configured, or else to the original destination
        of a captured one."""
        if self.addresses.configured or meant is None:
            return self.addresses
        sends_names = self.addresses.sends_names
        return Addresses.of((meant,), {}, self.addresses.server_name, sends_names=sends_names)


def destinations_of(
    settings: Settings,
    records: Records,
    kinds: Mapping[str, HandshakeKind | None],
    plans: Plans,
    l7_proxies: Mapping[str, L7Proxy],
    tokens: Mapping[str, str],
) -> Mapping[str, Destination]:
    """Make the destinations of a configuration, by name.

    Args:
        kinds: of their handshakes; None in plaintext.
        tokens: our JWT-SVIDs for them.
    """
    made = {}
    for name, each in settings.destinations.items():
        kind = kinds[name]
        made[name] = Destination(
            settings=each,
            addresses=Addresses.of(
                each.addresses,
                records,
                each.server_name,
                sends_names=each.transport is not Transport.HBONE,
            ),
            expected=() if kind is None or kind.expected is None else kind.expected,
            upstream=upstream_of(each, kind, plans, settings.hbone, records),
            timeouts=_timeouts(settings.timeouts, each),
            port=_port(each),
            via=via_of(each, l7_proxies, settings.hbone, tokens.get(name)),
        )
    return MappingProxyType(made)


def _timeouts(timeouts: Timeouts, to: DestinationSettings) -> Timeouts:
    return timeouts if to.idle is None else replace(timeouts, idle=to.idle)


def _port(to: DestinationSettings) -> int | None:
    ports = {address.port if isinstance(address, TcpAddress) else None for address in to.addresses}
    return ports.pop() if len(ports) == 1 else None
