"""An outline says of a certificate what decoding it would say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from tests.helpers.odd_certificates import rsassa_pss
from uproxy.errors import BundleError
from uproxy.lab.pki import Authority
from uproxy.spiffe import encoding
from uproxy.spiffe.outline import Outline
from uproxy.spiffe.svid import extension

CA = Authority("example.org")
BELOW = CA.intermediate()

QUIRKS: list[dict[str, Any]] = [
    {},
    {"without_san": True},
    {"uris": ()},
    {"uris": ("spiffe://example.org/a", "https://b.test/c")},
    {"dns": tuple(f"{number}.test" for number in range(150))},
    {"uris": ("spiffe://example.org/" + "a" * 1000,)},
    {"san_critical": True},
    {"aki": False},
    {"ski": False},
    {"subject": None},
    {"key": "rsa2048"},
    {"key": "ed25519"},
    {"extensions": ((x509.PolicyConstraints(0, None), True),)},
]


@pytest.mark.parametrize("quirks", QUIRKS, ids=lambda quirks: " ".join(quirks) or "usual")
def test_it_has_the_names_and_key_identifiers_of_the_certificate(quirks: dict[str, Any]) -> None:
    leaf = BELOW.issue(**quirks).certificate
    outline = Outline(encoding.der(leaf))
    names = extension(leaf, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    authority = extension(leaf, x509.AuthorityKeyIdentifier)
    own = extension(leaf, x509.SubjectKeyIdentifier)
    assert outline.certificate == leaf
    assert [uri.decode() for uri in outline.uris] == uris
    assert outline.signer_key == (authority.key_identifier if authority else None)
    assert outline.own_key == (own.digest if own else None)
    assert len(outline.subject) == len(leaf.subject.public_bytes())
    spki = PublicFormat.SubjectPublicKeyInfo
    assert outline.key == leaf.public_key().public_bytes(Encoding.DER, spki)


def test_a_signer_has_the_name_and_the_key_that_its_certificates_give() -> None:
    leaf, *signers = map(Outline, BELOW.intermediate().issue().der)
    for signed, signer in zip((leaf, *signers), (*signers, Outline(CA.der)), strict=True):
        assert signed.issuer == signer.subject
        assert signed.signer_key == signer.own_key
    assert leaf.issuer != signers[1].subject


def test_a_key_may_have_made_only_signatures_of_its_kind(tmp_path: Path) -> None:
    kinds = ("p256", "rsa2048", "ed25519", "ed448")
    roots = {kind: Outline(Authority("example.org", key=kind).der) for kind in kinds}
    for kind, root in roots.items():
        assert [other for other, each in roots.items() if each.may_have_signed(root)] == [kind]
    assert Outline(Authority("example.org", key="p521").der).may_have_signed(roots["p256"])
    pss = encoding.certificates(rsassa_pss(CA, tmp_path)[1])[0]
    key = Outline(encoding.der(pss))
    assert key.may_have_signed(roots["rsa2048"])
    assert not key.may_have_signed(key)  # a P-256 key signed it


def _named(kind: _ASN1Type, text: str) -> Outline:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, kind)])
    return Outline(_certificate(name))


def _certificate(name: x509.Name, *extensions: x509.ExtensionType) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 1, CA.root.not_valid_before_utc, CA.root.not_valid_after_utc
    )
    for value in extensions:
        builder = builder.add_extension(value, critical=False)
    return encoding.der(builder.sign(key, hashes.SHA256()))


def test_a_name_is_the_same_in_another_type_of_string() -> None:
    usual = _named(_ASN1Type.UTF8String, "An authority")
    for kind in (
        _ASN1Type.PrintableString, _ASN1Type.IA5String, _ASN1Type.VisibleString,
        _ASN1Type.T61String,
    ):  # fmt: skip
        assert _named(kind, "An authority").subject == usual.issuer
        assert _named(kind, "Another one.").subject != usual.issuer


def test_without_extensions_it_has_none() -> None:
    outline = Outline(_certificate(x509.Name([])))
    assert (outline.uris, outline.signer_key, outline.own_key) == ([], None, None)
    assert not outline.is_ca


@pytest.mark.parametrize(
    ("quirks", "is_ca"),
    [({}, True), ({"path_length": 0}, True), ({"path_length": 200}, True), ({"ca": False}, False),
     ({"ca": None}, False)],
    ids=str,
)  # fmt: skip
def test_it_tells_cas_from_others(quirks: dict[str, Any], is_ca: bool) -> None:
    assert Outline(encoding.der(CA.intermediate(**quirks).certificate)).is_ca is is_ca
    assert not Outline(CA.issue().der[0]).is_ca


def test_the_signers_key_is_named_beside_a_long_issuer_too() -> None:
    """As `keyid,issuer:always` of openssl.cnf writes it."""
    long = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{n}" * 64) for n in range(4)])
    named = x509.AuthorityKeyIdentifier(b"its key", [x509.DirectoryName(long)], 7)
    assert len(named.public_bytes()) > 256
    assert Outline(_certificate(x509.Name([]), named)).signer_key == b"its key"


def test_what_looks_like_an_extension_inside_another_one_is_none() -> None:
    own = x509.SubjectKeyIdentifier(b"own")
    inside = b"\x30\x0b\x06\x03\x55\x1d\x0e\x04\x04\x04\x02no"
    for number in ("2.5.29.1", "1.3.6.1.4.1.99999.1"):
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(number), inside)
        assert Outline(_certificate(x509.Name([]), unknown)).own_key is None
        assert Outline(_certificate(x509.Name([]), unknown, own)).own_key == b"own"


@pytest.mark.parametrize(
    "value",
    [
        b"", b"\x30", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x30\x03\x80\x05a",
        b"\x30\x03\x86\x09a", b"\x30\x82", b"\x04\x00", b"\x04\x81\x80",
        b"\x30\x02\x81\x00", b"\xff" * 300,
    ],
)  # fmt: skip
def test_a_value_that_is_cut_off_or_something_else_hurts_nobody(value: bytes) -> None:
    oids = ("2.5.29.14", "2.5.29.17", "2.5.29.35")
    broken = [x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value) for oid in oids]
    outline = Outline(_certificate(x509.Name([]), *broken))
    assert outline.own_key is None
    assert b"".join(outline.uris) in value
    assert (outline.signer_key or b"") in value


def test_unique_identifiers_are_passed_over() -> None:
    """Fields between key and extensions, of X.509 version 2 (RFC 5280 section 4.1.2.8)."""
    der = BELOW.issue().der[0]
    usual = Outline(der)
    signed_at = 4
    key_end = der.index(usual.key) + len(usual.key)
    signed_end = signed_at + 4 + int.from_bytes(der[signed_at + 2 : signed_at + 4], "big")
    unique = b"\x81\x02\x00\x01\x82\x02\x00\x01"
    signed = der[signed_at + 4 : key_end] + unique + der[key_end:signed_end]
    odd = Outline(_sequence(_sequence(signed) + der[signed_end:]))
    assert odd.uris == usual.uris != []
    assert odd.signer_key == usual.signer_key is not None


def _sequence(content: bytes) -> bytes:
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


def test_what_is_no_certificate_is_refused() -> None:
    der = CA.der
    for damaged in (b"", b"x", b"\x30\x00", der[:-1], der + b"\0"):
        with pytest.raises(BundleError, match="can't be read"):
            Outline(damaged)
