"""Whom the refusals of a uProxy are about."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_cli_explanations import ORDERS, WEB, row, status
from uproxy.cli.explanations import between
from uproxy.cli.pairing import about, found_in, leading

PAYMENTS = "spiffe://example.org/ns/shop/sa/payments"
WRONG = f"wanted {PAYMENTS}, found {ORDERS}: add it to identities if it is right"


def to(name: str, *identities: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "identities": list(identities), "endpoints": [], **more}


def through(name: str, identity: str, **more: Any) -> dict[str, Any]:
    return to(name, identity, tunnel_end="*:15008", **more)


def out(destination: str, outcome: str = "connect_failed", **more: Any) -> dict[str, Any]:
    return row(outcome, direction="outbound", destination=destination, **more)


def door(listen: str, transport: str = "hbone") -> dict[str, Any]:
    return {"direction": "inbound", "name": "in", "listen": listen, "transport": transport}


def orders(*denials: dict[str, Any], listen: str = "0.0.0.0:15008", **more: Any) -> dict[str, Any]:
    return status(ORDERS, *denials, doors=[door(listen, **more)])


def payments(*denials: dict[str, Any]) -> dict[str, Any]:
    return status(PAYMENTS, *denials, doors=[door("0.0.0.0:15008")])


def web(*denials: dict[str, Any], destinations: list[dict[str, Any]]) -> dict[str, Any]:
    return status(WEB, *denials, destinations=destinations)


BOTH = [through("orders", ORDERS), through("payments", PAYMENTS)]


def test_of_two_destinations_that_end_at_one_port_the_one_that_expects_it_leads_there() -> None:
    assert leading(web(destinations=BOTH), orders()) == {"orders"}
    assert leading(web(destinations=BOTH), payments()) == {"payments"}
    assert leading(web(destinations=[through("any", f"{ORDERS[:-6]}*")]), payments()) == {"any"}
    assert leading(web(destinations=BOTH), status(None, doors=[door("[::]:15008")])) == {
        "orders", "payments",
    }  # fmt: skip
    assert leading(web(destinations=BOTH), orders(listen="0.0.0.0:1")) == frozenset()


def test_a_wrong_workload_is_suggested_to_nobody_who_asks_about_another() -> None:
    """Payments' address was answered by orders."""
    caller = web(out("payments", "peer_unexpected", reason=WRONG), destinations=BOTH)
    found = between(caller, payments())
    assert not found.refused
    assert found.lines == (f"{WEB} -> {PAYMENTS}: nothing was refused lately, 0 open",)
    told = between(caller, orders())
    assert told.refused
    assert f'identities: ["{ORDERS}"]' in told.lines[-1]
    assert "payments" in "\n".join(told.lines[1:])


def test_who_answered_decides_and_else_whom_the_destination_expects() -> None:
    rows = {
        "proved": out("payments", "peer_refused", identity=ORDERS),
        "claimed": out("payments", "peer_untrusted", unproven_identity=ORDERS),
        "found": out("payments", "peer_unexpected", reason=WRONG),
        "expected": out("orders"),
    }
    others = [
        out("orders", "peer_refused", identity=PAYMENTS),
        out("orders", "peer_untrusted", unproven_identity=PAYMENTS),
        out("payments"),
        out("orders", "peer_unexpected", reason=f"wanted {ORDERS}, found {PAYMENTS}: add it"),
        out("orders") | {"destination": None},
        out("orders") | {"direction": "inbound"},
    ]
    for name, each in rows.items():
        assert list(about(web(*others, each, destinations=BOTH), orders())) == [each], name
    assert found_in(rows["found"]) == ORDERS
    assert found_in(rows["proved"]) is None


def test_through_an_l7_proxy_whoever_answers_is_the_proxy() -> None:
    l7 = "spiffe://example.org/ns/mesh/sa/l7"
    via = [through("orders", ORDERS, via="l7"), through("payments", PAYMENTS, via="l7")]
    refused = out("orders", "l7_refused", identity=l7)
    assert list(about(web(refused, destinations=via), orders())) == [refused]
    assert list(about(web(refused, destinations=via), payments())) == []
    strange = f"L7 proxy l7 at 10.0.0.9:15008: wanted {l7}, found {ORDERS}: add it to identities"
    met = out("orders", "peer_unexpected", reason=strange)
    told = between(web(met, destinations=via), orders())
    assert told.refused
    assert len(told.lines) == 1


@pytest.mark.parametrize("transport", ["captured", "mtls"])
def test_two_that_are_captured_are_a_pair_by_whom_the_destination_expects(transport: str) -> None:
    """Nobody dials the port of a door for captured connections."""
    there = orders(listen="[::]:15006", transport=transport)
    listed = to("orders", ORDERS, endpoints=[{"address": "10.0.0.2:8080", "name": "orders:8080"}])
    original = to("orders", ORDERS, original=True)
    for destination in (listed, original):
        caller = web(out("orders"), destinations=[destination])
        is_pair = transport == "captured" or destination is original
        assert leading(caller, there) == ({"orders"} if is_pair else frozenset())
        assert ("is it the right pair" in between(caller, there).lines[0]) is not is_pair
    stranger = web(destinations=[to("payments", PAYMENTS, original=True)])
    found = between(stranger, there)
    assert found.refused
    assert "expects its identity: is it the right pair" in found.lines[0]
    assert leading(web(destinations=[to("clear", original=True)]), there) == frozenset()


def test_what_is_no_pattern_expects_nobody() -> None:
    assert leading(web(destinations=[through("orders", "nobody")]), orders()) == frozenset()


def test_in_clear_a_destination_leads_to_the_port_alone() -> None:
    ends = {"endpoints": [{"address": "10.0.0.2:15008", "name": "10.0.0.2:15008"}]}
    caller = web(out("clear"), destinations=[to("clear", **ends)])
    assert leading(caller, orders()) == {"clear"}
    assert list(about(caller, orders())) == caller["denials"]
    assert leading(caller, orders(listen="0.0.0.0:1")) == frozenset()
