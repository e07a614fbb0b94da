"""Tokens are believed if they keep every rule; each rule by its id."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from spiffe import JwtBundle as TheirBundle
from spiffe import JwtSvid as TheirSvid
from spiffe import TrustDomain as TheirDomain

from tests.helpers.token_oracle import part
from uproxy.errors import UntrustedError
from uproxy.lab.tokens import TokenAuthority, jwt_jwk, make_signing_key
from uproxy.model import Alert
from uproxy.spiffe.jwt_bundles import distrusted_jwt, parse_jwt_bundle
from uproxy.spiffe.jwt_svids import (
    LEEWAY,
    MAX_TOKEN_BYTES,
    JwtSvid,
    read_jwt_svid,
    verify_jwt_svid,
)

WE = "spiffe://example.org/ns/db/sa/orders"
CALLER = "/ns/web/sa/frontend"
HOME = TokenAuthority("example.org")
PARTNER = TokenAuthority("partner.test")
BUNDLES = {"example.org": HOME.bundle, "partner.test": PARTNER.bundle}
NOW = HOME.now
EXPIRES = datetime.fromtimestamp(HOME.claims(CALLER)["exp"], UTC)


def verify(token: str, now: datetime = NOW, audience: str = WE) -> JwtSvid:
    return verify_jwt_svid(token, BUNDLES, audience, now)


def refusal(token: str, now: datetime = NOW, audience: str = WE) -> UntrustedError:
    with pytest.raises(UntrustedError) as caught:
        verify(token, now, audience)
    return caught.value


@pytest.mark.parametrize(
    "algorithm",
    ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"],
)
def test_a_token_is_believed_whatever_algorithm_signed_it_jw_3(algorithm: str) -> None:
    signer = TokenAuthority("example.org", algorithm)
    token = signer.token(CALLER, WE)
    found = verify_jwt_svid(token, {"example.org": signer.bundle}, WE, signer.now)
    assert found.spiffe_id == f"spiffe://example.org{CALLER}"
    assert found.audience == (WE,)


def test_a_token_that_pyjwt_made_alone_is_believed() -> None:
    claims = {"sub": f"spiffe://example.org{CALLER}", "aud": WE, "exp": EXPIRES}
    token = jwt.encode(claims, HOME.key, "ES256", headers={"kid": HOME.kid})
    assert verify(token) == JwtSvid(f"spiffe://example.org{CALLER}", (WE,), EXPIRES)


def test_the_spiffe_library_and_we_believe_the_same_token() -> None:
    fresh = TokenAuthority("example.org")  # their library looks at the clock itself
    token = fresh.token(CALLER, "other", WE)
    theirs = TheirSvid.parse_and_validate(
        token, TheirBundle.parse(TheirDomain("example.org"), fresh.jwks), {WE}
    )
    ours = verify_jwt_svid(token, {"example.org": fresh.bundle}, WE, fresh.now)
    assert str(theirs.spiffe_id) == ours.spiffe_id
    assert theirs.audience == set(ours.audience)
    assert theirs.expiry == ours.expires.timestamp()


@pytest.mark.parametrize(
    "token",
    [
        HOME.token(CALLER, WE, headers={"typ": ""}),
        HOME.token(CALLER, WE, headers={"typ": "JOSE"}),
        HOME.token(CALLER, claims={"aud": WE}),
        HOME.token(CALLER, "a", WE, "b"),
        HOME.token(CALLER, WE, claims={"iat": None}),
        HOME.token(CALLER, WE, claims={"exp": EXPIRES.timestamp() + 0.5}),
        HOME.token(CALLER, WE, claims={"custom": {"a": [1, None]}, "iss": "https://x"}),
    ],
    ids=["no typ", "JOSE", "one audience", "three", "no iat", "fraction", "other claims"],
)  # fmt: skip
def test_what_the_standard_allows_is_believed(token: str) -> None:
    assert verify(token).spiffe_id == f"spiffe://example.org{CALLER}"


HEADER, PAYLOAD, SIGNATURE = HOME.token(CALLER, WE).split(".")


def with_header(**members: object) -> str:
    header: dict[str, Any] = {"alg": "ES256", "kid": "first", "typ": "JWT", **members}
    given = {name: value for name, value in header.items() if value is not None}
    return f"{part(given)}.{PAYLOAD}.{SIGNATURE}"


def with_claims(**claims: object) -> str:
    return HOME.token(CALLER, WE, claims=claims)


def hs256_with_the_public_key() -> str:
    pem = HOME.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{part({'alg': 'HS256', 'kid': 'first'})}.{PAYLOAD}"
    made = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{signed}.{part(made.sign(signed.encode(), pem))}"


TWICE = part(b'{"alg": "none", "alg": "ES256", "kid": "first"}')
FORGER = make_signing_key("ES256")
BROKEN = {
    "JSON serialization": ("JW-1", json.dumps({"payload": PAYLOAD, "signatures": []})),
    "nothing": ("JW-1", ""),
    "two parts": ("JW-1", f"{HEADER}.{PAYLOAD}"),
    "four parts": ("JW-1", f"{HEADER}.{PAYLOAD}.{SIGNATURE}.{SIGNATURE}"),
    "padded": ("JW-1", f"{HEADER}=.{PAYLOAD}.{SIGNATURE}"),
    "a line's end": ("JW-1", f"{HEADER}.{PAYLOAD}.{SIGNATURE}\n"),
    "beyond ASCII": ("JW-1", f"{HEADER}.{PAYLOAD}.{SIGNATURE}ä"),
    "plain base64": ("JW-1", f"{HEADER}.{PAYLOAD}.+/"),
    "cut base64": ("JW-1", f"e.{PAYLOAD}.{SIGNATURE}"),
    "header no object": ("JW-1", f"{part([])}.{PAYLOAD}.{SIGNATURE}"),
    "header twice": ("JW-1", f"{TWICE}.{PAYLOAD}.{SIGNATURE}"),
    "payload no JSON": ("JW-1", HOME.token(CALLER, claims=b"hello")),
    "claim twice": (
        "JW-1", HOME.token(CALLER, claims=b'{"sub": "spiffe://a/b", "sub": "spiffe://a/c"}')),
    "nested deeply": ("JW-1", HOME.token(CALLER, claims=b'{"a":' * 1000 + b"1" + b"}" * 1000)),
    "no algorithm": ("JW-3", with_header(alg=None)),
    "none": ("JW-3", f"{part({'alg': 'none', 'kid': 'first'})}.{PAYLOAD}."),
    "None": ("JW-3", f"{part({'alg': 'None', 'kid': 'first'})}.{PAYLOAD}."),
    "HS256 with the public key": ("JW-3", hs256_with_the_public_key()),
    "EdDSA": ("JW-3", with_header(alg="EdDSA")),
    "ES256K": ("JW-3", with_header(alg="ES256K")),
    "a list of algorithms": ("JW-3", with_header(alg=["ES256"])),
    "crit": ("JW-2", with_header(crit=["exp"])),
    "b64": ("JW-2", with_header(b64=True)),
    "jwk": ("JW-2", with_header(jwk=jwt_jwk("first", FORGER))),
    "jku": ("JW-2", with_header(jku="https://evil.test")),
    "cty": ("JW-2", with_header(cty="JWT")),
    "typ": ("JW-4", with_header(typ="at+jwt")),
    "typ in small letters": ("JW-4", with_header(typ="jwt")),
    "typ a list": ("JW-4", with_header(typ=["JWT"])),
    "no kid": ("JW-8", with_header(kid=None)),
    "empty kid": ("JW-8", with_header(kid="")),
    "kid a number": ("JW-8", with_header(kid=1)),
    "no subject": ("JW-5", with_claims(sub=None)),
    "subject a list": ("JW-5", with_claims(sub=["spiffe://example.org/a"])),
    "subject no SPIFFE ID": ("JW-5", with_claims(sub="https://example.org/a")),
    "subject a trust domain": ("JW-5", with_claims(sub="spiffe://example.org")),
    "no audience": ("JW-6", with_claims(aud=None)),
    "empty audience": ("JW-6", with_claims(aud=[])),
    "audience a number": ("JW-6", with_claims(aud=1)),
    "audience of numbers": ("JW-6", with_claims(aud=[WE, 1])),
    "another audience": ("JW-6", with_claims(aud=["spiffe://example.org/ns/db/sa/other"])),
    "a longer audience": ("JW-6", with_claims(aud=WE + "2")),
    "never expires": ("JW-7", with_claims(exp=None)),
    "expires at a word": ("JW-7", with_claims(exp="tomorrow")),
    "expires at true": ("JW-7", with_claims(exp=True)),
    "expires after all": ("JW-7", with_claims(exp=10**400)),
    "expires in a far year": ("JW-7", with_claims(exp=1e17)),
    "begins later": ("JW-7", with_claims(nbf=NOW.timestamp() + 61)),
    "issued later": ("JW-7", with_claims(iat=NOW.timestamp() + 61)),
    "issued at true": ("JW-7", with_claims(iat=True)),
    "begins at a word": ("JW-7", with_claims(nbf="now")),
    "another domain's key": (
        "JW-10", PARTNER.token(CALLER, WE, claims={"sub": f"spiffe://example.org{CALLER}"})),
    "a domain without bundle": ("WA-18", with_claims(sub="spiffe://unknown.test/a")),
    "unknown kid": ("JW-9", HOME.token(CALLER, WE, headers={"kid": "second"})),
    "a stranger's key": ("JW-10", HOME.token(CALLER, WE, key=FORGER)),
    "no signature": ("JW-10", f"{HEADER}.{PAYLOAD}."),
    "changed payload": (
        "JW-10", f"{HEADER}.{part(HOME.claims('/admin', WE))}.{SIGNATURE}"),
    "an algorithm that isn't the key's": ("JW-10", with_header(alg="ES384")),
    "an algorithm of another kind": ("JW-10", with_header(alg="RS256")),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "token"), BROKEN.values(), ids=BROKEN)
def test_a_token_that_breaks_a_rule_is_refused_by_its_name(rule: str, token: str) -> None:
    found = refusal(token)
    assert (found.rule, found.alert) == (rule, Alert.CERTIFICATE_UNKNOWN)
    assert len(found.reason) < 600


def test_a_token_is_good_until_the_second_it_expires_jw_7() -> None:
    token = HOME.token(CALLER, WE)
    assert verify(token, EXPIRES - timedelta(microseconds=1)).expires == EXPIRES
    assert refusal(token, EXPIRES).rule == "JW-7"


def test_the_issuers_clock_may_be_a_minute_ahead_jw_7() -> None:
    begins = NOW.replace(microsecond=0)
    assert timedelta(seconds=60) == LEEWAY
    for name in ("nbf", "iat"):
        token = with_claims(**{name: begins.timestamp()})
        assert verify(token, begins - LEEWAY)
        assert refusal(token, begins - LEEWAY - timedelta(seconds=1)).rule == "JW-7"


def test_a_key_for_one_algorithm_signs_with_no_other_jw_3() -> None:
    signer = TokenAuthority("example.org", "RS256")
    token = signer.token(CALLER, WE)
    for algorithm, believed in (("RS256", True), ("PS256", False)):
        entry = jwt_jwk("first", signer.key, alg=algorithm)
        bundle = parse_jwt_bundle("example.org", json.dumps({"keys": [entry]}).encode())
        if believed:
            assert verify_jwt_svid(token, {"example.org": bundle}, WE, signer.now)
            continue
        with pytest.raises(UntrustedError, match="only for 'PS256'") as caught:
            verify_jwt_svid(token, {"example.org": bundle}, WE, signer.now)
        assert caught.value.rule == "JW-3"


def test_a_bundle_or_key_that_can_not_be_used_says_why() -> None:
    token = HOME.token(CALLER, WE)
    with pytest.raises(UntrustedError, match="accepted: it burnt") as caught:
        verify_jwt_svid(token, {"example.org": distrusted_jwt("example.org", "it burnt")}, WE, NOW)
    assert caught.value.rule == "WA-18"
    entry = jwt_jwk("first", HOME.key, x="%")
    bundle = parse_jwt_bundle("example.org", json.dumps({"keys": [entry]}).encode())
    with pytest.raises(UntrustedError, match=r"'first' of example\.org can't") as caught:
        verify_jwt_svid(token, {"example.org": bundle}, WE, NOW)
    assert caught.value.rule == "JW-9"


def test_a_longer_token_is_not_read_up_1() -> None:
    assert MAX_TOKEN_BYTES == 8192
    room = MAX_TOKEN_BYTES - len(f"{HEADER}.{PAYLOAD}.")
    assert refusal(f"{HEADER}.{PAYLOAD}.{'A' * room}").rule == "JW-10"
    assert refusal(f"{HEADER}.{PAYLOAD}.{'A' * (room + 1)}").rule == "UP-1"


def test_a_refusal_quotes_a_part_of_what_was_said() -> None:
    found = refusal(with_header(typ="x" * 1000))
    assert found.reason == f"the token's 'typ' is '{'x' * 119}, neither JWT nor JOSE"
    unknown = {name: 1 for name in "jihgfedcba"}
    assert "a header 'a', which" in refusal(with_header(**unknown)).reason
    several = refusal(HOME.token(CALLER, "a", "b", "c", "d"))
    assert several.reason == f"the token is for 'a', 'b', 'c', not for {WE}"


def test_an_audience_is_somebody_also_where_it_is_not_compared() -> None:
    for audience in ([], None, [1]):
        with pytest.raises(UntrustedError, match="names no audience"):
            read_jwt_svid(with_claims(aud=audience), NOW)


def test_a_token_can_be_read_without_being_believed() -> None:
    said = read_jwt_svid(HOME.token(CALLER, "anybody", key=FORGER), NOW)
    assert (said.algorithm, said.kid) == ("ES256", "first")
    assert said.svid == JwtSvid(f"spiffe://example.org{CALLER}", ("anybody",), EXPIRES)
    assert said.claims["sub"] == said.svid.spiffe_id


def test_a_subject_is_compared_in_lower_case_where_that_is_the_same_id_7() -> None:
    token = with_claims(sub=f"SPIFFE://Example.org{CALLER}")
    assert verify(token).spiffe_id == f"spiffe://example.org{CALLER}"
