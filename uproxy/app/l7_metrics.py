"""What the metrics say about L7 proxies: which of their addresses are used."""

from __future__ import annotations

import time
from collections.abc import Iterator

from uproxy.destinations import L7, AllEndpoints
from uproxy.snapshot import Snapshot


def usable_endpoints(
    snapshot: Snapshot, endpoints: AllEndpoints
) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield for each address of each L7 proxy, as configured, whether it gets new streams: 1 or
    0."""
    for name, proxy in snapshot.l7_proxies.items():
        found: dict[str, bool] = {}
        for each in endpoints[L7, name].status(proxy.addresses, time.monotonic()):
            usable = each.address in proxy.serving.listed and not each.passed_over
            found[str(each.name)] = found.get(str(each.name), False) or usable
        yield from (((name, address), float(usable)) for address, usable in found.items())
