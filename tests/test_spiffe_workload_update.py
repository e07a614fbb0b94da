"""Which Workload API messages may be used, and what they mean."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe._proto import workload_pb2

from tests.helpers.workload_api import svid_message, svid_response
from uproxy.errors import MessageError
from uproxy.lab.pki import Authority, private_bytes
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
def test_a_bundle_of_no_trust_domain_is_refused(key: str) -> None:
    with pytest.raises(MessageError, match="a bundle's key"):
        parse_svid_response(svid_response(svid_message(MINE, HOME), federated={key: AWAY.der}))


def test_a_message_without_svids_is_refused() -> None:
    with pytest.raises(MessageError, match="WA-10"):
        parse_svid_response(svid_response(federated={"partner.test": AWAY.der}))


@pytest.mark.parametrize("name", ["spiffe_id", "x509_svid", "x509_svid_key", "bundle"])
def test_an_empty_mandatory_field_is_refused(name: str) -> None:
    empty = "" if name == "spiffe_id" else b""

    with pytest.raises(MessageError, match=rf"an SVID without {name} \(WA-7\)"):
        parse_svid_response(spoiled(**{name: empty}))


def test_an_empty_federated_bundle_is_refused() -> None:
    with pytest.raises(MessageError, match=r"the bundle of partner.test is empty \(WA-7\)"):
        parse_svid_response(
            svid_response(svid_message(MINE, HOME), federated={"partner.test": b""})
        )


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
        ({"x509_svid": MINE.pem}, "WA-11"),
        ({"x509_svid": MINE.der[0] + b"rest"}, "WA-11"),
        ({"x509_svid": MINE.der[0][:-1]}, "WA-11"),
        ({"bundle": HOME.pem}, "WA-11"),
        ({"bundle": HOME.der[:-1]}, "WA-11"),
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


def test_an_rsa_key_in_pkcs1_is_refused() -> None:
    issued = HOME.issue("/a", key="rsa2048")
    key = private_bytes(issued.key, Encoding.DER, sec1=True)

    with pytest.raises(MessageError, match="not unencrypted PKCS#8"):
        parse_svid_response(svid_response(svid_message(issued, HOME, x509_svid_key=key)))


def test_a_federated_bundle_for_our_own_trust_domain_is_refused() -> None:
    data = svid_response(svid_message(MINE, HOME), federated={"example.org": AWAY.der})

    with pytest.raises(MessageError, match=r"more than one bundle for example.org \(WA-15\)"):
        parse_svid_response(data)


def test_one_trust_domain_written_in_two_ways_is_refused() -> None:
    federated = {"partner.test": AWAY.der, "spiffe://partner.test": AWAY.der}

    with pytest.raises(MessageError, match=r"more than one bundle for partner\.test"):
        parse_svid_response(svid_response(svid_message(MINE, HOME), federated=federated))


def test_svids_of_one_trust_domain_must_agree_on_its_bundle() -> None:
    other_root = Authority("example.org").der
    data = svid_response(
        svid_message(MINE, HOME), svid_message(OTHER, HOME, bundle=HOME.der + other_root)
    )

    with pytest.raises(MessageError, match=r"two different bundles for example\.org"):
        parse_svid_response(data)


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


@pytest.mark.parametrize(
    "crl",
    [b"", b"\x30\x03abc", HOME.crl().public_bytes(Encoding.PEM)],
    ids=["cut", "no CRL", "PEM"],
)
def test_a_crl_that_can_not_be_read_makes_the_message_bad(crl: bytes) -> None:
    message = workload_pb2.X509SVIDResponse(svids=[svid_message(MINE, HOME)], crl=[crl or b"\x30"])

    with pytest.raises(MessageError, match="a CRL of the message"):
        parse_svid_response(message.SerializeToString())


def test_a_crl_with_an_unknown_critical_extension_makes_the_message_bad() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    crl = HOME.crl(extensions=[(unknown, True)])

    with pytest.raises(MessageError, match="unknown critical extension"):
        parse_svid_response(svid_response(svid_message(MINE, HOME), crls=[crl]))


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
