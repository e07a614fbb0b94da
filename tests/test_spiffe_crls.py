"""Which CRLs can be applied, and what they say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from uproxy.errors import BundleError
from uproxy.lab.pki import UNKNOWN_OID, Authority
from uproxy.spiffe.bundles import parse_crls
from uproxy.spiffe.crls import Revocations, check_usable, issued_by, revocations_by, why_unusable

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
CA = Authority("example.org", now=NOW)
UNKNOWN = x509.UnrecognizedExtension(UNKNOWN_OID, b"\x05\x00")


def distribution_point(**flags: bool) -> x509.IssuingDistributionPoint:
    only = {"user_certs": False, "ca_certs": False, "attribute_certs": False} | {
        name: value for name, value in flags.items() if name != "indirect"
    }
    return x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier("http://crl.test/1")],
        relative_name=None,
        only_contains_user_certs=only["user_certs"],
        only_contains_ca_certs=only["ca_certs"],
        only_some_reasons=None,
        indirect_crl=flags.get("indirect", False),
        only_contains_attribute_certs=only["attribute_certs"],
    )


SOME_REASONS = x509.IssuingDistributionPoint(
    None, None, False, False, frozenset([x509.ReasonFlags.key_compromise]), False, False
)


@pytest.mark.parametrize(
    ("word", "extension"),
    [
        ("delta", x509.DeltaCRLIndicator(1)),
        ("indirect", distribution_point(indirect=True)),
        ("attribute certificates", distribution_point(attribute_certs=True)),
        ("some reasons", SOME_REASONS),
        (f"unknown critical extension {UNKNOWN_OID.dotted_string}", UNKNOWN),
    ],
)
def test_a_crl_that_says_more_or_less_than_we_apply_is_refused(
    word: str, extension: x509.ExtensionType
) -> None:
    crl = CA.crl(extensions=[(extension, True)])
    assert parse_crls(crl.public_bytes(Encoding.DER)) == (crl,)
    assert word in why_unusable(crl)
    assert word in revocations_by(CA.root, [CA.crl(), crl]).problem
    assert revocations_by(Authority("other.test").root, [crl]).problem == ""


@pytest.mark.parametrize(
    "point",
    [
        distribution_point(),
        distribution_point(user_certs=True),
        distribution_point(ca_certs=True),
    ],
)
def test_a_crl_of_a_distribution_point_can_be_applied(point: x509.ExtensionType) -> None:
    assert why_unusable(CA.crl(extensions=[(point, True)])) == ""


@pytest.mark.parametrize(
    ("word", "extension"),
    [
        ("indirect", x509.CertificateIssuer([x509.DirectoryName(CA.root.subject)])),
        ("delta", x509.CRLReason(x509.ReasonFlags.remove_from_crl)),
        ("unknown critical extension", UNKNOWN),
    ],
)
def test_an_entry_that_says_more_than_revoked_is_refused(
    word: str, extension: x509.ExtensionType
) -> None:
    crl = CA.crl([CA.issue()], entry_extensions=[(extension, True)])
    with pytest.raises(BundleError, match=word):
        check_usable(crl)


def test_ordinary_extensions_are_understood() -> None:
    key = CA.key.public_key()
    crl = CA.crl(
        [CA.issue()],
        extensions=[
            (x509.CRLNumber(7), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(key), True),
            (UNKNOWN, False),
        ],
        entry_extensions=[
            (x509.CRLReason(x509.ReasonFlags.key_compromise), True),
            (x509.InvalidityDate(NOW), False),
            (UNKNOWN, False),
        ],
    )
    assert parse_crls(crl.public_bytes(Encoding.DER)) == (crl,)
    assert why_unusable(crl) == ""


def test_a_crl_is_its_issuers_by_name_and_key() -> None:
    crl = CA.crl()
    assert issued_by(crl, CA.root)
    assert not issued_by(crl, Authority("example.org", now=NOW).root)
    assert not issued_by(crl, Authority("other.test", now=NOW).root)
    assert not issued_by(CA.crl(forged=True), CA.root)
    namesake = Authority("example.org", now=NOW, subject="another name")
    namesake.key = CA.key
    assert not issued_by(namesake.crl(), CA.root)


def written(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


@pytest.mark.parametrize("text", ["ca of EXAMPLE.org", "CA  of example.org", " CA of example.org "])
def test_letters_and_blanks_make_no_other_issuer_of_a_crl(text: str) -> None:
    assert issued_by(CA.crl(issuer=written(text)), CA.root)


@pytest.mark.parametrize("text", ["CA of example-org", "CAof example.org", "CA of example.or"])
def test_another_name_is_another_issuer_of_a_crl(text: str) -> None:
    assert not issued_by(CA.crl(issuer=written(text)), CA.root)


def test_the_same_words_of_another_kind_are_another_issuer_of_a_crl() -> None:
    (common,) = CA.root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    kind = NameOID.ORGANIZATIONAL_UNIT_NAME
    other = x509.Name(
        x509.NameAttribute(kind if each == common else each.oid, each.value)
        for each in CA.root.subject
    )
    assert issued_by(CA.crl(issuer=CA.root.subject), CA.root)
    assert not issued_by(CA.crl(issuer=other), CA.root)


def test_a_crl_of_another_algorithm_is_not_the_issuers() -> None:
    edwards = Authority("example.org", now=NOW, key="ed25519")
    assert issued_by(edwards.crl(), edwards.root)
    assert not issued_by(edwards.crl(), CA.root)
    assert not issued_by(CA.crl(), edwards.root)


def test_a_crl_of_another_name_is_not_the_issuers_though_the_key_is_the_same() -> None:
    """A CA may have given its key two names, and what one revokes isn't the other's to revoke."""
    other = Authority("example.org", now=NOW, subject="another name")
    other.key = CA.key
    crl = other.crl([CA.issue()])
    assert crl.is_signature_valid(CA.root.public_key())  # type: ignore[arg-type]  # it can sign
    assert not issued_by(crl, CA.root)
    assert revocations_by(CA.root, [crl]) == Revocations()


def with_another_key(key: X25519PublicKey | ec.EllipticCurvePublicKey) -> x509.Certificate:
    """A certificate with the CA's name."""
    builder = x509.CertificateBuilder().subject_name(CA.root.subject).issuer_name(CA.root.subject)
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW)
    return builder.public_key(key).sign(EC_KEY, SHA256())


def damaged(certificate: x509.Certificate, before: bytes, after: bytes) -> x509.Certificate:
    der = certificate.public_bytes(Encoding.DER)
    assert before in der
    return x509.load_der_x509_certificate(der.replace(before, after))


EC_KEY = ec.generate_private_key(ec.SECP256R1())
EC_ROOT = with_another_key(EC_KEY.public_key())
EC_POINT = EC_KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
P256, NO_CURVE = b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2a\x86\x48\xce\x3d\x03\x01\x7f"


@pytest.mark.parametrize(
    ("root", "what"),
    [
        (with_another_key(X25519PrivateKey.generate().public_key()), TypeError),
        (damaged(EC_ROOT, P256, NO_CURVE), UnsupportedAlgorithm),
        (damaged(EC_ROOT, EC_POINT, b"\x04" + bytes(64)), ValueError),
    ],
    ids=["a key that can't sign", "an unknown curve", "no point of the curve"],
)
def test_a_root_whose_key_can_not_be_used_has_issued_no_crl(
    root: x509.Certificate, what: type[Exception]
) -> None:
    crl = CA.crl()
    with pytest.raises(what):
        crl.is_signature_valid(root.public_key())  # type: ignore[arg-type]  # as tried here
    assert issued_by(crl, root) is False


ECDSA_WITH_SHA256 = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"


def test_a_crl_without_an_end_is_refused() -> None:
    der = CA.crl().public_bytes(Encoding.DER)
    crl = x509.load_der_x509_crl(without_next_update(der))
    assert crl.next_update_utc is None
    assert "no nextUpdate" in why_unusable(crl)


def without_next_update(crl: bytes) -> bytes:
    """A CRL without its second time; the signature doesn't fit any more."""
    time = b"\x17\x0d" + f"{NOW + timedelta(hours=1):%y%m%d%H%M%S}Z".encode()
    content = inside(crl)
    end = content.rindex(ECDSA_WITH_SHA256)
    signed = content[:end]
    assert signed.count(time) == 1
    return sequence(sequence(inside(signed).replace(time, b"")) + content[end:])


def inside(element: bytes) -> bytes:
    return element[2 + (element[1] & 0x7F if element[1] > 127 else 0) :]


def sequence(content: bytes) -> bytes:
    size = len(content)
    return b"\x30" + (bytes((size,)) if size < 128 else bytes((0x81, size))) + content


def test_damage_inside_a_crl_shows_when_it_is_looked_at_and_not_in_a_handshake() -> None:
    good = CA.crl(extensions=[(x509.CRLNumber(7), False)])
    der = good.public_bytes(Encoding.DER)
    bad = x509.load_der_x509_crl(der.replace(b"\x02\x01\x07", b"\x05\x01\x07"))
    assert why_unusable(good) == ""
    assert why_unusable(bad).startswith("a CRL can't be read")


def test_what_is_about_leaves_and_what_about_cas_grow_stale_each_in_its_time() -> None:
    soon, late = NOW + timedelta(hours=1), NOW + timedelta(hours=2)
    of_leaves, of_cas = (
        [(distribution_point(**{only: True}), True)] for only in ("user_certs", "ca_certs")
    )
    for leaves, cas in ((late, soon), (soon, late)):
        crls = (
            CA.crl(next_update=leaves, extensions=of_leaves),
            CA.crl(next_update=cas, extensions=of_cas),
        )
        found = revocations_by(CA.root, crls)
        assert found.next_update(is_leaf=True) == leaves
        assert found.next_update(is_leaf=False) == cas
    earliest = NOW + timedelta(minutes=1)
    found = revocations_by(CA.root, (*crls, CA.crl(next_update=earliest)))
    assert {found.next_update(is_leaf=each) for each in (True, False)} == {earliest}


def test_extensions_of_crls_that_may_be_critical() -> None:
    """They change nothing of what a list says."""
    access = x509.AccessDescription(
        AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://ca.test")
    )
    for of_list in (x509.CRLNumber(1), x509.AuthorityInformationAccess([access])):
        assert why_unusable(CA.crl(extensions=[(of_list, True)])) == ""
    for of_entry in (x509.CRLReason(x509.ReasonFlags.superseded), x509.InvalidityDate(NOW)):
        assert why_unusable(CA.crl([CA.issue()], entry_extensions=[(of_entry, True)])) == ""


def test_the_newest_crl_speaks_for_its_issuer() -> None:
    one, two = CA.issue().certificate, CA.issue().certificate
    old = CA.crl([one], last_update=NOW - timedelta(hours=2))
    new = CA.crl([two], last_update=NOW - timedelta(hours=1), next_update=NOW)
    foreign = Authority("example.org", now=NOW).crl([one], last_update=NOW)
    for crls in ((old, new, foreign), (foreign, new, old)):
        found = revocations_by(CA.root, crls)
        assert found.serials == {two.serial_number}
        assert found.next_update(is_leaf=True) == found.next_update(is_leaf=False) == NOW


def test_of_two_crls_of_one_moment_the_first_speaks() -> None:
    one, two = CA.issue().certificate, CA.issue().certificate
    first, second = CA.crl([one], last_update=NOW), CA.crl([two], last_update=NOW)
    assert revocations_by(CA.root, (first, second)).serials == {one.serial_number}


def test_an_issuer_without_a_crl_has_revoked_nothing() -> None:
    assert revocations_by(CA.root, ()) == Revocations()
    assert revocations_by(CA.root, (Authority("other.test").crl(),)) == Revocations()


def test_a_crl_whose_issuer_can_not_be_read_is_refused() -> None:
    good = CA.crl().public_bytes(Encoding.DER)
    start = good.index(b"CA of ") - 2
    bit_string, not_utf8 = b"\x03", b"\xff"
    for at, damage in ((start, bit_string), (start + 2, not_utf8)):
        with pytest.raises(BundleError, match="a CRL can't be read"):
            parse_crls(good[:at] + damage + good[at + 1 :])
