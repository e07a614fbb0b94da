"""Bundles out of PEM, DER and SPIFFE JWKS; each rule by its id."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.errors import BundleError, SpiffeIdError
from uproxy.lab.pki import Authority, jwk
from uproxy.spiffe.bundles import (
    DEFAULT_REFRESH_HINT_S,
    Bundle,
    BundleDocument,
    distrusted,
    parse_bundle,
    parse_certificates,
    parse_crls,
    parse_der_roots,
    parse_jwks,
)
from uproxy.spiffe.encoding import MAX_BYTES

ONE, TWO = Authority("example.org"), Authority("example.org")
BOTH = Bundle("example.org", (ONE.root, TWO.root))
EMPTY = Bundle("example.org", ())


def document(*keys: object, **members: object) -> bytes:
    return json.dumps({"keys": list(keys), **members}).encode()


def read(*keys: object, **members: object) -> BundleDocument:
    return parse_jwks("example.org", document(*keys, **members))


@pytest.mark.parametrize("data", [ONE.pem, ONE.der, ONE.jwks], ids=["PEM", "DER", "JWKS"])
def test_the_form_of_a_bundle_is_recognized(data: bytes) -> None:
    assert parse_bundle("example.org", data) == ONE.bundle


@pytest.mark.parametrize(
    "data",
    [ONE.pem + TWO.pem, ONE.der + TWO.der, document(jwk(ONE.root), jwk(TWO.root))],
    ids=["PEM", "DER", "JWKS"],
)
def test_every_root_is_read(data: bytes) -> None:
    assert parse_bundle("example.org", data) == BOTH


def test_a_json_document_may_begin_with_white_space() -> None:
    assert parse_bundle("example.org", b"\n  " + ONE.jwks) == ONE.bundle


def test_order_and_repetition_do_not_matter() -> None:
    assert parse_certificates("example.org", TWO.der + ONE.der + TWO.der) == BOTH
    crl = ONE.crl()
    assert Bundle("a", (), (crl, crl)) == Bundle("a", (), (crl,))
    assert Bundle("a", (), (crl,)) != Bundle("a", ())


def test_a_bundle_knows_its_trust_domain_tb_9() -> None:
    assert Bundle("other.test", BOTH.roots) != BOTH
    for name in ("", "spiffe://example.org", "Example.org"):
        with pytest.raises(SpiffeIdError):
            Bundle(name, BOTH.roots)


@pytest.mark.parametrize("data", [b"", b"\n", b"hello", b"\x30", b"\x30\x80", b"[]", b"\xff\xfe"])
def test_what_is_no_bundle_is_an_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_bundle("example.org", data)


def test_a_bundle_of_more_than_a_megabyte_is_not_read() -> None:
    for first in (b"{", b"-----BEGIN CERTIFICATE-----", b"\x30"):
        with pytest.raises(BundleError, match="at most"):
            parse_bundle("example.org", first + b" " * MAX_BYTES)


def test_undefined_parameters_are_neither_needed_nor_harmful_tb_1() -> None:
    assert read(jwk(ONE.root, kid="x", alg="ES256", foo=[1]), bar={}).bundle == ONE.bundle
    bare = {name: jwk(ONE.root)[name] for name in ("kty", "use", "x5c")}
    assert read(bare).bundle == ONE.bundle


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [(2**53 + 1, 2**53 + 1), (2**64, 2**64), (0, 0), ("1", None), (1.5, None), (True, None)],
)
def test_the_sequence_is_an_integer_of_any_size_tb_2(
    sequence: object, expected: int | None
) -> None:
    assert read(jwk(ONE.root), spiffe_sequence=sequence).sequence == expected


@pytest.mark.parametrize("hint", ["60", -1, 0, 1.5, None, True, [60]])
def test_a_hint_that_is_no_positive_integer_is_the_default_tb_3(hint: object) -> None:
    found = read(jwk(ONE.root), spiffe_refresh_hint=hint)
    assert found.refresh_hint == DEFAULT_REFRESH_HINT_S
    assert found.bundle == ONE.bundle


def test_the_hint_is_in_seconds_tb_3() -> None:
    assert read(spiffe_refresh_hint=60).refresh_hint == 60
    assert read().refresh_hint == DEFAULT_REFRESH_HINT_S


@pytest.mark.parametrize("data", [b"{}", b'{"keys": null}', b'{"keys": {}}', b'{"Keys": []}'])
def test_keys_must_be_present_tb_4(data: bytes) -> None:
    with pytest.raises(BundleError, match="TB-4"):
        parse_jwks("example.org", data)


def test_empty_keys_trust_nobody_tb_5() -> None:
    assert read().bundle == EMPTY


IGNORED: list[tuple[str, dict[str, Any]]] = [
    ("TB-6 unknown kty", {"kty": "oct"}),
    ("TB-6 kty of another type", {"kty": ["EC"]}),
    ("TB-6 unknown use", {"use": "sig"}),
    ("TB-6 jwt-svid", {"use": "jwt-svid"}),
    ("TB-7 no use", {"use": None}),
    ("TB-7 use in upper case", {"use": "X509-SVID"}),
    ("TB-8 no kty", {"kty": None}),
    ("X5-20 no x5c", {"x5c": None}),
    ("X5-20 empty x5c", {"x5c": []}),
]


@pytest.mark.parametrize(
    "members", [members for _, members in IGNORED], ids=[name for name, _ in IGNORED]
)
def test_an_entry_to_ignore_is_ignored_whole(members: dict[str, Any]) -> None:
    ignored = {name: value for name, value in jwk(TWO.root, **members).items() if value is not None}
    assert read(ignored).bundle == EMPTY
    assert read(ignored, jwk(ONE.root)).bundle == ONE.bundle


def test_an_entry_to_ignore_may_be_damaged() -> None:
    assert read({"use": "jwt-svid", "kty": "EC", "x5c": ["!"]}, jwk(ONE.root)).bundle == ONE.bundle


def test_only_the_first_certificate_of_x5c_counts_x5_21() -> None:
    first, second = (jwk(authority.root)["x5c"] for authority in (ONE, TWO))
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert read(jwk(ONE.root, x5c=first + second)).bundle == ONE.bundle
    assert read(jwk(ONE.root, x5c=[*first, "!", 7])).bundle == ONE.bundle


def test_a_kid_changes_nothing_x5_18() -> None:
    assert read(jwk(ONE.root, kid="a"), jwk(TWO.root, kid="a")).bundle == BOTH


@pytest.mark.parametrize("x5c", [["!"], [""], ["AAAA"], "text", [7], {"0": ""}, ["é"]])
def test_a_damaged_certificate_makes_the_bundle_bad(x5c: object) -> None:
    with pytest.raises(BundleError):
        read(jwk(TWO.root), jwk(ONE.root, x5c=x5c))


def test_a_repeated_member_makes_the_bundle_bad() -> None:
    for text in ('{"keys": [], "keys": []}', '{"keys": [{"kty": "EC", "kty": "RSA"}]}'):
        with pytest.raises(BundleError, match="repeats"):
            parse_jwks("example.org", text.encode())


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b"null",
        b'{"keys": [1]}',
        b'{"keys": [[]]}',
        b'{"keys": []}\xff',
        '{"keys": []}'.encode("utf-16"),
        b'{"keys": ' + b"[" * 200_000,
        b'{"spiffe_sequence": ' + b"9" * 5000 + b"}",
    ],
    ids=[
        "cut off", "a list", "null", "a number in keys", "a list in keys", "not UTF-8", "UTF-16",
        "nested deeply", "a number of 5000 digits",
    ],
)  # fmt: skip
def test_what_is_no_bundle_document_is_an_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_jwks("example.org", data)


def test_crls_are_read_from_pem_and_der() -> None:
    crls = (ONE.crl(), TWO.crl())
    for form in (Encoding.PEM, Encoding.DER):
        assert parse_crls(b"".join(crl.public_bytes(form) for crl in crls)) == crls


@pytest.mark.parametrize("data", [b"", ONE.pem, ONE.der, b"\x30\x00", b"-----BEGIN X509 CRL-----"])
def test_what_is_no_crl_is_an_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_crls(data)


@pytest.mark.parametrize(("kind", "kty"), [("rsa2048", "RSA"), ("p256", "EC"), ("ed25519", "OKP")])
def test_roots_of_each_kind_of_key_are_read_from_a_jwks(kind: str, kty: str) -> None:
    root = Authority("example.org", key=kind).root
    assert read(jwk(root, kty=kty)).bundle.roots == (root,)
    assert read(jwk(root, kty=f"{kty}X")).bundle == EMPTY


def test_a_bundle_of_exactly_a_megabyte_is_read() -> None:
    full = ONE.jwks + b" " * (MAX_BYTES - len(ONE.jwks))
    assert parse_bundle("example.org", full) == ONE.bundle
    with pytest.raises(BundleError, match="at most"):
        parse_bundle("example.org", full + b" ")


def test_a_certificate_with_other_than_base64_in_it_makes_the_bundle_bad() -> None:
    entry = jwk(ONE.root)
    [text] = cast("list[str]", entry["x5c"])
    for bad in (f"{text[:8]}*{text[8:]}", text[:-1], f"{text[:8]}ä{text[8:]}"):
        with pytest.raises(BundleError, match="is not base64"):
            read(entry | {"x5c": [bad]})


def test_a_hint_of_one_second_is_one_and_the_default_is_five_minutes() -> None:
    assert read(spiffe_refresh_hint=1).refresh_hint == 1
    assert read(spiffe_refresh_hint=0).refresh_hint == DEFAULT_REFRESH_HINT_S == 300


def test_a_workloads_certificate_is_no_root_in_whichever_form_it_comes() -> None:
    leaf = ONE.issue().certificate
    pem, der = leaf.public_bytes(Encoding.PEM), leaf.public_bytes(Encoding.DER)
    for data in (pem, der, document(jwk(leaf))):
        with pytest.raises(BundleError, match="is no CA"):
            parse_bundle("example.org", data)
    with pytest.raises(BundleError, match="is no CA"):
        parse_der_roots("example.org", der)


def test_the_workload_apis_roots_are_der_and_at_least_one() -> None:
    assert parse_der_roots("example.org", ONE.der + TWO.der) == BOTH
    with pytest.raises(BundleError, match="it is empty"):
        parse_der_roots("example.org", b"")


def test_what_stands_for_a_bad_bundle_trusts_nobody_and_says_why() -> None:
    made = distrusted("example.org", "it is damaged")
    assert (made.trust_domain, made.roots, made.crls) == ("example.org", (), ())
    assert made.problem == "no certificate of example.org is trusted: it is damaged"
    assert EMPTY.problem == ""
