"""The agent's JWT bundles: each domain's own, and one that is bad hinders no other."""

from __future__ import annotations

import json

import pytest

from uproxy.errors import MessageError
from uproxy.lab.tokens import TokenAuthority, jwt_jwk
from uproxy.spiffe.jwt_bundles import distrusted_jwt
from uproxy.spiffe.jwt_messages import encode_jwt_bundles_response
from uproxy.spiffe.jwt_update import JwtUpdate, parse_jwt_bundles_response

HOME, AWAY = TokenAuthority("example.org"), TokenAuthority("partner.test")


def read(*entries: tuple[str, bytes]) -> JwtUpdate:
    return parse_jwt_bundles_response(encode_jwt_bundles_response(entries))


def test_bundles_are_kept_by_trust_domain_whichever_way_it_is_written_wa_15() -> None:
    for key in ("example.org", "spiffe://example.org", "SPIFFE://Example.org/a"):
        found = read((key, HOME.jwks), ("partner.test", AWAY.jwks))
        assert found == JwtUpdate({"example.org": HOME.bundle, "partner.test": AWAY.bundle}, ())


@pytest.mark.parametrize(("use", "counts"), [(None, True), ("jwt-svid", True), ("sig", False)])
def test_a_key_that_does_not_say_its_use_is_for_tokens_as_spires_agent_sends_it_jw_9(
    use: str | None, counts: bool
) -> None:
    document = json.dumps({"keys": [jwt_jwk(HOME.kid, HOME.key, use=use)]}).encode()
    keys = read(("example.org", document)).bundles["example.org"].keys
    assert keys == (HOME.bundle.keys if counts else {})


def test_no_bundles_are_a_message_too() -> None:
    assert read() == JwtUpdate({}, ())


def test_a_bad_bundle_ends_the_belief_in_its_domain_alone() -> None:
    found = read(("example.org", b"{"), ("partner.test", AWAY.jwks))
    assert found.bundles["partner.test"] == AWAY.bundle
    assert found.bundles["example.org"].keys == {}
    assert found.problems == (found.bundles["example.org"].problem,)
    assert "the agent's bundle can't be used: the JWKS is not JSON" in found.problems[0]


def test_two_bundles_of_one_domain_must_be_one() -> None:
    again = ("spiffe://example.org", HOME.jwks)
    assert read(("example.org", HOME.jwks), again).bundles == {"example.org": HOME.bundle}
    why = "the agent sends different bundles for it (WA-15)"
    found = read(("example.org", TokenAuthority("example.org").jwks), again)
    assert found.bundles == {"example.org": distrusted_jwt("example.org", why)}


def test_a_bundle_of_no_trust_domain_is_left_out_and_told() -> None:
    found = read(("Ä", HOME.jwks), ("partner.test", AWAY.jwks))
    assert set(found.bundles) == {"partner.test"}
    assert found.problems[0].startswith("a JWT bundle is left out")


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(MessageError):
        parse_jwt_bundles_response(b"\xff")
