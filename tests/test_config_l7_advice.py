"""What is legal about shared L7 proxies but worth saying."""

from __future__ import annotations

import pytest

from tests.helpers.config_documents import FILES, loaded
from uproxy.config import warnings

ENVOY = "spiffe://example.org/ns/mesh/sa/l7"
PROXY = f"addresses: ['10.0.0.9:15008'], identities: ['{ENVOY}']"
TRUSTED = f"identities: ['{ENVOY}'], speaks_for: ['spiffe://example.org/**'], require_proof: true"
DOOR = "inbound: [{name: in, listen: '[::]:15008', transport: hbone, ports: [80]}]\n"
RULE = "authorization: [{action: allow, from: {via: [direct, l7]}}]\n"


def _out(proxy: str = PROXY, more: str = "via: l7") -> str:
    return (
        FILES
        + "outbound: [{listen: '127.0.0.1:5432', to: db}]\n"
        + "destinations: {db: {addresses: ['10.0.0.7:5432'], transport: hbone, "
        + f"identities: ['spiffe://example.org/db'], {more}}}}}\n"
        + f"l7_proxies: {{l7: {{{proxy}}}}}\n"
    )


def _in(trusted: str = TRUSTED, door: str = DOOR, rule: str = RULE) -> str:
    return FILES + door + rule + f"inbound_trust: {{l7: {{{trusted}}}}}\n"


def _said(text: str) -> list[str]:
    return [f"{each.path}: {each.reason}" for each in warnings(loaded(text))]


@pytest.mark.parametrize("text", [_out(), _in()])
def test_a_sound_use_of_l7_proxies_has_no_warnings(text: str) -> None:
    assert _said(text) == []


def test_an_l7_proxy_that_no_destination_goes_through() -> None:
    [said] = _said(_out(more=""))
    assert said == "l7_proxies.l7: no destination goes through it: write `via` there"


def test_an_l7_proxy_that_is_bypassed_takes_its_policy_with_it() -> None:
    [said] = _said(_out(PROXY + ", when_unavailable: bypass"))
    assert said.startswith("l7_proxies.l7.when_unavailable: while none of them can be used")


def test_a_draining_address_alone_takes_no_new_streams() -> None:
    draining = "{address: '10.0.0.9:15008', draining: true}"
    [said] = _said(_out(PROXY.replace("'10.0.0.9:15008'", draining)))
    assert said.startswith("l7_proxies.l7.addresses: each of them is draining")
    assert _said(_out(PROXY.replace("'10.0.0.9:15008'", f"{draining}, 'b:15008'"))) == []


@pytest.mark.parametrize("end", ["hbone_port: 15009", "hbone_address: 'gateway:15008'"])
def test_an_end_of_tunnels_that_only_a_bypass_would_use(end: str) -> None:
    [said] = _said(_out(more=f"via: l7, {end}"))
    assert said.startswith(f"destinations.db.{end.partition(':')[0]}: is not used")
    bypass = _said(_out(PROXY + ", when_unavailable: bypass", f"via: l7, {end}"))
    assert [each for each in bypass if "is not used" in each] == []


@pytest.mark.parametrize("value", ["", ", require_proof: false"])
def test_an_l7_proxy_that_needs_no_proof_is_trusted_with_every_caller(value: str) -> None:
    [said] = _said(_in(TRUSTED.replace(", require_proof: true", value)))
    assert said.startswith("inbound_trust.l7.require_proof: isn't true")


def test_an_l7_proxy_needs_nobody_to_speak_for_it() -> None:
    [said] = _said(_in(TRUSTED.replace("org/**'", f"org/**', '{ENVOY}'")))
    assert said.startswith("inbound_trust.l7.speaks_for[1]: is the L7 proxy itself")


def test_an_l7_proxy_that_could_not_connect_anywhere() -> None:
    door = DOOR.replace("hbone, ports: [80]", "mtls, to: '127.0.0.1:80'")
    [said] = _said(_in(door=door))
    assert said.startswith("inbound_trust.l7: there is no inbound door with `transport: hbone`")


def test_an_l7_proxy_that_no_rule_lets_anybody_in_through() -> None:
    [said] = _said(_in(rule=RULE.replace("direct, l7", "direct")))
    assert said.endswith("write `via: [l7]` in one")


def test_an_l7_proxy_of_an_unknown_trust_domain_is_never_believed() -> None:
    foreign = TRUSTED.replace("example.org", "partner.test")
    said = _said(_in(foreign))
    assert [each.partition(":")[0] for each in said] == [
        "inbound_trust.l7.identities[0]",
        "inbound_trust.l7.speaks_for[0]",
    ]
    [out] = _said(_out(PROXY.replace("example.org", "partner.test")))
    assert out.startswith("l7_proxies.l7.identities[0]: there is no bundle")
