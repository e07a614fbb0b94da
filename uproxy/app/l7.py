"""Makes the rows about L7 proxies, for `/l7` and the status page: which of their addresses
are used, which have failed and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from uproxy.addresses import Addresses
from uproxy.app.tables import ago
from uproxy.destinations import L7, AllEndpoints
from uproxy.proxy.admin.l7_rows import L7DestinationRow, L7EndpointRow, L7ProxyRow
from uproxy.proxy.admin.row import UnresolvedRow
from uproxy.snapshot import L7Proxy, Snapshot


def l7_rows(
    snapshot: Snapshot,
    endpoints: AllEndpoints,
    unresolved: Callable[[Addresses], tuple[UnresolvedRow, ...]],
) -> tuple[L7ProxyRow, ...]:
    """Return a row for each L7 proxy, in the order of the configuration."""
    return tuple(
        L7ProxyRow(
            name=name,
            identities=proxy.settings.identities,
            when_unavailable=proxy.settings.when_unavailable,
            endpoints=tuple(_endpoint_rows(proxy, endpoints)),
            unresolved=unresolved(proxy.addresses),
            destinations=tuple(
                L7DestinationRow(each.settings.name, each.via.has_proof)
                for each in snapshot.destinations.values()
                if each.via is not None and each.via.proxy is proxy
            ),
        )
        for name, proxy in snapshot.l7_proxies.items()
    )


def _endpoint_rows(proxy: L7Proxy, endpoints: AllEndpoints) -> Iterator[L7EndpointRow]:
    of_proxy = endpoints[L7, proxy.settings.name]
    for each in of_proxy.status(proxy.addresses, time.monotonic()):
        yield L7EndpointRow(
            address=str(each.address),
            name=str(each.name),
            draining=each.address not in proxy.serving.listed,
            passed_over=each.passed_over,
            only_unhealthy=each.only_unhealthy,
            connections=each.connections,
            reason=each.reason,
            since=None if each.failing_s is None else ago(each.failing_s),
        )
