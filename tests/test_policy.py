"""One test per sentence of the authorization contract."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from uproxy.config.settings import RuleFrom, RuleSettings, RuleTo
from uproxy.policy import Caller, Decision, Policy, ShadowMatch, Target
from uproxy.spiffe.ids import SpiffeId

OWN = "example.org"
WEB = "spiffe://example.org/ns/web/sa/frontend"
L7 = "spiffe://example.org/ns/mesh/sa/l7"
PORT = Target(5432, ip_address("127.0.0.1"), "api")
UNIX = Target(None, None, "api")


def caller(
    identity: str | None = WEB,
    source: str | None = "10.0.0.1",
    via: str = "direct",
    via_identity: str | None = None,
) -> Caller:
    return Caller(
        None if identity is None else SpiffeId.parse(identity),
        None if source is None else ip_address(source),
        via,
        None if via_identity is None else SpiffeId.parse(via_identity),
    )


def rule(
    from_: RuleFrom,
    to: RuleTo = RuleTo(),
    action: str = "allow",
    name: str = "r",
    mode: str = "enforce",
) -> RuleSettings:
    return RuleSettings(name, action, from_, to, mode)


def decide(
    *rules: RuleSettings, who: Caller | None = None, to: Target = PORT, own: str | None = OWN
) -> Decision:
    return Policy.compile(rules, own).decide(caller() if who is None else who, to)


def allows(from_: RuleFrom, who: Caller | None = None, to: Target = PORT) -> bool:
    return decide(rule(from_), who=who, to=to).allowed


def denies(from_: RuleFrom, who: Caller | None = None, to: RuleTo = RuleTo()) -> bool:
    """Whether a deny of `from_` refuses a caller whom everything else lets in."""
    everybody = [
        rule(RuleFrom(any=True, via=("direct", "l7")), name="all"),
        rule(RuleFrom(unauthenticated=True, via=("direct", "l7")), name="nobodies"),
        rule(RuleFrom(identities=(L7,)), name="l7 itself"),
    ]
    assert decide(*everybody, who=who).allowed
    return not decide(*everybody, rule(from_, to, action="deny"), who=who).allowed


def test_without_rules_nobody_gets_in() -> None:
    decision = decide()
    assert decision == Decision(False, None, f"no rule allows {WEB} to port 5432 at door api", ())


def test_the_reason_names_the_way_of_the_caller_and_a_door_without_a_port() -> None:
    decision = decide(who=caller(via="l7", via_identity=L7), to=UNIX)
    assert decision.reason == f"no rule allows {WEB} via l7 to door api"
    assert "a caller without an identity to port" in decide(who=caller(None)).reason


def test_any_matching_deny_refuses_wherever_it_stands() -> None:
    allow = rule(RuleFrom(any=True), name="yes")
    deny = rule(RuleFrom(identities=(WEB,)), action="deny", name="no")
    for rules in ((allow, deny), (deny, allow)):
        decision = decide(*rules)
        assert not decision.allowed
        assert decision.rule == "no"
        assert decision.reason == f"rule no denies {WEB} to port 5432 at door api"


def test_the_first_matching_allow_is_the_one_named() -> None:
    decision = decide(rule(RuleFrom(any=True), name="a"), rule(RuleFrom(any=True), name="b"))
    assert decision.allowed
    assert decision.rule == "a"


def test_each_from_field_selects_callers() -> None:
    other = caller("spiffe://partner.test/ns/shop/sa/cart", source="192.0.2.1")
    for field in (
        RuleFrom(identities=(WEB,)),
        RuleFrom(identities=("spiffe://example.org/ns/*/sa/frontend",)),
        RuleFrom(trust_domains=("example.org",)),
        RuleFrom(namespaces=("web",)),
        RuleFrom(service_accounts=("frontend",)),
        RuleFrom(cidrs=(ip_network("10.0.0.0/8"),)),
    ):
        assert allows(field)
        assert not allows(field, other)
        assert denies(field)
        assert not denies(field, other)


def test_each_not_field_excludes_callers() -> None:
    for field in (
        RuleFrom(any=True, not_identities=(WEB,)),
        RuleFrom(any=True, not_trust_domains=("example.org",)),
        RuleFrom(any=True, not_namespaces=("web",)),
        RuleFrom(any=True, not_service_accounts=("frontend",)),
        RuleFrom(any=True, not_cidrs=(ip_network("10.0.0.0/8"),)),
        RuleFrom(any=True, not_via=("direct",)),
    ):
        assert not allows(field)
        assert not denies(field)
    stranger = caller("spiffe://example.org/ns/shop/sa/cart")
    assert allows(RuleFrom(any=True, not_identities=(WEB,)), stranger)
    assert allows(RuleFrom(any=True, not_namespaces=("web",)), stranger)
    assert denies(RuleFrom(not_namespaces=("web",)), stranger)


def test_from_any_in_an_allow_is_every_authenticated_caller() -> None:
    assert allows(RuleFrom(any=True))
    assert allows(RuleFrom(any=True), caller("spiffe://partner.test/x"))
    assert not allows(RuleFrom(any=True), caller(None))


def test_from_any_in_a_deny_is_everyone() -> None:
    assert denies(RuleFrom(any=True))
    assert denies(RuleFrom(any=True), caller(None))


def test_an_allow_matches_a_caller_without_identity_only_if_it_says_unauthenticated() -> None:
    nobody = caller(None)
    assert not allows(RuleFrom(cidrs=(ip_network("10.0.0.0/8"),)), nobody)
    assert not allows(RuleFrom(via=("direct",)), nobody)
    assert allows(RuleFrom(unauthenticated=True), nobody)
    assert allows(RuleFrom(unauthenticated=True, cidrs=(ip_network("10.0.0.0/8"),)), nobody)


def test_unauthenticated_means_only_callers_without_identity() -> None:
    assert not allows(RuleFrom(unauthenticated=True))
    assert not denies(RuleFrom(unauthenticated=True))
    assert denies(RuleFrom(unauthenticated=True), caller(None))


def test_each_to_field_selects_targets() -> None:
    for here, elsewhere in (
        (RuleTo(ports=(5432,)), RuleTo(not_ports=(5432,))),
        (RuleTo(addresses=(ip_network("127.0.0.0/8"),)),
         RuleTo(not_addresses=(ip_network("127.0.0.0/8"),))),
        (RuleTo(inbound=("api",)), RuleTo(not_inbound=("api",))),
    ):  # fmt: skip
        assert decide(rule(RuleFrom(any=True), here)).allowed
        assert not decide(rule(RuleFrom(any=True), elsewhere)).allowed
        assert denies(RuleFrom(any=True), to=here)
        assert not denies(RuleFrom(any=True), to=elsewhere)


def test_fields_are_anded_and_values_are_ored() -> None:
    assert allows(RuleFrom(namespaces=("shop", "web"), service_accounts=("frontend", "x")))
    assert not allows(RuleFrom(namespaces=("shop", "web"), service_accounts=("x",)))


def test_an_absent_field_constrains_nothing() -> None:
    assert decide(rule(RuleFrom(any=True), RuleTo()), to=Target(1, None, "x")).allowed
    assert denies(RuleFrom())


def test_an_allow_without_a_positive_from_field_matches_nobody() -> None:
    assert not allows(RuleFrom())
    assert not allows(RuleFrom(not_namespaces=("shop",)))


def test_without_identity_a_not_field_never_holds_in_an_allow_and_always_in_a_deny() -> None:
    nobody = caller(None)
    for field in (
        RuleFrom(not_identities=(WEB,)),
        RuleFrom(not_trust_domains=("partner.test",)),
        RuleFrom(not_namespaces=("shop",)),
        RuleFrom(not_service_accounts=("cart",)),
    ):
        assert denies(field, nobody)
    assert not allows(RuleFrom(unauthenticated=True, not_namespaces=("shop",)), nobody)


def test_an_identity_of_another_form_counts_as_none_for_the_workload_fields() -> None:
    for text in ("spiffe://example.org/web", "spiffe://example.org/ns/web/sa/frontend/x"):
        odd = caller(text)
        assert not allows(RuleFrom(namespaces=("web",)), odd)
        assert not allows(RuleFrom(any=True, not_namespaces=("shop",)), odd)
        assert not allows(RuleFrom(any=True, not_service_accounts=("cart",)), odd)
        assert denies(RuleFrom(not_namespaces=("web",)), odd)
        assert not denies(RuleFrom(namespaces=("web",)), odd)
        assert allows(RuleFrom(trust_domains=("example.org",)), odd)


def test_cidrs_are_the_tcp_peers_address_also_via_an_l7_proxy() -> None:
    who = caller(source="192.0.2.9", via="l7", via_identity=L7)
    assert allows(RuleFrom(cidrs=(ip_network("192.0.2.0/24"),), via=("l7",)), who)
    assert not allows(RuleFrom(cidrs=(ip_network("10.0.0.0/8"),), via=("l7",)), who)


def test_a_v4_address_on_a_dual_stack_socket_is_the_v4_address() -> None:
    mapped = caller(source="::ffff:10.0.0.1")
    assert allows(RuleFrom(cidrs=(ip_network("10.0.0.0/8"),)), mapped)
    assert allows(RuleFrom(cidrs=(ip_network("::ffff:10.0.0.0/104"),)))
    assert not allows(RuleFrom(cidrs=(ip_network("::/0"),)), mapped)


def test_a_network_of_mapped_addresses_is_the_v4_network_and_no_other_v6_network_is() -> None:
    for network, source, inside in (
        ("::ffff:0:0/96", "203.0.113.9", True),
        ("::ffff:10.0.0.0/104", "10.255.0.1", True),
        ("::ffff:10.0.0.0/104", "11.0.0.1", False),
        ("::ffff:10.0.0.7/128", "10.0.0.7", True),
        ("::ffff:10.0.0.7/128", "10.0.0.6", False),
        ("::fffe:0:0/95", "10.0.0.1", False),
        ("2001:db8::/112", "2001:db8::7", True),
        ("2001:db8::/112", "2001:db8::1:7", False),
    ):
        who = caller(source=source)
        assert allows(RuleFrom(cidrs=(ip_network(network),)), who) is inside, (network, source)


def test_the_reason_says_which_rule_allows_or_denies_whom() -> None:
    for action, verb in (("allow", "allows"), ("deny", "denies")):
        decision = decide(rule(RuleFrom(any=True), action=action, name="r1"))
        assert decision.reason == f"rule r1 {verb} {WEB} to port 5432 at door api"


def test_a_caller_without_an_address_matches_denies_by_address_and_no_allow() -> None:
    local = caller(source=None)
    everywhere = (ip_network("0.0.0.0/0"),)
    assert not allows(RuleFrom(cidrs=everywhere), local)
    assert not allows(RuleFrom(any=True, not_cidrs=everywhere), local)
    assert denies(RuleFrom(cidrs=everywhere), local)
    assert denies(RuleFrom(not_cidrs=everywhere), local)


def test_a_target_without_a_port_matches_denies_that_name_ports_and_no_such_allow() -> None:
    for to in (RuleTo(ports=(5432,)), RuleTo(not_ports=(5432,)),
               RuleTo(addresses=(ip_network("127.0.0.1/32"),))):  # fmt: skip
        assert not decide(rule(RuleFrom(any=True), to), to=UNIX).allowed
        yes = rule(RuleFrom(any=True))
        assert not decide(yes, rule(RuleFrom(any=True), to, "deny"), to=UNIX).allowed
    assert decide(rule(RuleFrom(any=True), RuleTo(inbound=("api",))), to=UNIX).allowed


def test_an_allow_without_via_means_direct_only() -> None:
    through = caller(via="l7", via_identity=L7)
    assert allows(RuleFrom(any=True))
    assert not allows(RuleFrom(any=True), through)
    assert allows(RuleFrom(via=("direct", "l7")))
    assert allows(RuleFrom(via=("direct", "l7")), through)
    assert not allows(RuleFrom(via=("l7",)))


def test_a_refusal_says_that_a_rule_lets_the_caller_in_if_it_comes_another_way() -> None:
    through = caller(via="l7", via_identity=L7)
    for rules, who, words in (
        ([rule(RuleFrom(any=True, via=("l7",)), name="web")], caller(), "via l7 only"),
        ([rule(RuleFrom(any=True, via=("a", "b")), name="web")], caller(), "via a or via b only"),
        ([rule(RuleFrom(any=True), name="web")], through, "direct only"),
        ([rule(RuleFrom(any=True), name="web"), rule(RuleFrom(any=True))], through, "direct only"),
        ([rule(RuleFrom(any=True, via=("a", "direct")), name="web")], through,
         "via a or direct only"),
    ):  # fmt: skip
        decision = decide(*rules, who=who)
        assert (decision.allowed, decision.rule) == (False, None)
        assert decision.reason == f"no rule allows {who} to {PORT}: rule web allows it {words}"


def test_a_refusal_says_nothing_of_rules_that_are_for_others_or_decide_nothing() -> None:
    for other in (
        rule(RuleFrom(any=True, via=("l7",)), RuleTo(ports=(80,))),
        rule(RuleFrom(identities=("spiffe://example.org/ns/web/sa/other",), via=("l7",))),
        rule(RuleFrom(any=True, via=("l7",)), mode="shadow"),
        rule(RuleFrom(any=True, via=("l7",)), action="deny"),
        rule(RuleFrom(namespaces=("shop",), via=("direct", "l7"))),
    ):
        assert decide(other).reason == f"no rule allows {caller()} to {PORT}"


def test_not_via_alone_does_not_extend_an_allow_beyond_direct() -> None:
    assert not allows(RuleFrom(any=True, not_via=("other",)), caller(via="l7", via_identity=L7))
    assert allows(RuleFrom(any=True, not_via=("other",)))


def test_a_deny_without_via_means_any_way() -> None:
    through = caller(via="l7", via_identity=L7)
    assert denies(RuleFrom(identities=(WEB,)), through)
    assert denies(RuleFrom(via=("l7",)), through)
    assert not denies(RuleFrom(via=("direct",)), through)
    assert not denies(RuleFrom(not_via=("l7",)), through)


def test_workload_fields_mean_our_own_trust_domain_unless_trust_domains_is_given() -> None:
    foreign = caller("spiffe://partner.test/ns/web/sa/frontend")
    assert not allows(RuleFrom(namespaces=("web",)), foreign)
    assert allows(RuleFrom(namespaces=("web",), trust_domains=("partner.test",)), foreign)
    assert not allows(RuleFrom(namespaces=("web",), trust_domains=("partner.test",)))
    # a foreign workload isn't one of ours outside `web`: it counts as having no namespace
    assert not allows(RuleFrom(any=True, not_namespaces=("shop",)), foreign)
    assert denies(RuleFrom(not_namespaces=("web",)), foreign)


def test_while_our_trust_domain_is_unknown_workload_fields_fail_closed() -> None:
    yes = rule(RuleFrom(any=True))
    for field in (RuleFrom(namespaces=("web",)), RuleFrom(any=True, not_namespaces=("shop",)),
                  RuleFrom(service_accounts=("frontend",))):  # fmt: skip
        assert not decide(rule(field), own=None).allowed
        assert not decide(yes, rule(field, action="deny"), own=None).allowed
    named = RuleFrom(namespaces=("web",), trust_domains=("example.org",))
    assert decide(rule(named), own=None).allowed


def test_an_l7_proxys_own_identity_is_let_in_only_by_its_exact_name() -> None:
    itself = caller(L7, via_identity=L7)
    for field in (
        RuleFrom(any=True),
        RuleFrom(identities=("spiffe://example.org/ns/mesh/sa/*", "spiffe://example.org/**")),
        RuleFrom(trust_domains=("example.org",)),
        RuleFrom(namespaces=("mesh",)),
        RuleFrom(cidrs=(ip_network("10.0.0.0/8"),)),
    ):
        assert not allows(field, itself)
        assert denies(field, itself)
    assert allows(RuleFrom(identities=(L7,)), itself)
    assert not allows(
        RuleFrom(identities=(L7,), not_identities=("spiffe://example.org/**",)), itself
    )
    assert denies(RuleFrom(not_identities=("spiffe://example.org/**",)), itself)
    assert not denies(RuleFrom(not_identities=(L7,)), itself)


def test_a_shadow_rule_is_reported_and_never_decides() -> None:
    rules = (
        rule(RuleFrom(any=True), name="maybe", mode="shadow"),
        rule(RuleFrom(any=True), action="deny", name="perhaps", mode="shadow"),
        rule(RuleFrom(namespaces=("shop",)), name="other", mode="shadow"),
    )
    wanted = (ShadowMatch("maybe", "allow"), ShadowMatch("perhaps", "deny"))
    assert not decide(*rules).allowed
    assert decide(*rules).shadow == wanted
    decision = decide(*rules, rule(RuleFrom(any=True), name="yes"))
    assert decision.allowed
    assert decision.shadow == wanted


def test_a_policy_knows_whether_any_rule_looks_at_the_source() -> None:
    network = (ip_network("10.0.0.0/8"),)
    blind = rule(RuleFrom(any=True), RuleTo(ports=(1,), addresses=network))
    assert not Policy.compile((blind,), OWN).by_source
    for who in (RuleFrom(cidrs=network), RuleFrom(any=True, not_cidrs=network)):
        for mode in ("enforce", "shadow"):
            assert Policy.compile(iter((blind, rule(who, mode=mode))), OWN).by_source
