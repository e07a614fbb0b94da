"""JWT bundles out of SPIFFE JWKS; each rule by its id."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from uproxy.errors import BundleError, SpiffeIdError
from uproxy.lab.pki import Authority, jwk
from uproxy.lab.tokens import TokenAuthority, jwt_jwk, make_signing_key
from uproxy.spiffe.encoding import MAX_BYTES
from uproxy.spiffe.jwt_bundles import (
    MAX_KEYS,
    JwtBundle,
    JwtKey,
    distrusted_jwt,
    parse_jwt_bundle,
)

KEY, OTHER = make_signing_key("ES256"), make_signing_key("ES256")
RSA = make_signing_key("RS256")
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505  it is to be refused
ENTRY = jwt_jwk("a", KEY)


def document(*keys: object) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def read(*keys: object) -> JwtBundle:
    return parse_jwt_bundle("example.org", document(*keys))


def test_every_key_for_tokens_is_read() -> None:
    bundle = read(ENTRY, jwt_jwk("b", RSA))
    assert bundle == JwtBundle(
        "example.org",
        {"a": JwtKey("a", KEY.public_key()), "b": JwtKey("b", RSA.public_key())},
    )


def test_a_key_may_be_for_one_algorithm_only() -> None:
    assert read(jwt_jwk("b", RSA, alg="PS256")).keys["b"].algorithm == "PS256"


def test_the_roots_of_the_same_document_are_no_keys_jw_9() -> None:
    assert set(read(jwk(Authority("example.org").root), ENTRY).keys) == {"a"}
    # a certificate that comes with a key for tokens changes nothing
    assert read(jwt_jwk("a", KEY, x5c=["not a certificate"])) == read(ENTRY)


@pytest.mark.parametrize(
    "members",
    [
        {"use": None}, {"use": "sig"}, {"use": "JWT-SVID"}, {"use": "x509-svid"},
        {"kty": None}, {"kty": "oct"}, {"kid": None}, {"kid": ""}, {"kid": 7},
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_to_ignore_is_ignored_whole_jw_8_tb_6(members: dict[str, object]) -> None:
    damaged = {**jwt_jwk("b", KEY, x="%"), **members}
    given = {name: value for name, value in damaged.items() if value is not None}
    assert read(given, ENTRY) == read(ENTRY)


def test_where_all_keys_are_for_tokens_those_that_do_not_say_so_are_too() -> None:
    """As SPIRE's agent sends them; what says another use is still something else."""
    silent = {name: value for name, value in jwt_jwk("b", OTHER).items() if name != "use"}
    root = jwk(Authority("example.org").root)
    sent = document(ENTRY, silent, jwt_jwk("c", KEY, use="sig"), {**root, "kid": "d"})
    assert parse_jwt_bundle("example.org", sent, for_tokens_alone=True) == read(
        ENTRY, jwt_jwk("b", OTHER)
    )
    assert parse_jwt_bundle("example.org", sent) == read(ENTRY)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (jwt_jwk("a", KEY, x="%"), "it can't be read"),
        (jwt_jwk("a", KEY, x=None), "it lacks one of crv, x, y"),
        (jwt_jwk("a", KEY, x=5), "it lacks one of crv, x, y"),
        (jwt_jwk("a", KEY, x=jwt_jwk("a", OTHER)["x"]), "it can't be read"),
        (jwt_jwk("a", KEY, crv="P-384"), "it can't be read"),
        (jwt_jwk("a", KEY, alg=5), "its 'alg' is not a string"),
        (jwt_jwk("a", ec.generate_private_key(ec.SECP256K1())), "secp256k1 is a curve"),
        (jwt_jwk("a", WEAK), "RSA of 1024 bits is weak"),
        (jwt_jwk("a", RSA, e=base64.urlsafe_b64encode(b"\4").decode()), "it can't be read"),
        (jwt_jwk("a", KEY, kty="OKP", crv="Ed25519"), "no algorithm of JWT-SVIDs uses keys"),
    ],
)
def test_a_key_that_can_not_be_used_says_why_and_spoils_no_other(entry: object, why: str) -> None:
    bundle = read(entry, jwt_jwk("b", OTHER))
    assert bundle.keys["a"].key is None
    assert bundle.keys["a"].problem.startswith(why)
    assert bundle.keys["b"].key == OTHER.public_key()


def test_a_private_key_in_a_bundle_is_not_kept() -> None:
    numbers = KEY.private_numbers()
    assert isinstance(numbers, ec.EllipticCurvePrivateNumbers)
    secret = base64.urlsafe_b64encode(numbers.private_value.to_bytes(32, "big"))
    assert read(jwt_jwk("a", KEY, d=secret.rstrip(b"=").decode())) == read(ENTRY)


def test_a_kid_with_two_keys_means_neither_jw_8() -> None:
    for keys in ((ENTRY, jwt_jwk("a", OTHER)), (ENTRY, jwt_jwk("a", OTHER), ENTRY)):
        found = read(*keys).keys["a"]
        assert found.key is None
        assert "two keys" in found.problem
    assert read(ENTRY, ENTRY) == read(ENTRY)


def test_a_bundle_without_keys_believes_no_token_tb_5() -> None:
    assert read() == JwtBundle("example.org")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{}", "TB-4"),
        (b'{"keys": {}}', "TB-4"),
        (b'{"keys": [], "keys": []}', "repeats"),
        (b'{"keys": [1]}', "an entry of 'keys'"),
        (b"[]", "not a JSON object"),
        (b"-----BEGIN", "not JSON"),
        (b'{"keys": []}'.ljust(MAX_BYTES + 1), "at most"),
        (document(*(jwt_jwk(str(n), KEY) for n in range(MAX_KEYS + 1))), "257 keys"),
    ],
)
def test_what_is_no_bundle_is_an_error(data: bytes, why: str) -> None:
    with pytest.raises(BundleError, match=why):
        parse_jwt_bundle("example.org", data)


def test_the_largest_bundle_is_read() -> None:
    assert parse_jwt_bundle("example.org", document(ENTRY).ljust(MAX_BYTES)) == read(ENTRY)
    many = document(*(jwt_jwk(str(n), KEY) for n in range(MAX_KEYS)))
    assert len(parse_jwt_bundle("example.org", many).keys) == MAX_KEYS


def test_a_bundle_is_of_use_with_one_key_that_is() -> None:
    damaged = jwt_jwk("b", KEY, x="%")
    assert read(damaged, ENTRY).is_usable
    assert not read(damaged).is_usable
    assert not read().is_usable
    assert (read(ENTRY).problem, read(ENTRY).keys["a"].problem) == ("", "")


def test_a_bundle_knows_its_trust_domain_tb_9() -> None:
    with pytest.raises(SpiffeIdError):
        parse_jwt_bundle("spiffe://example.org", document(ENTRY))


def test_a_bundle_that_can_not_be_used_says_so() -> None:
    assert distrusted_jwt("example.org", "it burnt") == JwtBundle(
        "example.org", problem="no JWT-SVID of example.org is accepted: it burnt"
    )


def test_the_lab_makes_such_bundles() -> None:
    lab = TokenAuthority("example.org", kid="a")
    assert lab.bundle.keys == {"a": JwtKey("a", lab.key.public_key())}
