"""Who speaks for whom."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.helpers.docs import ROOT, table
from uproxy.config.settings import InboundTrustSettings
from uproxy.contract import SILENT, Spoken
from uproxy.model import Outcome
from uproxy.policy import DIRECT, Caller
from uproxy.speaking import Disbelief, Doubt, InboundTrust
from uproxy.spiffe.ids import SpiffeId

WEB = "spiffe://example.org/ns/web/sa/frontend"
L7 = "spiffe://example.org/ns/mesh/sa/l7"
OTHER_L7 = "spiffe://example.org/ns/mesh/sa/other"
SOURCE = ip_address("192.0.2.9")
SPEAKS = InboundTrustSettings("l7", (L7,), ("spiffe://example.org/**",))
OTHER = InboundTrustSettings("other", (OTHER_L7,), ("spiffe://example.org/ns/shop/sa/*",))


def trust(
    *entries: InboundTrustSettings, domains: frozenset[str] = frozenset({"example.org"})
) -> InboundTrust:
    return InboundTrust.of({each.name: each for each in entries or (SPEAKS, OTHER)}, domains)


def ask(
    *callers: str, peer: str | None = L7, by: InboundTrust | None = None, is_stream: bool = True
) -> Caller | Disbelief:
    spoken = Spoken(callers) if callers else SILENT
    return (by or trust()).caller(peer, SOURCE, spoken, is_stream=is_stream)


def doubt(*callers: str, peer: str = L7, by: InboundTrust | None = None) -> Disbelief:
    found = ask(*callers, peer=peer, by=by)
    assert isinstance(found, Disbelief)
    return found


def test_a_trusted_proxy_connects_for_the_caller_that_it_names() -> None:
    found = ask(WEB)
    assert found == Caller(SpiffeId.parse(WEB), SOURCE, "l7", SpiffeId.parse(L7))
    assert not found.is_l7_proxy
    assert not found.is_proved


@pytest.mark.parametrize("callers", [(), (WEB,), (WEB, WEB), ("no id",)])
def test_any_other_peer_is_the_caller_whatever_it_says(callers: tuple[str, ...]) -> None:
    stranger = "spiffe://example.org/ns/web/sa/attacker"
    assert ask(*callers, peer=stranger) == Caller(SpiffeId.parse(stranger), SOURCE)
    assert ask(*callers, peer=None) == Caller(None, SOURCE)


def test_a_proxy_on_a_connection_that_is_no_stream_connects_for_itself() -> None:
    found = ask(is_stream=False)
    assert found == Caller(SpiffeId.parse(L7), SOURCE, DIRECT, SpiffeId.parse(L7))
    assert found.is_l7_proxy
    assert ask(peer=WEB, is_stream=False) == Caller(SpiffeId.parse(WEB), SOURCE)


@pytest.mark.parametrize(
    ("callers", "why", "words"),
    [
        ((), Doubt.MISSING, "doesn't say for whom it connects: its CONNECT needs x-uproxy-caller"),
        ((WEB, WEB), Doubt.SEVERAL, "sent x-uproxy-caller 2 times"),
        (("-",), Doubt.MALFORMED, "sent x-uproxy-caller: '-' isn't a SPIFFE ID"),
        (("",), Doubt.MALFORMED, "sent x-uproxy-caller: '' isn't a SPIFFE ID"),
        ((f"{WEB},{WEB}",), Doubt.MALFORMED, "(ID-12)"),
        ((f"{WEB}?x",), Doubt.MALFORMED, "(ID-3)"),
        (("spiffe://example.org",), Doubt.MALFORMED, "which names no workload"),
        ((L7,), Doubt.L7_PROXY, f"can't speak for {L7}, which is an L7 proxy"),
        ((OTHER_L7,), Doubt.L7_PROXY, f"can't speak for {OTHER_L7}, which is an L7 proxy"),
        (("spiffe://partner.test/a",), Doubt.NOT_FOR, "may not speak for spiffe://partner.test/a"),
    ],
)
def test_a_proxy_is_refused_in_words(callers: tuple[str, ...], why: Doubt, words: str) -> None:
    found = doubt(*callers)
    assert found.doubt is why
    assert found.reason.startswith(f"{L7} (inbound_trust.l7) ")
    assert words in found.reason
    refusal = found.refusal
    assert (refusal.outcome, refusal.rule) == (Outcome.DENIED, "inbound_trust.l7")
    assert refusal.reason == found.reason


def test_a_very_long_caller_is_not_repeated_in_whole() -> None:
    assert len(doubt("spiffe://example.org/" + "x" * 9000).reason) < 500


def test_a_proxy_may_speak_only_for_those_that_its_own_entry_has() -> None:
    cart = "spiffe://example.org/ns/shop/sa/cart"
    found = ask(cart, peer=OTHER_L7)
    assert isinstance(found, Caller)
    assert (found.via, str(found.via_identity)) == ("other", OTHER_L7)
    assert doubt(WEB, peer=OTHER_L7).doubt is Doubt.NOT_FOR
    both = replace(OTHER, speaks_for=(*OTHER.speaks_for, "spiffe://example.org/ns/web/**"))
    assert isinstance(ask(WEB, peer=OTHER_L7, by=trust(both)), Caller)


def test_a_caller_of_a_trust_domain_without_a_bundle_is_refused() -> None:
    everybody = replace(SPEAKS, speaks_for=("spiffe://partner.test/**",))
    found = doubt("spiffe://partner.test/a", by=trust(everybody))
    assert found.doubt is Doubt.NO_BUNDLE
    assert found.reason.endswith("there is no bundle for the trust domain partner.test")
    known = trust(everybody, domains=frozenset({"example.org", "partner.test"}))
    assert isinstance(ask("spiffe://partner.test/a", by=known), Caller)


def test_a_proxys_identity_is_the_same_however_it_is_written() -> None:
    written = replace(SPEAKS, identities=("SPIFFE://Example.ORG/ns/mesh/sa/l7",))
    assert isinstance(ask(WEB, by=trust(written)), Caller)
    assert doubt(L7, by=trust(written)).doubt is Doubt.L7_PROXY


def test_every_doubt_is_in_the_reference_of_metrics() -> None:
    [row] = [each for each in table(ROOT / "docs/reference/metrics.md", "metric")
             if each[0] == "`uproxy_l7_refused_total`"]  # fmt: skip
    assert set(re.findall(r"`(\w+)`", row[3])) - {"speaks_for", "inbound_trust"} == {*Doubt}


# Asked again, of what is open.

ADMITTED = Caller(SpiffeId.parse(WEB), SOURCE, "l7", SpiffeId.parse(L7))


def again(
    by: InboundTrust, caller: Caller | None = ADMITTED, peer: str | None = L7
) -> Caller | Disbelief:
    return by.still(peer, SOURCE, caller, is_stream=True)


def test_what_was_believed_is_still_believed_while_nothing_changes() -> None:
    assert again(trust()) == ADMITTED


def test_a_renamed_proxy_is_the_same_proxy() -> None:
    found = again(trust(replace(SPEAKS, name="envoy")))
    assert found == replace(ADMITTED, via="envoy")


@pytest.mark.parametrize(
    ("by", "why", "words"),
    [
        (trust(OTHER), Doubt.NOT_FOR, f"{L7} isn't in inbound_trust"),
        (trust(replace(SPEAKS, speaks_for=OTHER.speaks_for)), Doubt.NOT_FOR, "may not speak for"),
        (trust(domains=frozenset()), Doubt.NO_BUNDLE, "no bundle for the trust domain example.org"),
        (trust(replace(SPEAKS, require_proof=True)), Doubt.NO_PROOF, f"no proof of {WEB}"),
        (trust(replace(SPEAKS, require_proof=True, speaks_for=OTHER.speaks_for)), Doubt.NOT_FOR,
         "may not speak for"),
        (trust(SPEAKS, replace(OTHER, identities=(WEB,))), Doubt.L7_PROXY, "can't speak for"),
        # a missing bundle, which may be kept, doesn't stand before a missing proof, which may not
        (trust(replace(SPEAKS, require_proof=True), domains=frozenset()), Doubt.NO_PROOF,
         f"no proof of {WEB}"),
    ],
)  # fmt: skip
def test_what_was_believed_is_doubted_when_trust_is_withdrawn(
    by: InboundTrust, why: Doubt, words: str
) -> None:
    found = again(by)
    assert isinstance(found, Disbelief)
    assert found.doubt is why
    assert words in found.reason
    assert found.rule == "inbound_trust.l7"


def test_who_was_proved_needs_no_proof_again() -> None:
    proved = replace(ADMITTED, is_proved=True)
    assert again(trust(replace(SPEAKS, require_proof=True)), proved) == proved


def test_a_proof_is_required_of_those_that_come_through_a_proxy_which_says_so() -> None:
    requiring = trust(replace(SPEAKS, require_proof=True), OTHER)
    assert requiring.requires_proof(ADMITTED)
    other = replace(ADMITTED, via="other", via_identity=SpiffeId.parse(OTHER_L7))
    assert not requiring.requires_proof(other)
    itself = requiring.caller(L7, SOURCE, is_stream=False)
    assert isinstance(itself, Caller)
    assert not requiring.requires_proof(itself)
    assert not trust().requires_proof(ADMITTED)


def test_a_stream_of_before_the_peer_was_a_proxy_is_nobodys() -> None:
    found = again(trust(), None)
    assert isinstance(found, Disbelief)
    assert found.doubt is Doubt.MISSING
    assert found.reason.endswith("for whom this is isn't known: dial again")
    assert again(trust(OTHER), None) == Caller(SpiffeId.parse(L7), SOURCE)
    assert again(trust(), None, None) == Caller(None, SOURCE)


def test_a_connection_that_is_no_stream_is_still_the_proxys_own() -> None:
    found = trust().still(L7, SOURCE, None, is_stream=False)
    assert found == Caller(SpiffeId.parse(L7), SOURCE, DIRECT, SpiffeId.parse(L7))
