from __future__ import annotations

import gc
import importlib.util
import weakref
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.helpers.world import ANYBODY, credentials, settings, with_crl
from uproxy.config.settings import (
    DestinationSettings,
    InboundSettings,
    InboundTrustSettings,
    L7EndpointSettings,
    L7ProxySettings,
    MatchSettings,
    RuleFrom,
    RuleSettings,
)
from uproxy.contract import PLAIN, Refusal, Tls, TlsPlan
from uproxy.destinations import L7
from uproxy.lab.pki import Authority
from uproxy.model import (
    Direction,
    Outcome,
    Role,
    TcpAddress,
    Timeouts,
    TlsSettings,
    Transport,
    UnixAddress,
)
from uproxy.policy import Caller
from uproxy.snapshot import Snapshot
from uproxy.speaking import InboundTrust
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.ids import SpiffeId

CA = Authority("example.org")
PARTNER = Authority("partner.test")
OURS = CA.issue("/ns/db/sa/orders")
A, B = (TcpAddress(f"10.0.0.{n}", 5432) for n in (1, 2))
NAME = TcpAddress("db.internal", 5432)
API = InboundSettings("api", TcpAddress("0.0.0.0", 1), Transport.MTLS, A)
DB = DestinationSettings("db", (NAME, B), Transport.MTLS, (OURS.spiffe_id,))
NAMESPACE = RuleSettings("web", "allow", RuleFrom(namespaces=("web",)))


def first(identity: bool = True) -> Snapshot:
    config = settings(ANYBODY, inbound=(API,), destinations={"db": DB})
    return Snapshot.first(config, credentials(OURS if identity else None, CA), lambda: CA.now)


def test_a_snapshot_is_whole() -> None:
    made = first()
    assert made.own is not None
    assert made.own.spiffe_id == OURS.spiffe_id
    application, destination = made.applications["api"], made.destinations["db"]
    assert isinstance(application.tls, TlsPlan)
    assert isinstance(destination.upstream, Tls)
    assert (list(application.addresses.listed), list(destination.addresses.listed)) == ([A], [B])
    assert (application.target.port, application.target.address) == (5432, A.ip)
    assert destination.port == 5432
    assert made.names == {NAME}


CHANGES: dict[str, Callable[[Snapshot], Snapshot]] = {
    "a reload": lambda s: s.with_settings(replace(s.settings, authorization=())),
    "a rotation": lambda s: s.with_credentials(credentials(CA.issue("/ns/db/sa/orders"), CA)),
    "a CRL": lambda s: s.with_credentials(with_crl(s.credentials, CA)),
    "a token": lambda s: s.with_tokens({"db": "token"}),
    "an answer": lambda s: s.with_records({NAME: (A,)}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_makes_a_new_one_and_leaves_the_old_as_it_was(
    change: Callable[[Snapshot], Snapshot],
) -> None:
    before = first()
    facts = (before.revision, before.own, dict(before.destinations["db"].addresses.listed))
    after = change(before)
    assert after.revision > before.revision > 0
    assert facts == (before.revision, before.own, dict(before.destinations["db"].addresses.listed))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_snapshot_keeps_the_one_before(change: Callable[[Snapshot], Snapshot]) -> None:
    before = first()
    gone = weakref.ref(before)
    after = change(before)
    del before
    gc.collect()
    assert gone() is None
    assert after.revision


def test_the_first_snapshot_of_a_process_has_a_revision_that_nothing_older_can_have() -> None:
    """0 is what a connection has that must be judged once more."""
    spec = importlib.util.find_spec("uproxy.snapshot.snapshot")
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh._next_revision() == 1


def test_what_is_equal_is_taken_over() -> None:
    before = first()
    after = before.with_settings(replace(before.settings, timeouts=Timeouts(idle=7)))
    assert after.policy is before.policy
    assert after.verifier is before.verifier
    assert after.destinations["db"].upstream == before.destinations["db"].upstream
    rotated = after.with_credentials(credentials(CA.issue("/ns/db/sa/orders"), CA))
    assert rotated.policy is before.policy
    assert rotated.verifier is before.verifier
    assert rotated.applications["api"].tls is not before.applications["api"].tls


def test_what_is_said_of_certificates_lasts_as_long_as_trust_does() -> None:
    before = first()
    reloaded = before.with_settings(replace(before.settings, timeouts=Timeouts(idle=7)))
    rotated = reloaded.with_credentials(credentials(CA.issue("/ns/db/sa/orders"), CA))
    assert rotated.verdicts is reloaded.verdicts is before.verdicts
    revoking = rotated.with_credentials(with_crl(rotated.credentials, CA))
    assert revoking.verifier is not rotated.verifier
    assert revoking.verdicts is not rotated.verdicts
    assert revoking.verdicts == {}


def test_other_rules_decide_otherwise() -> None:
    before = first()
    caller = Caller(SpiffeId.parse("spiffe://example.org/ns/web/sa/frontend"), None)
    after = before.with_settings(replace(before.settings, authorization=()))
    target = before.applications["api"].target
    decisions = [each.policy.decide(caller, target).allowed for each in (before, after)]
    assert decisions == [True, False]


def test_who_may_answer_is_whom_its_own_settings_name() -> None:
    before = first()
    other = replace(DB, identities=("spiffe://example.org/ns/db/sa/other",))
    after = before.with_settings(replace(before.settings, destinations={"db": other}))
    names = [[str(each) for each in made.destinations["db"].expected] for made in (before, after)]
    assert names == [[OURS.spiffe_id], list(other.identities)]
    again = before.with_settings(replace(before.settings, timeouts=Timeouts(idle=7)))
    assert again.destinations["db"].expected is before.destinations["db"].expected
    ways = [made.destinations["db"].upstream for made in (before, after)]
    assert ways[0] != ways[1]


def test_callers_are_answered_and_destinations_called() -> None:
    made = first()
    upstream = made.destinations["db"].upstream
    assert isinstance(upstream, Tls)
    plans = (made.applications["api"].tls, upstream.plan)
    assert [isinstance(each, TlsPlan) and each.role for each in plans] == [Role.SERVER, Role.CLIENT]
    assert made.destinations["db"].timeouts is made.settings.timeouts


def test_in_clear_nothing_is_shown_and_nobody_expected() -> None:
    before = first()
    door = replace(API, transport=Transport.PLAINTEXT)
    clear = replace(DB, transport=Transport.PLAINTEXT, identities=())
    config = replace(before.settings, inbound=(door,), destinations={"db": clear})
    made = before.with_settings(config)
    assert made.applications["api"].tls is None
    assert made.destinations["db"].upstream == PLAIN
    assert made.destinations["db"].expected == ()


def test_everything_that_has_a_name_is_looked_up_and_its_addresses_are_known() -> None:
    before = first().with_records({NAME: (A,)})
    inside, outside = TcpAddress("app.internal", 1), TcpAddress("db2.internal", 2)
    envoy = TcpAddress("envoy.internal", 15008)
    proxy = L7ProxySettings("l7", (L7EndpointSettings(envoy), L7EndpointSettings(A)), ())
    config = replace(
        before.settings,
        inbound=(replace(API, to=inside),),
        destinations={"db": DB, "db2": replace(DB, name="db2", addresses=(outside,))},
        l7_proxies={"l7": proxy},
    )
    made = before.with_settings(config, {outside: (B,)})
    assert made.names == {NAME, inside, outside, envoy}
    assert made.records == {NAME: (A,), outside: (B,)}
    assert {key: list(each.listed) for key, each in made.addresses.items()} == {
        (Direction.INBOUND, "api"): [],
        (Direction.OUTBOUND, "db"): [A, B],
        (Direction.OUTBOUND, "db2"): [B],
        (L7, "l7"): [A],
    }


def through_l7(snapshot: Snapshot) -> Snapshot:
    """The same, with its destination behind a shared L7 proxy."""
    there = replace(DB, via="l7", transport=Transport.HBONE)
    proxy = L7ProxySettings("l7", (L7EndpointSettings(B),), (OURS.spiffe_id,))
    config = replace(snapshot.settings, destinations={"db": there}, l7_proxies={"l7": proxy})
    return snapshot.with_settings(config)


def test_tokens_last_until_others_come_or_their_destination_goes() -> None:
    made = through_l7(first()).with_tokens({"db": "one", "gone": "two"})
    assert made.tokens == {"db": "one"}
    for change in ("a rotation", "an answer", "a reload"):
        assert CHANGES[change](made).tokens == {"db": "one"}
    assert made.with_tokens({}).tokens == {}
    assert made.with_settings(first().settings).tokens == {}


def test_plans_do_not_change_with_tokens() -> None:
    before = through_l7(first())
    after = before.with_tokens({"db": "one"})
    assert after.plans.plans == before.plans.plans
    assert after.verifier is before.verifier


def test_a_snapshot_that_is_printed_has_no_key_and_no_token() -> None:
    words = repr(through_l7(first()).with_tokens({"db": "secret token"}))
    assert "secret token" not in words
    assert "spiffe://example.org/ns/db/sa/orders" in words
    assert "PrivateKey" not in words
    assert "Plans" not in words


def test_other_tls_settings_make_other_plans_and_judge_alike() -> None:
    before = first()
    after = before.with_settings(replace(before.settings, tls=TlsSettings(groups=("X25519",))))
    one, other = before.applications["api"].tls, after.applications["api"].tls
    assert isinstance(one, TlsPlan)
    assert isinstance(other, TlsPlan)
    assert (one is other, one.trust_id == other.trust_id) == (False, True)


def test_the_last_good_answers_stay_for_as_long_as_their_names() -> None:
    made = first().with_records({NAME: (A,)}).with_records({NAME: ()})
    assert list(made.destinations["db"].addresses.listed) == [A, B]
    made = made.with_settings(replace(made.settings, destinations={}))
    assert made.records == {}
    made = made.with_settings(first().settings, {NAME: (B,)})
    assert list(made.destinations["db"].addresses.listed) == [B]


def test_without_an_svid_there_is_a_reason_and_no_plan_and_plaintext_needs_none() -> None:
    made = first(identity=False)
    refusal = made.destinations["db"].upstream
    assert refusal == Refusal(Outcome.NO_IDENTITY, "no identity yet")
    clear = replace(DB, transport=Transport.PLAINTEXT, identities=())
    made = made.with_settings(replace(made.settings, destinations={"db": clear}))
    assert made.destinations["db"].upstream == PLAIN


def test_our_trust_domain_is_known_once_it_was_and_rules_about_it_are_made_ready_then() -> None:
    nobody = Snapshot.first(settings(NAMESPACE), credentials(None, CA), lambda: CA.now)
    known = nobody.with_credentials(credentials(OURS, CA))
    assert (nobody.own_trust_domain, known.own_trust_domain) == (None, "example.org")
    assert known.policy is not nobody.policy
    expired = known.with_credentials(credentials(None, CA, reason="expired"))
    assert expired.policy is known.policy


def test_a_destinations_own_idle_time_and_its_port_if_it_has_one() -> None:
    other = replace(DB, addresses=(TcpAddress("10.0.0.9", 1), B), idle=0.0)
    made = Snapshot.first(settings(destinations={"db": other}), credentials(OURS, CA))
    assert made.destinations["db"].timeouts.idle == 0.0
    assert made.destinations["db"].port is None
    inside = replace(API, to=UnixAddress("/run/app"))
    there = replace(DB, addresses=(UnixAddress("/run/db"),))
    config = replace(made.settings, inbound=(inside,), destinations={"db": there})
    made = made.with_settings(config)
    assert made.destinations["db"].port is None
    assert made.applications["api"].target.port is None


def test_where_captured_connections_go_changes_with_the_configuration_alone() -> None:
    before = first()
    assert before.matching.find(ip_address("192.0.2.7"), 80) is None
    matched = replace(DB, match=MatchSettings())
    after = before.with_settings(replace(before.settings, destinations={"db": matched}))
    assert after.matching.find(ip_address("192.0.2.7"), 80) == "db"
    rotated = after.with_credentials(credentials(CA.issue("/ns/db/sa/orders"), CA))
    assert rotated.matching is after.matching


def test_who_speaks_for_whom_follows_the_configuration_and_the_bundles_and_nothing_else() -> None:
    proxy = "spiffe://example.org/ns/mesh/sa/l7"
    speaks = InboundTrustSettings("l7", (proxy,), ("spiffe://example.org/**",))
    empty = Bundle("partner.test", ())
    believed = credentials(OURS, CA)
    believed = replace(believed, bundles={**believed.bundles, "partner.test": empty})
    made = Snapshot.first(settings(inbound_trust={"l7": speaks}), believed, lambda: CA.now)
    assert made.trust == InboundTrust.of({"l7": speaks}, frozenset({"example.org"}))
    renewed = replace(believed, svid=CA.issue("/ns/db/sa/orders").svid)
    for same in (
        made.with_settings(replace(made.settings, on_policy_change="keep")),
        made.with_credentials(renewed),
        made.with_records({}),
    ):
        assert same.trust is made.trust
    known = replace(believed, bundles={**believed.bundles, "partner.test": PARTNER.bundle})
    federated = made.with_credentials(replace(known, generation=2))
    assert federated.trust.domains == {"example.org", "partner.test"}
    assert made.with_settings(replace(made.settings, inbound_trust={})).trust.proxies == {}
