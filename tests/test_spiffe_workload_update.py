"""Which Workload API messages may be used, and what they mean."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe._proto import workload_pb2

from tests.helpers.odd_certificates import rsassa_pss, with_printable_issuer
from tests.helpers.workload_api import svid_message, svid_response
from uproxy.errors import MessageError
from uproxy.lab.pki import Authority, make_key, private_bytes
from uproxy.spiffe.workload_update import parse_svid_response

HOME = Authority("example.org")
AWAY = Authority("partner.test")
MINE = HOME.issue("/ns/web/sa/frontend")
OTHER = HOME.issue("/ns/shop/sa/orders")


def spoiled(**fields: Any) -> bytes:
    return svid_response(svid_message(MINE, HOME, **fields))


def test_a_good_message_gives_svids_keys_and_bundles() -> None:
    data = svid_response(
        svid_message(MINE, HOME, hint="web"),
        svid_message(OTHER, HOME),
        federated={"spiffe://partner.test": AWAY.der},
    )

    update = parse_svid_response(data)

    assert [str(svid.spiffe_id) for svid in update.svids] == [MINE.spiffe_id, OTHER.spiffe_id]
    assert [svid.hint for svid in update.svids] == ["web", ""]
    assert update.svids[0].chain == MINE.chain
    assert update.svids[0].key.public_key() == MINE.key.public_key()
    assert update.bundles == {"example.org": HOME.bundle, "partner.test": AWAY.bundle}


def test_intermediates_follow_the_leaf() -> None:
    issued = HOME.intermediate().issue("/a")

    update = parse_svid_response(svid_response(svid_message(issued, HOME)))

    assert update.svids[0].chain == issued.chain
    assert len(issued.chain) == 2


def test_a_bundle_may_have_several_roots() -> None:
    second = Authority("example.org")

    update = parse_svid_response(spoiled(bundle=HOME.der + second.der))

    assert set(update.bundles["example.org"].roots) == {HOME.root, second.root}


@pytest.mark.parametrize("kind", ["p384", "rsa2048", "ed25519"])
def test_other_kinds_of_keys_are_read(kind: str) -> None:
    issued = HOME.issue("/a", key=kind)

    update = parse_svid_response(svid_response(svid_message(issued, HOME)))

    assert update.svids[0].key.public_key() == issued.key.public_key()


@pytest.mark.parametrize(
    "key", ["partner.test", "spiffe://partner.test", "spiffe://partner.test/a", "Partner.TEST"]
)
def test_bundles_are_keyed_by_the_trust_domain_however_it_is_written(key: str) -> None:
    update = parse_svid_response(svid_response(svid_message(MINE, HOME), federated={key: AWAY.der}))

    assert update.bundles["partner.test"] == AWAY.bundle


@pytest.mark.parametrize("key", ["", "spiffe://", "spiffe://partner.test/", "https://x", "a b"])
def test_a_bundle_of_no_trust_domain_is_left_out_and_told(key: str) -> None:
    federated = {key: AWAY.der, "other.test": AWAY.der}

    update = parse_svid_response(svid_response(svid_message(MINE, HOME), federated=federated))

    assert set(update.bundles) == {"example.org", "other.test"}
    [problem] = update.problems
    assert "its key is no trust domain" in problem


def test_a_message_without_svids_is_refused() -> None:
    with pytest.raises(MessageError, match="WA-10"):
        parse_svid_response(svid_response(federated={"partner.test": AWAY.der}))


@pytest.mark.parametrize("name", ["spiffe_id", "x509_svid", "x509_svid_key"])
def test_an_empty_mandatory_field_is_refused(name: str) -> None:
    empty = "" if name == "spiffe_id" else b""

    with pytest.raises(MessageError, match=rf"an SVID without {name} \(WA-7\)"):
        parse_svid_response(spoiled(**{name: empty}))


BAD_BUNDLES = {
    "empty": b"",
    "cut": AWAY.der[:-1],
    "garbage": b"\x30\x03\x02\x01",
    "PEM": AWAY.pem,
    "one of two": AWAY.der + b"\x30\x00",
    "a workload's certificate": AWAY.der + AWAY.issue("/a").der[0],
    "no basicConstraints": Authority("partner.test", ca=None).der,
    "no keyCertSign": Authority("partner.test", key_usage=("crl_sign",)).der,
}


@pytest.mark.parametrize("bundle", BAD_BUNDLES.values(), ids=BAD_BUNDLES)
def test_a_bad_federated_bundle_ends_the_trust_in_its_domain_and_nothing_else(
    bundle: bytes,
) -> None:
    federated = {"partner.test": bundle, "other.test": AWAY.der}

    update = parse_svid_response(svid_response(svid_message(MINE, HOME), federated=federated))

    assert [str(svid.spiffe_id) for svid in update.svids] == [MINE.spiffe_id]
    assert update.bundles["example.org"] == HOME.bundle
    assert update.bundles["other.test"].roots == AWAY.bundle.roots
    assert update.bundles["partner.test"].roots == ()
    assert update.problems == (update.bundles["partner.test"].problem,)
    assert update.problems[0].startswith("no certificate of partner.test is trusted: the agent's")


@pytest.mark.parametrize("bundle", [b"", HOME.pem, HOME.der[:-1]], ids=["empty", "PEM", "cut"])
def test_a_bad_bundle_of_our_own_domain_takes_no_svid_from_us(bundle: bytes) -> None:
    message = svid_message(MINE, HOME)
    message.bundle = bundle

    update = parse_svid_response(svid_response(message, federated={"partner.test": AWAY.der}))

    assert [str(svid.spiffe_id) for svid in update.svids] == [MINE.spiffe_id]
    assert update.bundles["example.org"].roots == ()
    assert update.bundles["partner.test"] == AWAY.bundle
    assert "no certificate of example.org is trusted" in update.problems[0]


def _encrypted() -> bytes:
    return private_bytes(MINE.key, Encoding.DER, password=b"x")


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"spiffe_id": "spiffe://example.org/a b"}, "ID-14"),
        ({"spiffe_id": MINE.spiffe_id + "\n"}, "ID-14"),
        ({"spiffe_id": "spiffe://example.org"}, "X5-4"),
        ({"spiffe_id": OTHER.spiffe_id}, "X5-1"),
        ({"x509_svid": HOME.der}, "X5-8"),
        ({"x509_svid": HOME.der + MINE.der[0]}, "X5-8"),
        ({"x509_svid": MINE.der[0] + AWAY.der}, "out of order"),
        ({"x509_svid": b""}, "WA-7"),
        ({"x509_svid": MINE.pem}, "WA-11"),
        ({"x509_svid": MINE.der[0] + b"rest"}, "WA-11"),
        ({"x509_svid": MINE.der[0][:-1]}, "WA-11"),
        ({"x509_svid_key": OTHER.key_der}, "not the certificate's"),
        ({"x509_svid_key": MINE.key_pem}, "not unencrypted PKCS#8"),
        ({"x509_svid_key": private_bytes(MINE.key, Encoding.DER, sec1=True)}, "not unencrypted"),
        ({"x509_svid_key": _encrypted()}, "not unencrypted PKCS#8"),
        ({"x509_svid_key": MINE.key_der[:-1]}, "can't be read"),
        ({"x509_svid_key": b"0"}, "not unencrypted PKCS#8"),
        ({"x509_svid_key": b"0\x84"}, "not unencrypted PKCS#8"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_refused_and_the_rule_named(
    fields: dict[str, Any], rule: str
) -> None:
    with pytest.raises(MessageError, match=rule):
        parse_svid_response(spoiled(**fields))


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("spiffe://example.org/a", "spiffe://example.org/b"),
        ("spiffe://example.org/a", "https://example.org/a"),
        ("https://example.org/a",),
    ],
)
def test_the_leaf_must_have_its_one_spiffe_id(uris: tuple[str, ...]) -> None:
    issued = HOME.issue("/a", uris=uris, dns=("example.org",))

    with pytest.raises(MessageError):
        parse_svid_response(
            svid_response(svid_message(issued, HOME, spiffe_id="spiffe://example.org/a"))
        )


def test_a_leaf_without_any_name_is_refused() -> None:
    issued = HOME.issue("/a", without_san=True)
    message = svid_message(MINE, HOME, x509_svid=b"".join(issued.der), x509_svid_key=issued.key_der)

    with pytest.raises(MessageError, match="no URI name, so it is not an SVID"):
        parse_svid_response(svid_response(message))


def test_a_key_that_we_could_not_use_in_a_handshake_is_refused_with_the_way_out(
    tmp_path: Path,
) -> None:
    key, pem = rsassa_pss(HOME, tmp_path)
    leaf = x509.load_pem_x509_certificate(pem)
    message = svid_message(
        MINE,
        HOME,
        spiffe_id="spiffe://example.org/ns/default/sa/workload",
        x509_svid=leaf.public_bytes(Encoding.DER),
        x509_svid_key=base64.b64decode(b"".join(key.splitlines()[1:-1])),
    )

    with pytest.raises(MessageError, match="RSASSA-PSS key can't be used in our own certificate"):
        parse_svid_response(svid_response(message))


def test_an_intermediate_of_the_issuers_name_and_another_key_is_out_of_order() -> None:
    right, wrong = HOME.intermediate(), HOME.intermediate()
    assert right.certificate.subject == wrong.certificate.subject
    chain = right.issue("/a").der[0] + wrong.issue("/a").der[1]

    with pytest.raises(MessageError, match="out of order"):
        parse_svid_response(svid_response(svid_message(right.issue("/a"), HOME, x509_svid=chain)))


def test_a_chain_whose_names_have_other_kinds_of_strings_is_in_order() -> None:
    below = HOME.intermediate()
    issued = below.issue("/a")
    leaf = with_printable_issuer(issued.certificate, below.key)
    presented = replace(issued, chain=(leaf, *issued.chain[1:]))
    update = parse_svid_response(svid_response(svid_message(presented, HOME)))
    assert update.svids[0].chain[0] == leaf


def test_an_intermediate_whose_key_can_not_sign_is_out_of_order() -> None:
    right = HOME.intermediate()
    subject = right.certificate.subject
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(HOME.root.subject)
    builder = builder.serial_number(1).not_valid_before(HOME.now).not_valid_after(HOME.now)
    agreeing = builder.public_key(X25519PrivateKey.generate().public_key())
    wrong = agreeing.sign(make_key("p256"), SHA256())
    issued = right.issue("/a")
    chain = issued.der[0] + wrong.public_bytes(Encoding.DER)

    with pytest.raises(MessageError, match="out of order"):
        parse_svid_response(svid_response(svid_message(issued, HOME, x509_svid=chain)))


def test_a_key_of_an_unknown_kind_can_not_be_read() -> None:
    p256, unknown = b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2a\x86\x48\xce\x3d\x03\x01\x7f"
    assert p256 in MINE.key_der
    key = MINE.key_der.replace(p256, unknown)

    with pytest.raises(MessageError, match="can't be read"):
        parse_svid_response(spoiled(x509_svid_key=key))


def test_a_message_that_is_printed_shows_no_key() -> None:
    update = parse_svid_response(spoiled())

    assert MINE.spiffe_id.rpartition("/")[2] in repr(update)
    assert "PrivateKey" not in repr(update)


def test_an_rsa_key_in_pkcs1_is_refused() -> None:
    issued = HOME.issue("/a", key="rsa2048")
    key = private_bytes(issued.key, Encoding.DER, sec1=True)

    with pytest.raises(MessageError, match="not unencrypted PKCS#8"):
        parse_svid_response(svid_response(svid_message(issued, HOME, x509_svid_key=key)))


def test_different_bundles_for_one_trust_domain_trust_nobody_of_it_wa_15() -> None:
    other_root = Authority("example.org").der
    two_svids = (svid_message(MINE, HOME), svid_message(OTHER, HOME, bundle=HOME.der + other_root))
    for data, domain in (
        (svid_response(svid_message(MINE, HOME), federated={"example.org": AWAY.der}),
         "example.org"),
        (svid_response(svid_message(MINE, HOME), federated={
            "partner.test": AWAY.der, "spiffe://partner.test": AWAY.der + other_root}),
         "partner.test"),
        (svid_response(*two_svids), "example.org"),
    ):  # fmt: skip
        update = parse_svid_response(data)
        assert update.svids
        assert update.bundles[domain].roots == ()
        assert "different bundles" in update.bundles[domain].problem


def test_one_bundle_sent_twice_is_one_bundle() -> None:
    federated = {
        "example.org": HOME.der,
        "partner.test": AWAY.der,
        "spiffe://partner.test": AWAY.der,
    }

    update = parse_svid_response(svid_response(svid_message(MINE, HOME), federated=federated))

    assert update.bundles == {"example.org": HOME.bundle, "partner.test": AWAY.bundle}
    assert update.problems == ()


def test_svids_of_several_trust_domains_bring_their_own_bundles() -> None:
    data = svid_response(svid_message(MINE, HOME), svid_message(AWAY.issue("/a"), AWAY))

    assert parse_svid_response(data).bundles == {
        "example.org": HOME.bundle,
        "partner.test": AWAY.bundle,
    }


def test_crls_come_with_the_bundles() -> None:
    crl = HOME.crl([OTHER])

    update = parse_svid_response(svid_response(svid_message(MINE, HOME), crls=[crl]))

    assert update.bundles["example.org"].crls == (crl,)
    assert update.problems == ()


@pytest.mark.parametrize(
    "crl",
    [b"", b"\x30\x03abc", HOME.crl().public_bytes(Encoding.PEM)],
    ids=["empty", "no CRL", "PEM"],
)
def test_a_crl_of_nobody_knows_whom_ends_the_trust_in_everybody(crl: bytes) -> None:
    message = workload_pb2.X509SVIDResponse(svids=[svid_message(MINE, HOME)], crl=[crl])
    message.federated_bundles["partner.test"] = AWAY.der

    update = parse_svid_response(message.SerializeToString())

    assert [str(svid.spiffe_id) for svid in update.svids] == [MINE.spiffe_id]
    assert [bundle.roots for bundle in update.bundles.values()] == [(), ()]
    assert all("CRL that can't be read" in problem for problem in update.problems)


def test_a_crl_that_can_not_be_applied_is_kept_for_its_issuer_and_told() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    crl = HOME.crl(extensions=[(unknown, True)])
    federated = {"partner.test": AWAY.der}

    update = parse_svid_response(
        svid_response(svid_message(MINE, HOME), federated=federated, crls=[crl])
    )

    assert update.bundles["example.org"].crls == (crl,)
    assert update.bundles["partner.test"].roots == AWAY.bundle.roots
    [problem] = update.problems
    assert "'CN=CA of example.org'" in problem
    assert "unknown critical extension 1.2.3.4" in problem


def test_an_expired_svid_is_well_formed() -> None:
    long_ago = HOME.now.replace(year=2001)
    issued = HOME.issue("/a", not_before=long_ago, not_after=long_ago.replace(year=2002))

    assert parse_svid_response(svid_response(svid_message(issued, HOME))).svids


def test_a_certificate_of_an_unknown_version_is_refused() -> None:
    version_3 = b"\xa0\x03\x02\x01\x02"
    assert version_3 in MINE.der[0]

    with pytest.raises(MessageError, match="98 is not a valid X509 version"):
        parse_svid_response(
            spoiled(x509_svid=MINE.der[0].replace(version_3, version_3[:-1] + b"\x62", 1))
        )
