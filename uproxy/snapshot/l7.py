"""The L7 proxies of one snapshot, and how a destination is reached through one.

Each address of an L7 proxy has a plan of its own: when it is removed or marked as draining, the
last reference to its plan goes with the last snapshot that used it, and with the plan the tunnels
that were dialled with it take no new streams, and end with their last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from uproxy.addresses import Addresses, Records
from uproxy.config.settings import DestinationSettings, L7ProxySettings, Settings
from uproxy.contract import Refusal, TlsPlan, Tunnel
from uproxy.model import Address, Outcome, Role, TcpAddress, TunnelSettings
from uproxy.snapshot.plans import HandshakeKind, Plans
from uproxy.spiffe.ids import IdentityPattern

EXPECT_ID = "x-uproxy-expect-id"
"""The header of a CONNECT that tells an L7 proxy whom it must find at the destination: SPIFFE IDs,
separated by commas."""
PROOF = "x-uproxy-proof"
"""The header that has our JWT-SVID for the destination."""
MAX_HEADERS = 12 * 1024
"""Bytes of both: one frame of HTTP/2 has 16,384."""


@dataclass(frozen=True, slots=True)
class L7Proxy:
    """An entry of `l7_proxies`."""

    settings: L7ProxySettings
    expected: tuple[IdentityPattern, ...]
    """Who may answer."""
    addresses: Addresses
    """All of them."""
    serving: Addresses
    """Those that get new streams."""
    plans: Mapping[Address, TlsPlan] | Refusal
    """By literal address of `serving`; a Refusal says why no handshake can be made."""


@dataclass(frozen=True, slots=True)
class Via:
    """How a destination is reached through an L7 proxy."""

    proxy: L7Proxy
    upstreams: Mapping[Address, Tunnel] | Refusal
    """By literal address of the L7 proxy."""
    has_proof: bool
    """Whether our JWT-SVID for the destination goes along."""

    @property
    def may_bypass(self) -> bool:
        """Whether connections go straight to the destination while the L7 proxy is unavailable."""
        return self.proxy.settings.when_unavailable == "bypass"


@dataclass(frozen=True, slots=True)
class L7Kinds:
    """An L7 proxy, as far as it is known before there are plans."""

    settings: L7ProxySettings
    expected: tuple[IdentityPattern, ...]
    addresses: Addresses
    serving: Addresses
    kinds: Mapping[Address, HandshakeKind]

    def with_plans(self, plans: Plans) -> L7Proxy:
        """Return the L7 proxy."""
        made: dict[Address, TlsPlan] = {}
        for address, kind in self.kinds.items():
            plan = plans[kind]
            if isinstance(plan, Refusal):
                return self._with(plan)
            made[address] = plan
        return self._with(MappingProxyType(made))

    def _with(self, plans: Mapping[Address, TlsPlan] | Refusal) -> L7Proxy:
        return L7Proxy(self.settings, self.expected, self.addresses, self.serving, plans)


def l7_kinds(
    settings: Settings, records: Records, before: Mapping[str, L7Proxy]
) -> Iterator[tuple[str, L7Kinds]]:
    """Yield each L7 proxy by its name; `before` are those of the snapshot before."""
    terms = replace(settings.tls, min_version="1.3")
    for name, each in settings.l7_proxies.items():
        known = before.get(name)
        if known is not None and known.settings.identities == each.identities:
            expected = known.expected
        else:
            expected = tuple(map(IdentityPattern.parse, each.identities))
        serving = _listed(each, records, also_draining=False)
        kinds = {
            address: HandshakeKind(Role.CLIENT, terms, ("h2",), expected, address)
            for address in serving.listed
        }
        everything = _listed(each, records, also_draining=True)
        yield name, L7Kinds(each, expected, everything, serving, MappingProxyType(kinds))


def _listed(proxy: L7ProxySettings, records: Records, *, also_draining: bool) -> Addresses:
    usable = [each.address for each in proxy.addresses if also_draining or not each.draining]
    return Addresses.of(tuple(usable), records, sends_names=False)


def via_of(
    to: DestinationSettings,
    proxies: Mapping[str, L7Proxy],
    tunnels: TunnelSettings,
    token: str | None,
) -> Via | None:
    """Return how a destination is reached through its L7 proxy; None: straight.

    Args:
        token: our JWT-SVID for the destination; None: there is none.
    """
    if to.via is None:
        return None
    proxy = proxies[to.via]
    if isinstance(proxy.plans, Refusal):
        return Via(proxy, proxy.plans, token is not None)
    headers = ((EXPECT_ID, ",".join(to.identities)), *(((PROOF, token),) if token else ()))
    size = sum(len(value) for _name, value in headers)
    if size > MAX_HEADERS:
        reason = f"L7 proxy {to.via} is told {MAX_HEADERS} bytes about {to.name} at most, and its "
        reason += f"identities and our token have {size}: list fewer identities"
        return Via(proxy, Refusal(Outcome.CONNECT_FAILED, reason), token is not None)
    upstreams: dict[Address, Tunnel] = {
        end: Tunnel(plan, end, tunnels, headers, to.via)
        for end, plan in proxy.plans.items()
        if isinstance(end, TcpAddress)
    }
    return Via(proxy, MappingProxyType(upstreams), token is not None)
