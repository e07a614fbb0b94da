"""Whatever is made of a good token: it is refused by a rule, or says what the good one said."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.token_oracle import AUDIENCE, GOOD, HOME, SAID, check_token, part
from uproxy.lab.tokens import make_signing_key

_FORGER = make_signing_key("ES256")
_HEADER, _PAYLOAD, _SIGNATURE = GOOD.split(".")

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_claims = st.dictionaries(st.sampled_from(["sub", "aud", "exp", "nbf", "iat", "x"]), _json)
_headers = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "jwk"]), _json)


@given(st.text(max_size=200) | st.text(alphabet="eyJhbGci.=-_ \n", max_size=200))
def test_any_text_is_refused(text: str) -> None:
    assert check_token(text) is None


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="latin-1"))
def test_a_token_with_a_sign_changed_is_refused(at: int, sign: str) -> None:
    spoiled = GOOD[:at] + sign + GOOD[at + 1 :]
    assert check_token(spoiled) is (SAID if spoiled == GOOD else None)


@given(_claims)
def test_signed_claims_are_refused_or_read_as_they_are(claims: dict[str, Any]) -> None:
    whole = {**HOME.claims("/a", AUDIENCE), **claims}
    found = check_token(HOME.token("/a", claims=json.dumps(whole).encode()))
    if found is not None:
        assert AUDIENCE in found.audience
        assert found.spiffe_id.lower() == str(whole["sub"]).lower()
        assert found.expires.timestamp() > HOME.now.timestamp()


@given(_claims)
def test_what_a_stranger_signed_is_refused(claims: dict[str, Any]) -> None:
    whole = {**HOME.claims("/a", AUDIENCE), **claims}
    assert check_token(HOME.token("/a", claims=json.dumps(whole).encode(), key=_FORGER)) is None


@given(_headers)
def test_a_token_with_other_headers_is_refused(headers: dict[str, Any]) -> None:
    whole = part({"alg": "ES256", "kid": HOME.kid, "typ": "JWT", **headers})
    if whole != _HEADER:
        assert check_token(f"{whole}.{_PAYLOAD}.{_SIGNATURE}") is None
