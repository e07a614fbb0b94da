from __future__ import annotations

import time

from tests.helpers.world import credentials, settings
from uproxy.app.l7 import l7_rows
from uproxy.app.l7_metrics import usable_endpoints
from uproxy.config.settings import DestinationSettings, L7EndpointSettings, L7ProxySettings
from uproxy.destinations import L7, AllEndpoints
from uproxy.model import TcpAddress, Transport
from uproxy.proxy.admin.l7_rows import L7DestinationRow
from uproxy.proxy.admin.row import UnresolvedRow
from uproxy.snapshot import Snapshot

ENVOY = "spiffe://example.org/ns/mesh/sa/l7"
REVIEWS = "spiffe://example.org/ns/shop/sa/reviews"
ONE, OTHER, DRAINING = (TcpAddress(f"10.0.0.{n}", 15008) for n in (9, 10, 11))
NAME = TcpAddress("l7.internal", 15008)
APP = TcpAddress("10.1.0.1", 8080)


def snapshot() -> Snapshot:
    """Of two addresses of one name, and another one that is draining."""
    ends = (L7EndpointSettings(NAME), L7EndpointSettings(DRAINING, draining=True))
    to = DestinationSettings("reviews", (APP,), Transport.HBONE, (REVIEWS,), via="l7")
    config = settings(
        destinations={"reviews": to, "db": DestinationSettings("db", (APP,), Transport.PLAINTEXT)},
        l7_proxies={"l7": L7ProxySettings("l7", ends, (ENVOY,), "bypass")},
    )
    return Snapshot.first(config, credentials(None)).with_records({NAME: (ONE, OTHER)})


def test_a_row_tells_how_each_address_fares_and_who_is_reached_through_it() -> None:
    made, endpoints = snapshot().with_tokens({"reviews": "a.b.c"}), AllEndpoints()
    endpoints[L7, "l7"].opened((), DRAINING, 0.0)
    endpoints[L7, "l7"].failed(OTHER, time.monotonic(), "no answer")
    unresolved = (UnresolvedRow("x", "why"),)
    [row] = l7_rows(made, endpoints, lambda _addresses: unresolved)
    assert (row.name, row.identities, row.when_unavailable) == ("l7", (ENVOY,), "bypass")
    assert (row.unresolved, row.usable) == (unresolved, True)
    assert row.destinations == (L7DestinationRow("reviews", proof=True),)
    one, other, draining = row.endpoints
    assert (one.address, one.name) == (str(ONE), str(NAME))
    assert (one.draining, one.passed_over, one.connections, one.reason) == (False, False, 0, None)
    assert (other.passed_over, other.reason) == (True, "no answer")
    assert other.since is not None
    assert (draining.draining, draining.connections) == (True, 1)


def test_a_row_tells_whether_its_health_check_alone_speaks_against_an_address() -> None:
    made, endpoints = snapshot(), AllEndpoints()
    for each in (ONE, OTHER):
        endpoints[L7, "l7"].checked(each, "no answer")
    endpoints[L7, "l7"].failed(OTHER, time.monotonic(), "no answer")
    [row] = l7_rows(made, endpoints, lambda _addresses: ())
    assert [each.only_unhealthy for each in row.endpoints] == [True, False, False]
    assert (row.usable, row.tried_all_the_same) == (False, True)
    endpoints[L7, "l7"].checked(ONE, None)
    [row] = l7_rows(made, endpoints, lambda _addresses: ())
    assert (row.usable, row.tried_all_the_same) == (True, False)


def test_an_address_is_usable_while_one_of_its_records_is() -> None:
    made, endpoints = snapshot(), AllEndpoints()
    name, draining = ("l7", str(NAME)), ("l7", str(DRAINING))
    assert dict(usable_endpoints(made, endpoints)) == {name: 1.0, draining: 0.0}
    endpoints[L7, "l7"].failed(ONE, time.monotonic(), "no")
    assert dict(usable_endpoints(made, endpoints))[name] == 1.0
    endpoints[L7, "l7"].checked(OTHER, "no")
    assert dict(usable_endpoints(made, endpoints))[name] == 0.0
