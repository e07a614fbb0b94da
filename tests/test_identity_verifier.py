"""Each X509-SVID rule by its id: what a verifier must refuse, and what it must not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.helpers.odd_certificates import (
    generalized_time,
    with_a_broken_extension,
    with_false_written_out,
    with_generalized_time,
    with_its_last_extension_twice,
    with_printable_issuer,
)
from uproxy import libssl
from uproxy.contract import PeerSvid
from uproxy.errors import UntrustedError
from uproxy.identity import anchors, verifier
from uproxy.identity.credentials import Credentials
from uproxy.identity.verifier import Verifier
from uproxy.identity.vouching import Search
from uproxy.lab.pki import CLIENT_AUTH, SERVER_AUTH, UNKNOWN_OID, Authority, Issued, Quirks
from uproxy.lab.software.flood import largest_chain
from uproxy.libssl import PathError
from uproxy.model import Alert, Claim, Role
from uproxy.spiffe import authorities, crls, encoding
from uproxy.spiffe.bundles import Bundle, distrusted
from uproxy.spiffe.outline import Outline
from uproxy.spiffe.presented import MAX_CHAIN, MAX_CHAIN_BYTES

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)

OURS = Authority("example.org", now=NOW)
PARTNER = Authority("partner.test", now=NOW)
INTERMEDIATE = OURS.intermediate()


def credentials(*bundles: Bundle) -> Credentials:
    return Credentials(None, "", {bundle.trust_domain: bundle for bundle in bundles}, 1)


def judge(
    peer: Issued,
    *,
    bundles: tuple[Bundle, ...] = (OURS.bundle, PARTNER.bundle),
    role: Role = Role.CLIENT,
    now: datetime = NOW,
) -> PeerSvid:
    return Verifier(credentials(*bundles)).verify(peer.der, role, now)


def refusal(peer: Issued, **how: Any) -> tuple[str, Alert]:
    with pytest.raises(UntrustedError) as caught:
        judge(peer, **how)
    assert "\n" not in caught.value.reason
    return caught.value.rule, caught.value.alert


URIS = ("spiffe://example.org/a", "spiffe://example.org/b")

BAD_LEAVES: list[tuple[str, str, Alert, dict[str, Any]]] = [
    ("X5-1", "no URI name", Alert.BAD_CERTIFICATE, {"uris": (), "dns": ("a.example.org",)}),
    ("X5-1", "no names at all", Alert.BAD_CERTIFICATE, {"without_san": True}),
    ("X5-2", "two SPIFFE IDs", Alert.BAD_CERTIFICATE, {"uris": URIS}),
    ("X5-2", "an https URI behind", Alert.BAD_CERTIFICATE, {"uris": (URIS[0], "https://a.b/c")}),
    ("X5-2", "an https URI before", Alert.BAD_CERTIFICATE, {"uris": ("https://a.b/c", URIS[0])}),
    ("X5-2", "one ID twice", Alert.BAD_CERTIFICATE, {"uris": (URIS[0], URIS[0])}),
    ("X5-4", "no path", Alert.BAD_CERTIFICATE, {"uris": ("spiffe://example.org",)}),
    ("ID-13", "root path (X5-4)", Alert.BAD_CERTIFICATE, {"uris": ("spiffe://example.org/",)}),
    ("ID-14", "a newline in the ID", Alert.BAD_CERTIFICATE, {"uris": (f"{URIS[0]}\n",)}),
    ("ID-5", "user information", Alert.BAD_CERTIFICATE, {"uris": ("spiffe://u@example.org/a",)}),
    ("X5-15", "only an https URI", Alert.BAD_CERTIFICATE, {"uris": ("https://example.org/a",)}),
    ("X5-8", "a CA (X5-6)", Alert.BAD_CERTIFICATE, {"ca": True}),
    (
        "X5-12", "keyCertSign", Alert.BAD_CERTIFICATE,
        {"key_usage": ("digital_signature", "key_cert_sign")},
    ),
    (
        "X5-12", "cRLSign", Alert.BAD_CERTIFICATE,
        {"key_usage": ("digital_signature", "crl_sign")},
    ),
    ("X5-11", "no digitalSignature", Alert.BAD_CERTIFICATE, {"key_usage": ("key_agreement",)}),
    ("X5-13", "serverAuth only", Alert.UNSUPPORTED_CERTIFICATE, {"eku": (SERVER_AUTH,)}),
    (
        "X5-13", "anyExtendedKeyUsage only", Alert.UNSUPPORTED_CERTIFICATE,
        {"eku": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)},
    ),
    (
        "X5-14", "expired", Alert.CERTIFICATE_EXPIRED,
        {"not_before": NOW - timedelta(hours=1), "not_after": NOW - SECOND},
    ),
    ("X5-14", "not yet valid", Alert.CERTIFICATE_EXPIRED, {"not_before": NOW + SECOND}),
    ("X5-14", "forged", Alert.UNKNOWN_CA, {"forged": True}),
    ("X5-14", "unknown critical extension", Alert.BAD_CERTIFICATE, {"unknown_critical": True}),
    (
        "X5-14", "a critical extension that OpenSSL knows and doesn't evaluate",
        Alert.BAD_CERTIFICATE, {"extensions": ((x509.PolicyConstraints(0, None), True),)},
    ),
    ("X5-14", "a weak RSA key", Alert.UNSUPPORTED_CERTIFICATE, {"key": "rsa1024"}),
    ("X5-14", "a weak curve", Alert.UNSUPPORTED_CERTIFICATE, {"key": "p224"}),
    ("X5-14", "a weak hash", Alert.BAD_CERTIFICATE, {"hash": hashes.SHA224}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "alert", "quirks"),
    [(rule, alert, quirks) for rule, _, alert, quirks in BAD_LEAVES],
    ids=[f"{rule} {what}" for rule, what, _, _ in BAD_LEAVES],
)
def test_a_leaf_that_breaks_a_rule_is_refused(
    rule: str, alert: Alert, quirks: dict[str, Any]
) -> None:
    assert refusal(OURS.issue(**quirks)) == (rule, alert)


GOOD_LEAVES: list[tuple[str, dict[str, Any]]] = [
    (
        "X5-3 other kinds of names",
        {"dns": ("a.example.org",), "ips": ("10.0.0.1", "::1"), "emails": ("a@example.org",)},
    ),
    ("X5-5 critical names beside a subject", {"san_critical": True}),
    ("X5-5 names not critical without a subject", {"subject": None, "san_critical": False}),
    ("X5-5 critical names without a subject", {"subject": None}),
    ("X5-8 no basicConstraints", {"ca": None}),
    ("X5-9 no keyUsage", {"key_usage": None}),
    ("X5-9 keyUsage not critical", {"key_usage_critical": False}),
    ("X5-11 more usages", {"key_usage": ("digital_signature", "key_agreement")}),
    ("X5-13 no extended key usage", {"eku": None}),
    ("X5-13 clientAuth only", {"eku": (CLIENT_AUTH,)}),
    ("X5-13 critical", {"eku_critical": True}),
    ("X5-14 no authority key identifier", {"aki": False}),
    ("X5-14 no key identifiers", {"aki": False, "ski": False}),
    ("X5-14 P-384", {"key": "p384"}),
    ("X5-14 RSA", {"key": "rsa2048"}),
    ("X5-14 Ed25519", {"key": "ed25519"}),
    ("X5-14 SHA-512", {"hash": hashes.SHA512}),
    ("X5-14 the last second", {"not_after": NOW}),
    ("X5-14 the first second", {"not_before": NOW}),
    ("ID-7 upper case", {"uris": ("SPIFFE://EXAMPLE.org/ns/default/sa/workload",)}),
]


@pytest.mark.parametrize(
    "quirks", [quirks for _, quirks in GOOD_LEAVES], ids=[name for name, _ in GOOD_LEAVES]
)
def test_a_leaf_that_keeps_the_rules_is_accepted(quirks: dict[str, Any]) -> None:
    peer = judge(OURS.issue("/ns/default/sa/workload", **quirks))
    assert peer.spiffe_id == "spiffe://example.org/ns/default/sa/workload"


def test_the_longest_id_is_accepted_id_15() -> None:
    path = "/" + "a" * (2048 - len("spiffe://example.org/"))
    assert len(judge(OURS.issue(path)).spiffe_id) == 2048


def test_the_extended_key_usage_must_allow_the_role_played_x5_13() -> None:
    server_only, client_only = OURS.issue(eku=(SERVER_AUTH,)), OURS.issue(eku=(CLIENT_AUTH,))
    assert judge(server_only, role=Role.SERVER)
    assert judge(client_only, role=Role.CLIENT)
    assert refusal(server_only, role=Role.CLIENT)[0] == "X5-13"
    assert refusal(client_only, role=Role.SERVER)[0] == "X5-13"


def _deep() -> Issued:
    return OURS.intermediate(path_length=0).intermediate().issue()


BAD_PATHS: list[tuple[str, Alert, Callable[[], Issued]]] = [
    (
        "an intermediate without keyCertSign (X5-10)", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(key_usage=("crl_sign",)).issue(),
    ),
    (
        "an intermediate without keyUsage (X5-9)", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(key_usage=None).issue(),
    ),
    (
        "an intermediate that is no CA (X5-8)", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(ca=False).issue(),
    ),
    (
        "an intermediate without basicConstraints", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(ca=None).issue(),
    ),
    (
        "an intermediate for other purposes", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(eku=(ExtendedKeyUsageOID.CODE_SIGNING,)).issue(),
    ),
    (
        "an intermediate with an unknown critical extension", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(unknown_critical=True).issue(),
    ),
    (
        "an intermediate that demands policies", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(extensions=((x509.PolicyConstraints(0, None), True),)).issue(),
    ),
    (
        "an expired intermediate", Alert.CERTIFICATE_EXPIRED,
        lambda: OURS.intermediate(
            not_before=NOW - timedelta(hours=1), not_after=NOW - SECOND
        ).issue(),
    ),
    ("a forged intermediate", Alert.UNKNOWN_CA, lambda: OURS.intermediate(forged=True).issue()),
    ("pathLen exceeded", Alert.BAD_CERTIFICATE, _deep),
    (
        "a DNS name outside the name constraints", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(permitted=(x509.DNSName("a.test"),)).issue(dns=("b.test",)),
    ),
    (
        "a SPIFFE ID outside the permitted URIs", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(
            permitted=(x509.UniformResourceIdentifier("other.test"),)
        ).issue(),
    ),
    (
        "a SPIFFE ID among the excluded URIs", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(
            excluded=(x509.UniformResourceIdentifier("example.org"),), constraints_critical=False
        ).issue(),
    ),
    (
        "a SPIFFE ID outside of what the second intermediate permits", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(permitted=(x509.UniformResourceIdentifier("other.test"),))
        .intermediate(uris=("spiffe://other.test",)).issue(),
    ),
    (
        "name constraints of a kind that isn't evaluated", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(
            permitted=(x509.RegisteredID(UNKNOWN_OID),), constraints_critical=False
        ).issue(),
    ),
    (
        "a subject outside the directory name constraints", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(
            permitted=(x509.DirectoryName(OURS.root.subject),), constraints_critical=False
        ).issue(),
    ),
    (
        "an address outside the name constraints", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(
            permitted=(x509.IPAddress(ip_network("10.0.0.0/8")),)
        ).issue(ips=("192.0.2.1",)),
    ),
    (
        "an email address outside the name constraints", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(
            excluded=(x509.RFC822Name("a.test"),)
        ).issue(emails=("x@a.test",)),
    ),
    (
        "an intermediate with a weak key", Alert.UNSUPPORTED_CERTIFICATE,
        lambda: OURS.intermediate(key="rsa1024").issue(),
    ),
    (
        "an intermediate on a weak curve", Alert.UNSUPPORTED_CERTIFICATE,
        lambda: OURS.intermediate(key="p224").issue(),
    ),
    (
        "an intermediate signed with a weak hash", Alert.BAD_CERTIFICATE,
        lambda: OURS.intermediate(hash=hashes.SHA224).issue(hash=hashes.SHA256),
    ),
    (
        "a missing intermediate", Alert.UNKNOWN_CA,
        lambda: replace(issued := INTERMEDIATE.issue(), chain=issued.chain[:1]),
    ),
    (
        "another authority of the same name", Alert.UNKNOWN_CA,
        lambda: Authority("example.org", now=NOW).issue(),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("alert", "make"),
    [(alert, make) for _, alert, make in BAD_PATHS],
    ids=[f"X5-14 {name}" for name, _, _ in BAD_PATHS],
)
def test_a_path_that_breaks_rfc_5280_is_refused(alert: Alert, make: Callable[[], Issued]) -> None:
    assert refusal(make()) == ("X5-14", alert)


BAD_ROOTS: list[tuple[str, Alert, dict[str, Any]]] = [
    ("no CA", Alert.BAD_CERTIFICATE, {"ca": False}),
    ("no keyCertSign", Alert.BAD_CERTIFICATE, {"key_usage": ("crl_sign",)}),
    ("a weak key", Alert.UNSUPPORTED_CERTIFICATE, {"key": "rsa1024"}),
    (
        "for other purposes", Alert.BAD_CERTIFICATE,
        {"eku": (ExtendedKeyUsageOID.CODE_SIGNING,)},
    ),
    ("an unknown critical extension", Alert.BAD_CERTIFICATE, {"unknown_critical": True}),
    (
        "expired", Alert.CERTIFICATE_EXPIRED,
        {"not_before": NOW - timedelta(hours=1), "not_after": NOW - SECOND},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("alert", "quirks"),
    [(alert, quirks) for _, alert, quirks in BAD_ROOTS],
    ids=[f"X5-14 {name}" for name, _, _ in BAD_ROOTS],
)
def test_a_root_that_may_not_sign_vouches_for_nobody(alert: Alert, quirks: dict[str, Any]) -> None:
    root = Authority("example.org", now=NOW, **quirks)
    assert refusal(root.issue(), bundles=(root.bundle,)) == ("X5-14", alert)


GOOD_AUTHORITIES: list[tuple[str, dict[str, Any]]] = [
    ("Ed25519", {"key": "ed25519"}),
    ("Ed448", {"key": "ed448"}),
    ("RSA", {"key": "rsa2048"}),
    ("basicConstraints and keyUsage that aren't critical, as easy-rsa writes them",
     {"ca_critical": False, "key_usage_critical": False}),
    ("no key identifiers", {"aki": False, "ski": False}),
    ("anyExtendedKeyUsage", {"eku": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}),
    ("URI name constraints", {"permitted": (x509.UniformResourceIdentifier("example.org"),)}),
    ("URI name constraints on subdomains of another",
     {"excluded": (x509.UniformResourceIdentifier(".example.org"),)}),
    ("an empty subject", {"subject": None, "san_critical": True}),
]  # fmt: skip


@pytest.mark.parametrize(
    "quirks", [each for _, each in GOOD_AUTHORITIES], ids=[name for name, _ in GOOD_AUTHORITIES]
)
def test_an_authority_that_keeps_the_rules_vouches_as_root_and_as_intermediate(
    quirks: dict[str, Any],
) -> None:
    root = Authority("example.org", now=NOW, **quirks)
    assert judge(root.issue(), bundles=(root.bundle,))
    below = OURS.intermediate(**quirks)
    assert judge(below.issue()).anchor == OURS.der


def test_a_root_without_key_usage_is_a_name_and_a_key_like_any() -> None:
    root = Authority("example.org", now=NOW, key_usage=None)
    assert judge(root.issue(), bundles=(root.bundle,))


def test_dates_in_generalized_time_before_2050_are_dates() -> None:
    root = Authority("example.org", now=NOW)
    for bundle, peer in (
        (root.bundle, generalized_time(root.issue(), root)),
        (Bundle("example.org", (with_generalized_time(root.root, root.key),)), root.issue()),
    ):
        assert b"20260801" in b"".join(peer.der) + encoding.der(bundle.roots[0])
        assert judge(peer, bundles=(bundle,))
        late = peer.certificate.not_valid_after_utc + SECOND
        assert refusal(peer, bundles=(bundle,), now=late)[1] is Alert.CERTIFICATE_EXPIRED


def test_of_roots_with_one_name_the_one_that_signed_counts_whatever_else_is_there() -> None:
    """Without key identifiers, as many openssl.cnf files leave them out."""
    bare: dict[str, Any] = {"aki": False, "ski": False}
    roots = [Authority("example.org", now=NOW, **bare) for _ in range(3)]
    bundle = Bundle("example.org", tuple(each.root for each in roots))
    for root in roots:
        assert judge(root.issue(**bare), bundles=(bundle,)).anchor == root.der
        issued = root.intermediate(**bare).issue(**bare)
        assert judge(issued, bundles=(bundle,)).chain == issued.der
    with_stranger = Authority("example.org", now=NOW, **bare)
    assert refusal(with_stranger.issue(**bare), bundles=(bundle,)) == ("X5-14", Alert.UNKNOWN_CA)


def _authority_identifier(
    *,
    key: bytes = x509.SubjectKeyIdentifier.from_public_key(OURS.key.public_key()).digest,
    issuer: x509.Name = OURS.root.issuer,
    serial: int = OURS.root.serial_number,
) -> dict[str, Any]:
    """An authority key identifier that names the root of OURS, or what else is said."""
    identifier = x509.AuthorityKeyIdentifier(key, [x509.DirectoryName(issuer)], serial)
    return {"aki": False, "extensions": ((identifier, False),)}


def test_an_issuer_that_openssl_does_not_take_for_one_is_none() -> None:
    """Though its signature is right."""
    assert judge(OURS.issue(**_authority_identifier()))
    for how in (
        _authority_identifier(key=bytes(20)),
        _authority_identifier(serial=1),
        _authority_identifier(issuer=PARTNER.root.issuer),
    ):
        for peer in (OURS.issue(**how), OURS.intermediate(**how).issue()):
            assert refusal(peer) == ("X5-14", Alert.UNKNOWN_CA)
    bare: dict[str, Any] = {"aki": False, "ski": False, "subject": "CA"}
    root = Authority("example.org", now=NOW, **bare)
    below = root.intermediate(**bare)
    assert refusal(below.issue(**bare), bundles=(root.bundle,)) == ("X5-14", Alert.UNKNOWN_CA)
    # the name alone, or key identifiers, tell them apart
    assert judge(root.intermediate(**bare | {"subject": "b"}).issue(), bundles=(root.bundle,))
    named = Authority("example.org", now=NOW, subject="CA")
    assert judge(named.intermediate(subject="CA").issue(), bundles=(named.bundle,))


@pytest.mark.parametrize("bare", [{}, {"aki": False, "ski": False}], ids=["usual", "bare"])
def test_names_that_differ_only_in_their_kind_of_string_are_one_name(bare: dict[str, Any]) -> None:
    """As where a root was made anew by software that prefers another kind (RFC 5280 section
    7.1)."""
    roots = [Authority("example.org", now=NOW, **bare) for _ in range(2)]
    bundle = Bundle("example.org", tuple(each.root for each in roots))
    for root in roots:
        below = root.intermediate(**bare)
        issued, direct = below.issue(**bare), root.issue(**bare)
        leaf = with_printable_issuer(issued.certificate, below.key)
        signer = with_printable_issuer(below.certificate, root.key)
        for chain in (
            (with_printable_issuer(direct.certificate, root.key),),
            (leaf, below.certificate), (issued.certificate, signer), (leaf, signer),
        ):  # fmt: skip
            assert judge(Issued(chain, issued.key), bundles=(bundle,)).anchor == root.der
            stranger = Issued(chain, issued.key)
            assert refusal(stranger) == ("X5-14", Alert.UNKNOWN_CA)


def test_what_is_refused_though_openssl_would_take_it() -> None:
    issued = OURS.issue()
    written = with_false_written_out(issued.certificate, OURS.key)
    with pytest.raises(UntrustedError, match=r"EncodedDefault.*BasicConstraints::ca") as caught:
        judge(Issued((written,), issued.key))
    assert caught.value.alert is Alert.BAD_CERTIFICATE
    shouting = Authority("example.org", now=NOW, subject="CA OF EXAMPLE.ORG")
    shouting.key = OURS.key
    with pytest.raises(UntrustedError, match="ends at issuer 'CN=CA OF EXAMPLE") as caught:
        judge(shouting.issue())
    assert caught.value.alert is Alert.UNKNOWN_CA
    anchor = libssl.Anchor(OURS.der)
    for certificate in (written, shouting.issue().certificate):
        anchor.validate([encoding.der(certificate)])


def test_key_identifiers_tell_signers_with_one_name_apart() -> None:
    roots = [Authority("example.org", now=NOW) for _ in range(5)]
    bundle = Bundle("example.org", tuple(each.root for each in roots))
    for root in roots:
        namesakes = [other.intermediate().certificate for other in roots]
        issued = root.intermediate().issue()
        presented = replace(issued, chain=(issued.chain[0], *namesakes, *issued.chain[1:]))
        assert judge(presented, bundles=(bundle,)).chain == issued.der


def test_a_root_that_an_older_one_of_its_name_signed_is_followed_to_it() -> None:
    """As a CA bridges the time until everybody has its new root."""
    old, new = Authority("example.org", now=NOW), Authority("example.org", now=NOW)
    issued, bridge = new.issue(), new._build(new._how, new.key, old)
    presented = replace(issued, chain=(issued.certificate, bridge))
    assert judge(presented, bundles=(old.bundle,)).anchor == old.der
    assert judge(presented, bundles=(new.bundle,)).anchor == new.der


def test_a_signer_that_is_remembered_is_reachable_only_through_those_that_are_there() -> None:
    upper = OURS.intermediate()
    renewed = upper._build(upper._how, upper.key, OURS)
    lower = upper.intermediate()
    issued = lower.issue()
    other = replace(issued, chain=(*issued.chain[:2], renewed))
    verifier = Verifier(credentials(OURS.bundle))
    for peer in (issued, other, issued):
        assert verifier.verify(peer.der, Role.CLIENT, NOW).chain == peer.der
    with pytest.raises(UntrustedError, match="no root"):
        verifier.verify(issued.der[:2], Role.CLIENT, NOW)


def test_a_signer_with_the_serial_number_of_a_remembered_one_is_somebody_else() -> None:
    known = OURS.intermediate()
    below = known.intermediate()
    issued = below.issue()
    verifier = Verifier(credentials(OURS.bundle))
    assert verifier.verify(issued.der, Role.CLIENT, NOW)
    usual = known.certificate
    other = x509.CertificateBuilder(
        OURS.root.subject, usual.subject, PARTNER.key.public_key(), usual.serial_number,
        usual.not_valid_before_utc, usual.not_valid_after_utc, [*usual.extensions],
    ).sign(cast("Any", OURS.key), hashes.SHA256())  # fmt: skip
    presented = replace(issued, chain=(*issued.chain[:2], other))
    with pytest.raises(UntrustedError) as caught:
        verifier.verify(presented.der, Role.CLIENT, NOW)
    assert (caught.value.rule, caught.value.alert) == ("X5-14", Alert.UNKNOWN_CA)
    assert verifier.verify(issued.der, Role.CLIENT, NOW).chain == issued.der


@pytest.fixture
def sought(monkeypatch: pytest.MonkeyPatch) -> list[x509.Certificate]:
    """The signers that were sought from the roots downward: a signature each was checked for
    them."""
    found: list[x509.Certificate] = []
    search_all = Search.reachable_from_roots

    def reachable_from_roots(search: Search, strangers: Any, anchors: Any) -> Any:
        found.extend(each.certificate for each in strangers)
        return search_all(search, strangers, anchors)

    monkeypatch.setattr(Search, "reachable_from_roots", reachable_from_roots)
    return found


def test_signers_of_a_valid_path_are_sought_once(sought: list[x509.Certificate]) -> None:
    upper = OURS.intermediate()
    lower = upper.intermediate()
    verifier = Verifier(credentials(OURS.bundle))
    for authority in (upper, upper, lower, lower, upper):
        peer = authority.issue()
        assert verifier.verify(peer.der, Role.CLIENT, NOW).chain == peer.der
    assert sought == [upper.certificate, lower.certificate]


def test_signers_that_are_no_cas_are_sought_each_time(
    sought: list[x509.Certificate],
) -> None:
    below = OURS.intermediate(ca=False)
    verifier = Verifier(credentials(OURS.bundle))
    for _ in range(2):
        with pytest.raises(UntrustedError):
            verifier.verify(below.issue().der, Role.CLIENT, NOW)
    assert sought == [below.certificate] * 2


def test_no_more_signers_are_remembered_than_there_is_room_for(
    sought: list[x509.Certificate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchors, "MAX_REMEMBERED", 3)
    first, second, third, fourth = (OURS.intermediate() for _ in range(4))
    judging = Verifier(credentials(OURS.bundle))
    # leaves take no room
    for each in (first, second, first, second, third):
        judging.verify(each.issue().der, Role.CLIENT, NOW)
    assert sought == [each.certificate for each in (first, second, third)]
    # the fourth doesn't fit beside the three, so that they are forgotten
    for each in (fourth, first, fourth):
        judging.verify(each.issue().der, Role.CLIENT, NOW)
    assert sought[3:] == [fourth.certificate, first.certificate]


def test_a_signer_of_another_trust_domain_is_not_remembered_for_ours() -> None:
    verifier = Verifier(credentials(OURS.bundle, PARTNER.bundle))
    below = PARTNER.intermediate()
    assert verifier.verify(below.issue().der, Role.CLIENT, NOW)
    claim = below.issue(uris=(OURS.issue().spiffe_id,))
    with pytest.raises(UntrustedError) as caught:
        verifier.verify(claim.der, Role.CLIENT, NOW)
    assert caught.value.rule in {"X5-14", "X5-16"}


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_intermediates_may_have_the_name_of_their_root(depth: int) -> None:
    """Nested SPIRE servers with one `ca_subject`; key identifiers tell them apart."""
    signer = root = Authority("example.org", now=NOW, subject="SPIFFE")
    for _ in range(depth):
        signer = signer.intermediate(subject="SPIFFE")
    peer = signer.issue("/a")
    assert judge(peer, bundles=(root.bundle,)).chain == peer.der
    shuffled = Issued((peer.chain[0], *reversed(peer.chain[1:])), peer.key)
    assert judge(shuffled, bundles=(root.bundle,)).chain == peer.der


def test_a_root_renewed_with_its_old_key_vouches_when_the_old_certificate_has_ended() -> None:
    old = Authority("example.org", now=NOW, not_after=NOW - SECOND)
    new = Authority("example.org", now=NOW)
    new.key = old.key
    new.certificate = new.root = new._build(new._how, old.key, None)
    both = Bundle("example.org", (old.root, new.root))
    assert judge(new.issue(), bundles=(both,)).anchor == new.der
    assert judge(new.intermediate().issue(), bundles=(both,)).anchor == new.der


def test_name_constraints_that_can_be_evaluated_are_enforced() -> None:
    below = OURS.intermediate(permitted=(x509.DNSName("a.test"),), constraints_critical=False)
    assert judge(below.issue(dns=("x.a.test",)))
    assert judge(below.issue())
    assert refusal(below.issue(dns=("x.b.test",)))[0] == "X5-14"
    root = Authority("example.org", now=NOW, excluded=(x509.DNSName("a.test"),))
    assert judge(root.issue(dns=("b.test",)), bundles=(root.bundle,))
    assert refusal(root.issue(dns=("x.a.test",)), bundles=(root.bundle,))[0] == "X5-14"


def test_a_signing_certificate_does_not_authenticate_x5_6() -> None:
    for authority in (OURS, INTERMEDIATE):
        chain = (authority.certificate, *authority.intermediates[1:])
        assert refusal(Issued(chain, authority.key))[0] == "X5-8"


def test_intermediates_are_followed_in_any_order() -> None:
    issued = INTERMEDIATE.intermediate().issue()
    leaf, *above = issued.chain
    assert judge(issued)
    assert judge(replace(issued, chain=(leaf, *reversed(above))))


def test_a_certificate_that_does_not_belong_is_left_out_of_the_result() -> None:
    issued = INTERMEDIATE.issue()
    stray = PARTNER.intermediate().certificate
    peer = judge(replace(issued, chain=(*issued.chain, stray)))
    assert peer.chain == issued.der


def test_a_certificate_sent_twice_counts_once() -> None:
    issued = INTERMEDIATE.intermediate().issue()
    for twice in issued.chain:
        assert judge(replace(issued, chain=(*issued.chain, twice))).chain == issued.der
    leaf, lower, upper = issued.chain
    assert judge(replace(issued, chain=(leaf, lower, lower, upper, upper))).chain == issued.der


def test_the_trust_anchor_is_not_part_of_the_result() -> None:
    issued = INTERMEDIATE.issue()
    peer = judge(replace(issued, chain=(*issued.chain, OURS.root)))
    assert peer.chain == issued.der


def test_an_intermediate_in_the_bundle_is_an_anchor() -> None:
    issued = INTERMEDIATE.issue()
    peer = judge(issued, bundles=(Bundle("example.org", (INTERMEDIATE.certificate,)),))
    assert peer.chain == issued.der[:1]


def test_the_result_ends_with_the_first_certificate_that_expires() -> None:
    early = NOW + timedelta(minutes=1)
    assert judge(OURS.intermediate(not_after=early).issue()).not_after == early
    assert judge(OURS.issue(not_after=early)).not_after == early
    root = Authority("example.org", now=NOW, not_after=early)
    assert judge(root.issue(), bundles=(root.bundle,)).not_after == early


@pytest.mark.parametrize("signer", [PARTNER, PARTNER.intermediate()], ids=["root", "below"])
def test_a_federated_domain_can_not_sign_our_ids_x5_16(signer: Authority) -> None:
    forged = signer.issue(uris=("spiffe://example.org/ns/default/sa/workload",))
    assert refusal(forged) == ("X5-16", Alert.UNKNOWN_CA)


def test_a_federated_domain_signs_its_own_ids_x5_16() -> None:
    assert judge(PARTNER.issue("/a")).spiffe_id == "spiffe://partner.test/a"


def test_a_domain_without_a_bundle_is_untrusted_x5_17() -> None:
    stranger = Authority("stranger.test", now=NOW)
    assert refusal(stranger.issue()) == ("X5-17", Alert.UNKNOWN_CA)


def claim_in(peer: Issued, **how: Any) -> Claim | None:
    with pytest.raises(UntrustedError) as caught:
        judge(peer, **how)
    return caught.value.claim


@pytest.mark.parametrize(
    ("quirks", "spiffe_id"),
    [
        ({"not_before": NOW + SECOND}, "spiffe://example.org/ns/default/sa/workload"),
        ({"forged": True}, "spiffe://example.org/ns/default/sa/workload"),
        ({"ca": True}, "spiffe://example.org/ns/default/sa/workload"),
        ({"uris": URIS}, None),
        ({"uris": (), "dns": ("a.example.org",)}, None),
    ],
)
def test_a_refusal_names_what_the_leaf_claims(
    quirks: dict[str, Any], spiffe_id: str | None
) -> None:
    peer = OURS.issue(**quirks)
    assert claim_in(peer) == Claim(spiffe_id, encoding.serial_text(peer.certificate))


def test_what_cannot_be_read_claims_nothing() -> None:
    with pytest.raises(UntrustedError) as caught:
        Verifier(credentials(OURS.bundle)).verify((b"junk",), Role.CLIENT, NOW)
    assert caught.value.claim is None


def test_a_domain_whose_bundle_is_empty_is_untrusted_tb_5() -> None:
    empty = Bundle("example.org", ())
    assert refusal(OURS.issue(), bundles=(empty, PARTNER.bundle)) == ("TB-5", Alert.UNKNOWN_CA)


def test_every_root_of_a_bundle_counts() -> None:
    next_root = Authority("example.org", now=NOW)
    both = Bundle("example.org", (OURS.root, next_root.root))
    assert judge(OURS.issue(), bundles=(both,))
    assert judge(next_root.issue(), bundles=(both,))


def _with_crls(authority: Authority, *crls: x509.CertificateRevocationList) -> tuple[Bundle]:
    return (replace(authority.bundle, crls=crls),)


def test_a_revoked_leaf_is_refused_up_2() -> None:
    peer, other = OURS.issue(), OURS.issue()
    bundles = _with_crls(OURS, OURS.crl([peer]))
    assert refusal(peer, bundles=bundles) == ("UP-2", Alert.CERTIFICATE_REVOKED)
    assert judge(other, bundles=bundles)


def test_a_revoked_intermediate_is_refused_up_2() -> None:
    bundles = _with_crls(OURS, OURS.crl([INTERMEDIATE.certificate]))
    assert refusal(INTERMEDIATE.issue(), bundles=bundles) == ("UP-2", Alert.CERTIFICATE_REVOKED)


def test_an_intermediate_revokes_its_own_leaves_up_2() -> None:
    peer = INTERMEDIATE.issue()
    bundles = _with_crls(OURS, INTERMEDIATE.crl([peer]))
    assert refusal(peer, bundles=bundles)[0] == "UP-2"


def test_a_stale_crl_refuses_its_issuers_chains_up_3() -> None:
    peer = OURS.issue()
    stale = OURS.crl(next_update=NOW - SECOND)
    assert refusal(peer, bundles=_with_crls(OURS, stale)) == ("UP-3", Alert.CERTIFICATE_UNKNOWN)
    below = INTERMEDIATE.crl(next_update=NOW - SECOND)
    assert judge(peer, bundles=_with_crls(OURS, below))
    assert refusal(INTERMEDIATE.issue(), bundles=_with_crls(OURS, below))[0] == "UP-3"


def test_a_revocation_in_a_stale_crl_is_still_a_revocation() -> None:
    peer = OURS.issue()
    bundles = _with_crls(OURS, OURS.crl([peer], next_update=NOW - SECOND))
    assert refusal(peer, bundles=bundles)[0] == "UP-2"


def test_the_newest_crl_of_an_issuer_counts() -> None:
    peer = OURS.issue()
    old = OURS.crl(last_update=NOW - timedelta(hours=2), next_update=NOW - SECOND)
    new = OURS.crl([peer], last_update=NOW - timedelta(hours=1))
    assert refusal(peer, bundles=_with_crls(OURS, old, new))[0] == "UP-2"
    fresh = OURS.crl(last_update=NOW)
    assert judge(OURS.issue(), bundles=_with_crls(OURS, old, fresh))


def test_a_crl_of_another_key_with_the_issuers_name_means_nothing() -> None:
    peer = OURS.issue()
    assert judge(peer, bundles=_with_crls(OURS, OURS.crl([peer], forged=True)))


def test_a_crl_of_another_trust_domain_means_nothing() -> None:
    peer = OURS.issue()
    ours = replace(OURS.bundle, crls=(PARTNER.crl([peer]),))
    assert judge(peer, bundles=(ours, PARTNER.bundle))
    theirs = replace(PARTNER.bundle, crls=(OURS.crl([peer]),))
    assert judge(peer, bundles=(OURS.bundle, theirs))


def test_no_certificate_is_no_peer() -> None:
    with pytest.raises(UntrustedError) as caught:
        Verifier(credentials(OURS.bundle)).verify((), Role.CLIENT, NOW)
    assert (caught.value.rule, caught.value.alert) == ("X5-14", Alert.BAD_CERTIFICATE)


def test_certificates_that_sign_each_other_are_refused_like_any_stranger() -> None:
    stranger = Authority("example.org", now=NOW, subject="stranger")
    loops = [stranger.intermediate(subject="stranger").certificate for _ in range(4)]
    issued = stranger.issue()
    looped = replace(issued, chain=(issued.certificate, stranger.root, stranger.root, *loops))
    assert refusal(looped) == ("X5-14", Alert.UNKNOWN_CA)


def test_a_strangers_keys_are_never_computed_with() -> None:
    """A path builder asked from the leaf upward would check a signature for each way through
    this tangle, until its own limit stops it: half a second with keys made for it."""
    one, other = "a stranger", "another stranger"
    stranger = Authority("example.org", now=NOW, subject=one)
    back = Authority("example.org", now=NOW, subject=other)
    back.key = stranger.key
    tangle = [
        back._build(stranger._how, stranger.key, back if number % 2 else stranger)
        for number in range(MAX_CHAIN - 1)
    ]
    issued = stranger.issue()
    with pytest.raises(UntrustedError) as caught:
        judge(replace(issued, chain=(issued.certificate, *tangle)))
    assert caught.value.rule == "X5-14"
    assert "signature check limit" not in str(caught.value.__cause__)


def test_garbage_is_no_certificate() -> None:
    leaf = OURS.issue().der[0]
    for chain in ((b"",), (b"\x30\x00",), (leaf[:-1],), (leaf + b"\x00",), (leaf, b"x")):
        with pytest.raises(UntrustedError) as caught:
            Verifier(credentials(OURS.bundle)).verify(chain, Role.CLIENT, NOW)
        assert (caught.value.rule, caught.value.alert) == ("X5-14", Alert.BAD_CERTIFICATE)


@pytest.mark.parametrize("name", ["not_before", "not_after"])
def test_a_date_that_cannot_be_is_no_certificate(name: str) -> None:
    far = datetime(2060, 1, 1, tzinfo=UTC)
    dates: dict[str, Any] = {"not_before": far - SECOND, "not_after": far + SECOND, name: far}
    [der] = OURS.issue(**dates).der
    der = der.replace(b"20600101000000Z", b"00000101000000Z")
    with pytest.raises(UntrustedError, match="year 0 is out of range") as caught:
        Verifier(credentials(OURS.bundle)).verify((der,), Role.CLIENT, NOW)
    assert (caught.value.rule, caught.value.alert) == ("X5-14", Alert.BAD_CERTIFICATE)


def test_an_rsa_key_made_to_be_slow_is_refused() -> None:
    """Its private exponent is short, and its public one as long as the modulus."""
    usual = rsa.generate_private_key(65537, 2048).private_numbers()
    p, q, modulus = usual.p, usual.q, usual.public_numbers.n
    private = next(each for each in (3, 5, 7, 11, 13, 17) if math.gcd(each, (p - 1) * (q - 1)) == 1)
    public = rsa.RSAPublicNumbers(pow(private, -1, (p - 1) * (q - 1)), modulus)
    numbers = rsa.RSAPrivateNumbers(p, q, private, private, private, usual.iqmp, public)
    how = Quirks(uris=("spiffe://example.org/a",))
    leaf = OURS._build(how, numbers.private_key(), OURS)
    assert refusal(Issued((leaf,), OURS.key)) == ("X5-14", Alert.UNSUPPORTED_CERTIFICATE)


def test_an_rsa_key_of_16384_bits_is_refused_whoever_signed_it() -> None:
    big = rsa.RSAPublicNumbers(65537, (1 << 16383) + 1).public_key()
    usual = OURS.issue().certificate
    builder = x509.CertificateBuilder(
        usual.issuer, usual.subject, big, usual.serial_number,
        usual.not_valid_before_utc, usual.not_valid_after_utc, [*usual.extensions],
    )  # fmt: skip
    leaf = builder.sign(cast("Any", OURS.key), hashes.SHA256())
    assert refusal(Issued((leaf,), OURS.key)) == ("X5-14", Alert.UNSUPPORTED_CERTIFICATE)


def test_a_chain_longer_than_ten_is_refused_up_1() -> None:
    authority = OURS
    while len(authority.intermediates) < MAX_CHAIN - 1:
        authority = authority.intermediate()
    longest = authority.issue()
    assert len(longest.chain) == MAX_CHAIN
    assert len(judge(longest).chain) == MAX_CHAIN
    assert refusal(authority.intermediate().issue()) == ("UP-1", Alert.BAD_CERTIFICATE)


def test_a_chain_larger_than_64_kib_is_refused_up_1() -> None:
    large = OURS.issue(dns=tuple(f"{n}.{'a' * 60}.test" for n in range(1000)))
    assert sum(map(len, large.der)) > MAX_CHAIN_BYTES
    assert refusal(large) == ("UP-1", Alert.BAD_CERTIFICATE)
    leaf = OURS.issue().der[0]
    rules = []
    for size in (MAX_CHAIN_BYTES, MAX_CHAIN_BYTES + 1):
        whole = (leaf, bytes(size - len(leaf)))
        with pytest.raises(UntrustedError) as caught:
            Verifier(credentials(OURS.bundle)).verify(whole, Role.CLIENT, NOW)
        rules.append(caught.value.rule)
    assert rules == ["X5-14", "UP-1"]


def recheck(peer: PeerSvid, *bundles: Bundle, now: datetime = NOW) -> str | None:
    """The rule that an open connection's peer breaks under these bundles."""
    try:
        Verifier(credentials(*bundles)).recheck(peer, Role.CLIENT, now)
    except UntrustedError as error:
        return error.rule
    return None


def test_withdrawn_trust_ends_what_it_let_in() -> None:
    peer = judge(INTERMEDIATE.issue())
    others = Authority("example.org", now=NOW)
    leaf = x509.load_der_x509_certificate(peer.chain[0])
    assert recheck(peer, OURS.bundle, PARTNER.bundle) is None
    assert recheck(peer, PARTNER.bundle) == "X5-17"
    assert recheck(peer, Bundle("example.org", ())) == "TB-5"
    assert recheck(peer, others.bundle) == "X5-14"
    assert recheck(peer, *_with_crls(OURS, OURS.crl([INTERMEDIATE.certificate]))) == "UP-2"
    assert recheck(peer, *_with_crls(OURS, INTERMEDIATE.crl([leaf]))) == "UP-2"


def test_time_alone_is_never_distrust() -> None:
    next_root = Authority("example.org", now=NOW)
    both = Bundle("example.org", (OURS.root, next_root.root))
    peer = judge(INTERMEDIATE.issue(), bundles=(both,))
    late = OURS.root.not_valid_after_utc + SECOND
    assert recheck(peer, both, now=late) is None
    assert recheck(peer, next_root.bundle, now=late - SECOND) == "X5-14"
    assert recheck(peer, next_root.bundle, now=late) is None
    stale = OURS.crl(next_update=NOW - SECOND)
    assert recheck(peer, *_with_crls(OURS, stale)) is None


def test_what_has_ended_can_still_be_revoked_and_its_domain_be_stopped() -> None:
    next_root = Authority("example.org", now=NOW)
    peer = judge(INTERMEDIATE.issue())
    late = OURS.root.not_valid_after_utc + SECOND
    revoking = replace(next_root.bundle, crls=(OURS.crl([INTERMEDIATE.certificate]),))
    assert recheck(peer, revoking, now=late) == "UP-2"
    assert recheck(peer, PARTNER.bundle, now=late) == "X5-17"
    assert recheck(peer, Bundle("example.org", ()), now=late) == "TB-5"


def test_a_root_renewed_with_its_old_key_goes_on_vouching() -> None:
    old = Authority("example.org", now=NOW)
    peer = judge(old.issue(), bundles=(old.bundle,))
    new = with_generalized_time(old.root, old.key)
    assert new != old.root
    assert recheck(peer, Bundle("example.org", (new,))) is None


def test_a_crl_that_can_not_be_applied_means_that_nobody_of_its_issuer_is_believed() -> None:
    peer, below = OURS.issue(), INTERMEDIATE.issue()
    delta = (x509.DeltaCRLIndicator(1), True)
    unusable = OURS.crl(extensions=[delta])
    assert refusal(peer, bundles=_with_crls(OURS, unusable)) == ("UP-4", Alert.CERTIFICATE_UNKNOWN)
    assert recheck(judge(peer), *_with_crls(OURS, unusable)) == "UP-4"
    of_intermediate = _with_crls(OURS, INTERMEDIATE.crl(extensions=[delta]))
    assert judge(peer, bundles=of_intermediate)
    assert refusal(below, bundles=of_intermediate)[0] == "UP-4"


def _point(**how: bool) -> tuple[x509.ExtensionType, bool]:
    """An issuing distribution point with a URL, as step-ca writes it; `how` limits it."""
    limits = dict.fromkeys(
        (
            "only_contains_user_certs", "only_contains_ca_certs", "indirect_crl",
            "only_contains_attribute_certs",
        ),
        False,
    )  # fmt: skip
    url = [x509.UniformResourceIdentifier(f"http://ca.test/{sorted(how)}")]
    return x509.IssuingDistributionPoint(url, None, only_some_reasons=None, **limits | how), True


def test_a_crl_of_a_distribution_point_revokes_and_grows_stale_like_any() -> None:
    peer, gone = OURS.issue(), OURS.issue()
    for point in (_point(), _point(only_contains_user_certs=True)):
        bundles = _with_crls(OURS, OURS.crl([gone], extensions=[point]))
        assert judge(peer, bundles=bundles)
        assert refusal(gone, bundles=bundles) == ("UP-2", Alert.CERTIFICATE_REVOKED)
        stale = OURS.crl(next_update=NOW - SECOND, extensions=[point])
        assert refusal(peer, bundles=_with_crls(OURS, stale))[0] == "UP-3"


def test_lists_of_two_distribution_points_count_together() -> None:
    gone, revoked = OURS.issue(), INTERMEDIATE
    leaves = OURS.crl([gone], extensions=[_point(only_contains_user_certs=True)])
    authorities = OURS.crl(
        [revoked.certificate], last_update=NOW, extensions=[_point(only_contains_ca_certs=True)]
    )
    bundles = _with_crls(OURS, leaves, authorities)
    assert refusal(gone, bundles=bundles)[0] == "UP-2"
    assert refusal(revoked.issue(), bundles=bundles)[0] == "UP-2"


def test_a_list_of_leaves_that_is_stale_says_nothing_of_intermediates() -> None:
    stale = OURS.crl(next_update=NOW - SECOND, extensions=[_point(only_contains_user_certs=True)])
    bundles = _with_crls(OURS, stale)
    assert judge(INTERMEDIATE.issue(), bundles=bundles)
    assert refusal(OURS.issue(), bundles=bundles)[0] == "UP-3"


def test_of_our_own_certificates_only_a_revocation_counts() -> None:
    own = INTERMEDIATE.issue()
    for bundles in ((PARTNER.bundle,), (Bundle("example.org", ()),), (OURS.bundle,)):
        Verifier(credentials(*bundles)).recheck_own(own.der)
    for crl in (INTERMEDIATE.crl([own]), OURS.crl([INTERMEDIATE.certificate])):
        with pytest.raises(UntrustedError, match="revoked"):
            Verifier(credentials(*_with_crls(OURS, crl))).recheck_own(own.der)
    stale = OURS.crl(next_update=NOW - SECOND)
    Verifier(credentials(*_with_crls(OURS, stale))).recheck_own(own.der)


def test_whoever_is_judged_again_without_its_anchor_needs_one_that_leads_to_it() -> None:
    peer = replace(judge(INTERMEDIATE.issue()), anchor=b"")
    assert recheck(peer, OURS.bundle) is None
    assert recheck(peer, Authority("example.org", now=NOW).bundle) == "X5-14"


def test_a_root_renewed_for_servers_only_ends_what_it_let_in_of_clients() -> None:
    old = Authority("example.org", now=NOW)
    peer = judge(old.issue(), bundles=(old.bundle,))
    for usages, rule in ((CLIENT_AUTH,), None), ((SERVER_AUTH,), "X5-14"):
        renewed = Authority("example.org", now=NOW, eku=usages)
        renewed.key = old.key
        root = renewed._build(renewed._how, old.key, None)
        assert recheck(peer, Bundle("example.org", (root,))) == rule


def test_a_domain_that_trusts_nobody_says_why() -> None:
    for bundle, why in (
        (Bundle("example.org", ()), "the bundle of example.org has no X.509 root"),
        (distrusted("example.org", "it is empty"), "of example.org is trusted: it is empty"),
    ):
        with pytest.raises(UntrustedError, match=why):
            judge(OURS.issue(), bundles=(bundle,))


def test_a_root_that_openssl_can_not_read_ends_the_trust_in_its_domain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None is known; readers differ in what they let pass, so there may be one."""
    made = libssl.Anchor

    def anchor(root: bytes) -> object:
        if root == PARTNER.der:
            raise PathError("OpenSSL can't read a certificate")
        return made(root)

    monkeypatch.setattr(anchors, "Anchor", anchor)
    assert refusal(PARTNER.issue()) == ("TB-5", Alert.UNKNOWN_CA)
    assert judge(OURS.issue())


def test_an_intermediate_that_can_not_be_decoded_is_refused_whoever_signed_it() -> None:
    good = OURS.intermediate()
    bad = with_a_broken_extension(good.certificate, OURS.key)
    issued = good.issue()
    presented = Issued((issued.chain[0], bad), issued.key)
    assert refusal(presented) == ("X5-14", Alert.BAD_CERTIFICATE)
    # beside what leads to a root it is nobody's
    assert judge(Issued((*issued.chain, bad), issued.key)).chain == issued.der


def test_an_intermediate_that_only_openssl_can_decode_is_refused_all_the_same() -> None:
    """It has an extension twice that nobody knows."""
    unknown = x509.UnrecognizedExtension(UNKNOWN_OID, b"\x05\x00")
    good = OURS.intermediate(extensions=((unknown, False),))
    issued = good.issue()
    assert judge(issued)
    bad = with_its_last_extension_twice(good.certificate, OURS.key)
    presented = Issued((issued.chain[0], bad), issued.key)
    assert refusal(presented) == ("X5-14", Alert.BAD_CERTIFICATE)


def test_a_leaf_that_only_openssl_can_decode_is_refused_all_the_same() -> None:
    unknown = x509.UnrecognizedExtension(UNKNOWN_OID, b"\x05\x00")
    good = OURS.issue(extensions=((unknown, False),))
    assert judge(good)
    bad = with_its_last_extension_twice(good.certificate, OURS.key)
    assert refusal(Issued((bad,), good.key)) == ("X5-14", Alert.BAD_CERTIFICATE)


def test_names_that_two_readers_read_differently_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None are known."""
    monkeypatch.setattr(Outline, "uris", [b"spiffe://example.org/somebody/else"])
    assert refusal(OURS.issue()) == ("X5-15", Alert.BAD_CERTIFICATE)


def test_a_stranger_that_nobody_signed_for_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    judging = Verifier(credentials(OURS.bundle, PARTNER.bundle))
    monkeypatch.setattr(encoding, "decode", None)
    unknown = Authority("stranger.test", now=NOW).issue()
    for stranger in (largest_chain(OURS), OURS.issue(forged=True), unknown):
        with pytest.raises(UntrustedError) as caught:
            judging.verify(stranger.der, Role.CLIENT, NOW)
        assert caught.value.alert is Alert.UNKNOWN_CA


def test_whoever_is_judged_again_under_its_root_needs_no_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = judge(INTERMEDIATE.issue())
    monkeypatch.setattr(libssl.Anchor, "validate", None)
    assert recheck(peer, OURS.bundle) is None
    assert recheck(peer, OURS.bundle, now=OURS.root.not_valid_after_utc + SECOND) is None


def test_signers_and_crls_are_good_for_their_first_and_their_last_second() -> None:
    brief = OURS.intermediate(not_before=NOW, not_after=NOW)
    assert judge(brief.issue())
    for moment in (NOW - SECOND, NOW + SECOND):
        assert refusal(brief.issue(), now=moment)[1] is Alert.CERTIFICATE_EXPIRED
    assert judge(OURS.issue(), bundles=_with_crls(OURS, OURS.crl(next_update=NOW)))


def test_of_roots_with_one_key_the_one_that_has_not_ended_counts_in_any_order() -> None:
    for _ in range(8):
        old = Authority("example.org", now=NOW, not_after=NOW - SECOND)
        renewed = Authority("example.org", now=NOW)
        renewed.key = old.key
        root = renewed._build(renewed._how, old.key, None)
        both = Bundle("example.org", (old.root, root))
        assert judge(old.issue(), bundles=(both,)).anchor == encoding.der(root)
        below = old.intermediate()
        assert judge(below.issue(), bundles=(both,)).anchor == encoding.der(root)


def test_each_domain_has_its_own_crls_though_they_share_a_root() -> None:
    peer = OURS.issue()
    elsewhere = OURS.issue(uris=("spiffe://partner.test/a",))
    crl = OURS.crl([peer, elsewhere])
    both = Verifier(
        credentials(replace(OURS.bundle, crls=(crl,)),
                    Bundle("partner.test", (OURS.root,), (PARTNER.crl(),)))
    )  # fmt: skip
    with pytest.raises(UntrustedError, match="revoked"):
        both.verify(peer.der, Role.CLIENT, NOW)
    assert both.verify(elsewhere.der, Role.CLIENT, NOW)


def test_what_is_remembered_of_signers_is_asked_once_and_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[x509.Certificate] = []
    read: list[x509.Certificate] = []
    check, revocations = authorities.check_signer, crls.revocations_by

    def check_signer(signer: x509.Certificate, role: Role, *, is_anchor: bool) -> None:
        asked.append(signer)
        check(signer, role, is_anchor=is_anchor)

    def revocations_by(issuer: x509.Certificate, lists: Any) -> Any:
        read.append(issuer)
        return revocations(issuer, lists)

    monkeypatch.setattr(verifier, "check_signer", check_signer)
    monkeypatch.setattr(verifier, "revocations_by", revocations_by)
    monkeypatch.setattr(verifier, "_MAX_REMEMBERED", 3)
    judging = Verifier(credentials(*_with_crls(OURS, OURS.crl())))
    first, second, third = (OURS.intermediate() for _ in range(3))
    for each in (first, second, first, second):
        judging.verify(each.issue().der, Role.CLIENT, NOW)
    known = {first.certificate, second.certificate, OURS.root}
    assert (len(asked), len(read)) == (3, 3)
    assert set(asked) == set(read) == known
    judging.verify(third.issue().der, Role.CLIENT, NOW)
    judging.verify(first.issue().der, Role.CLIENT, NOW)
    # the fourth didn't fit beside the three, so that they were forgotten
    assert asked[3:] == read[3:]
    assert third.certificate in asked[3:]
    assert first.certificate in asked[3:]
