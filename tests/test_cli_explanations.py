"""What two lists of refusals say together."""

from __future__ import annotations

from typing import Any

from uproxy.cli.explanations import between, of_caller

WEB = "spiffe://example.org/ns/web/sa/frontend"
ORDERS = "spiffe://example.org/ns/shop/sa/orders"


def row(outcome: str, **more: Any) -> dict[str, Any]:
    return {
        "at": "2026-09-01T11:59:48Z", "direction": "inbound", "door": "api",
        "source": "10.0.0.1:4711", "identity": None, "outcome": outcome, "reason": "because",
        "rule": None, "destination": None, "count": 1, "unproven_identity": None,
        "unproven_serial": None, **more,
    }  # fmt: skip


def status(identity: str | None, *denials: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "now": "2026-09-01T12:00:00Z",
        "process": {"name": "x", "config": "/etc/uproxy/x.yaml"},
        "certificates": {
            "svid": None if identity is None else {"spiffe_id": identity},
            "source": {"source": "files"},
        },
        "doors": [], "destinations": [], "connections": [], "denials": list(denials), **more,
    }  # fmt: skip


def caller(*denials: dict[str, Any], identity: str | None = WEB) -> dict[str, Any]:
    to = to_orders(endpoints=[{"address": "10.0.0.2:8443", "name": "orders:8443"}])
    return status(identity, *denials, destinations=[to])


def to_orders(**more: Any) -> dict[str, Any]:
    return {"name": "orders", "identities": [ORDERS], "endpoints": [], **more}


def called(*denials: dict[str, Any], **more: Any) -> dict[str, Any]:
    door = {"direction": "inbound", "name": "api", "listen": "0.0.0.0:8443"}
    return status(ORDERS, *denials, doors=[door], **more)


ECHO = row("peer_refused", direction="outbound", identity=ORDERS, destination="orders")


def test_a_denial_is_told_once_with_the_rule_to_add() -> None:
    denied = row("denied", identity=WEB, reason=f"no rule allows {WEB}", count=3)
    for pair in ((caller(ECHO), called(denied)), (called(denied), caller(ECHO))):
        found = between(*pair)
        assert found.refused
        assert found.lines == (
            f"12 s ago, 3 times: {WEB} -> {ORDERS}, called's side: denied: no rule allows {WEB}",
            "  add to /etc/uproxy/x.yaml:",
            "    authorization:  # append the rule to the file's own list, if there is one",
            f'      - {{name: frontend-to-api, action: allow, from: {{identities: ["{WEB}"]}}, '
            'to: {inbound: ["api"]}}',
        )


def test_the_rule_to_add_has_a_name_of_its_own() -> None:
    denied = row("denied", identity=WEB)
    taken = {"frontend-to-api"}
    for found in (
        between(caller(ECHO), called(denied), taken),
        of_caller(called(denied), WEB, taken),
    ):
        assert "name: frontend-to-api-2, " in "\n".join(found.lines)


def test_the_rule_to_add_for_a_call_via_an_l7_proxy_names_the_proxy() -> None:
    denied = row("denied", identity=WEB, via="l7")
    assert f'{{identities: ["{WEB}"], via: ["l7"]}}' in of_caller(called(denied), WEB).lines[-1]


def test_who_only_has_to_come_another_way_needs_no_rule() -> None:
    reason = f"no rule allows {WEB}: rule web allows it via l7 only"
    found = of_caller(called(row("denied", identity=WEB, reason=reason)), WEB)
    assert found.lines == (f"12 s ago: {WEB} -> {ORDERS}: denied: {reason}",)


def test_a_proxy_that_wasnt_believed_about_a_caller_is_told_of_and_needs_no_rule() -> None:
    l7 = "spiffe://example.org/ns/mesh/sa/l7"
    reason = f"{l7} (inbound_trust.l7) may not speak for {WEB}: add it to speaks_for"
    denied = row("denied", identity=l7, reason=reason, rule="inbound_trust.l7")
    found = of_caller(called(denied), WEB)
    assert found.lines == (f"12 s ago: {WEB} -> {ORDERS}: denied: {reason} (inbound_trust.l7)",)
    assert not of_caller(called(denied), WEB[:-1]).refused
    assert not of_caller(called({**denied, "rule": None}), WEB).refused


def test_an_alert_says_no_more_than_the_side_that_sent_it() -> None:
    refused = row("peer_untrusted", unproven_identity=WEB, reason="no root signed the chain")
    alert = row(
        "handshake_failed", direction="outbound", destination="orders",
        reason="the peer refused our certificate (unknown ca): it may lack a bundle",
    )  # fmt: skip
    found = between(caller(alert), called(refused))
    assert found.lines == (
        f"12 s ago: {WEB} -> {ORDERS}, called's side: peer untrusted: no root signed the chain",
    )
    assert "caller's side: handshake failed" in between(caller(alert), called()).lines[0]


def test_what_the_called_one_has_forgotten_is_told_as_the_caller_saw_it() -> None:
    found = between(caller(ECHO), called())
    assert found.lines == (f"12 s ago: {WEB} -> {ORDERS}, caller's side: peer refused: because",)


def test_a_deny_rule_is_named_and_nothing_is_to_be_added() -> None:
    denied = row("denied", identity=WEB, rule="no-web", reason="rule no-web denies")
    assert between(caller(), called(denied)).lines == (
        f"12 s ago: {WEB} -> {ORDERS}, called's side: denied: rule no-web denies (no-web)",
    )


def test_whom_the_caller_does_not_expect_can_be_added_there() -> None:
    reason = f"wanted {WEB}, found {ORDERS}: add it to identities if it is right"
    unexpected = row("peer_unexpected", direction="outbound", destination="orders", reason=reason)
    unknown = row("handshake_failed", reason="the peer refused our certificate")
    found = between(caller(unexpected), called(unknown))
    assert f'identities: ["{ORDERS}"]' in found.lines[-1]
    assert found.lines[0].endswith(f"caller's side: peer unexpected: {reason}")


def test_a_trust_domain_without_a_bundle_can_be_added_where_bundles_are_files() -> None:
    stranger = "spiffe://stranger.test/a"
    refused = row("peer_untrusted", rule="X5-17", unproven_identity=stranger)
    found = of_caller(called(refused), stranger)
    assert found.lines[-1].strip() == '"stranger.test": "stranger.test.pem"'
    by_agent = called(refused)
    by_agent["certificates"]["source"]["source"] = "workload_api"
    assert len(of_caller(by_agent, stranger).lines) == 1


def test_others_are_left_out() -> None:
    other = row("denied", identity="spiffe://example.org/other")
    outwards = row("denied", identity=WEB, direction="outbound")
    live = [{"direction": "inbound", "identity": WEB}, {"direction": "inbound", "identity": None}]
    found = between(caller(), called(other, outwards, connections=live))
    assert not found.refused
    assert found.lines == (f"{WEB} -> {ORDERS}: nothing was refused lately, 1 open",)
    found = of_caller(called(other, connections=live), WEB)
    assert not found.refused
    assert "nothing was refused lately, 1 open" in found.lines[0]
    assert f"uproxy check /etc/uproxy/x.yaml --as {WEB} --to DOOR" in found.lines[0]


def test_a_caller_without_an_identity_is_told_by_its_own_side() -> None:
    lacking = row("no_identity", direction="outbound", destination="orders", reason="no agent")
    found = between(caller(lacking, identity=None), called())
    assert found.lines == (
        f"12 s ago: x (no identity) -> {ORDERS}, caller's side: no identity: no agent",
    )


def test_two_that_have_nothing_to_do_with_each_other_are_said_so() -> None:
    other = called()
    other["process"]["name"] = "y"
    found = between(called(), other)
    assert found.refused
    assert found.lines[0].startswith(f"x ({ORDERS}) and y ({ORDERS}) have no destination")
    assert "is it the right pair" in found.lines[0]


def test_a_destination_through_tunnels_leads_to_the_door_where_they_end() -> None:
    def through(end: str, application: str, *denials: dict[str, Any]) -> dict[str, Any]:
        ends = {"endpoints": [{"address": application, "name": application}], "tunnel_end": end}
        return status(WEB, *denials, destinations=[to_orders(**ends)])

    denied = row("denied", identity=WEB, reason=f"no rule allows {WEB}", port=5432)
    for end in ("*:8443", "192.0.2.1:8443"):
        found = between(through(end, "10.0.0.2:5432", ECHO), called(denied))
        assert "called's side: denied" in found.lines[0]
        assert found.lines[-1].endswith('to: {inbound: ["api"], ports: [5432]}}')
        assert len(found.lines) == 4  # the caller's echo is left out
    elsewhere = between(through("*:15008", "10.0.0.2:8443"), called(denied))
    assert "is it the right pair" in elsewhere.lines[0]


def test_what_a_tunnels_end_answered_is_told_by_the_side_that_knows_why() -> None:
    why = "port 1 isn't among `ports` of door web"
    for there, status_ in (("no_destination", 400), ("connect_failed", 503), ("denied", 403)):
        reason = f"the peer answered the CONNECT with {status_}: perhaps"
        echo = row("connect_failed", direction="outbound", destination="orders", reason=reason)
        found = between(caller(echo), called(row(there, identity=WEB, reason=why, rule="r")))
        assert [line.partition("side: ")[2] for line in found.lines] == [
            f"{there.replace('_', ' ')}: {why} (r)"
        ]
        assert "caller's side" in between(caller(echo), called()).lines[0]


def test_a_rule_that_may_have_been_added_since_is_told_so() -> None:
    denied = called(row("denied", identity=WEB))
    for loaded, told in (("11:59:47", "yaml:"), ("11:59:55", "what was loaded 5 s ago:")):
        denied["process"]["loaded_at"] = f"2026-09-01T{loaded}Z"
        assert of_caller(denied, WEB).lines[1].endswith(told)


def test_who_showed_no_identity_may_be_the_caller_that_is_asked_about() -> None:
    rows = [row("handshake_failed", source=f"10.0.0.1:{n}") for n in range(9)]
    found = of_caller(called(*rows), WEB)
    assert not found.refused
    assert found.lines[1:] == tuple(
        f"12 s ago: 10.0.0.1:{n}, perhaps this caller: handshake failed: because" for n in range(3)
    )
    known = [{**each, "unproven_identity": ORDERS} for each in rows]
    assert len(of_caller(called(*known), WEB).lines) == 1
    assert len(of_caller(called(*rows, row("denied", identity=WEB, rule="no")), WEB).lines) == 1
