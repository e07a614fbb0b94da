"""What is known of signers spares strangers' costs and friends' time, and lets nobody in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from uproxy import libssl
from uproxy.errors import UntrustedError
from uproxy.identity import anchors
from uproxy.identity.anchors import Anchors
from uproxy.identity.diagnosis import Roots
from uproxy.identity.vouching import Search
from uproxy.lab.pki import Authority, Issued
from uproxy.model import Alert
from uproxy.spiffe import encoding
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.outline import Outline

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
CA = Authority("example.org", now=NOW)


def made(*roots: Authority) -> Anchors:
    bundle = Bundle("example.org", tuple(each.root for each in roots or (CA,)))
    return Anchors(bundle, Roots({"example.org": bundle}))


def path_of(domain: Anchors, peer: Issued, now: datetime | None = NOW) -> tuple[bytes, ...]:
    """Return the path without the leaf."""
    leaf = Outline(peer.der[0])
    return tuple(each.der for each in domain.path(leaf, peer.der, now)[1:])


def alert_of(domain: Anchors, peer: Issued, now: datetime | None = NOW) -> Alert:
    with pytest.raises(UntrustedError) as caught:
        path_of(domain, peer, now)
    assert caught.value.rule == "X5-14"
    return caught.value.alert


def deep(root: Authority, levels: int, **quirks: Any) -> Authority:
    for _ in range(levels):
        root = root.intermediate(**quirks)
    return root


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many certificates OpenSSL was given, each time: it checks a signature of each."""
    counts: list[int] = []
    validate = libssl.Anchor.validate

    def counted(anchor: libssl.Anchor, path: Sequence[bytes]) -> list[int]:
        counts.append(len(path))
        return validate(anchor, path)

    monkeypatch.setattr(libssl.Anchor, "validate", counted)
    return counts


@pytest.fixture
def sought(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The certificates that were sought from the roots downward, a signature each."""
    found: list[bytes] = []
    search_all = Search.reachable_from_roots

    def reachable_from_roots(search: Search, strangers: Any, above: Any) -> Any:
        found.extend(each.der for each in strangers)
        return search_all(search, strangers, above)

    monkeypatch.setattr(Search, "reachable_from_roots", reachable_from_roots)
    return found


def test_below_a_path_that_is_known_only_the_leaf_is_validated(validated: list[int]) -> None:
    domain, lower = made(), deep(CA, 3)
    for _ in range(3):
        peer = lower.issue()
        assert path_of(domain, peer) == (*peer.der[1:], CA.der)
    assert validated == [4, 1, 1]


def test_a_strangers_leaf_below_true_signers_costs_one_signature(
    validated: list[int], sought: list[bytes]
) -> None:
    """It may present as many as there are, and that nobody has come with yet."""
    domain, lowest = made(), deep(CA, 9)
    for _ in range(3):
        assert alert_of(domain, lowest.issue(forged=True)) is Alert.UNKNOWN_CA
    assert validated == [10, 1, 1]
    assert len(sought) == 9
    assert path_of(domain, lowest.issue())[-1] == CA.der
    assert validated[3:] == [1]


def test_a_path_is_known_only_as_a_whole() -> None:
    """What may be at one depth may not be at another."""
    domain, upper = made(), CA.intermediate(path_length=0)
    lower = upper.intermediate()
    for _ in range(2):
        assert path_of(domain, upper.issue())
        assert alert_of(domain, lower.issue()) is Alert.BAD_CERTIFICATE
        assert alert_of(domain, lower.issue(forged=True)) is Alert.BAD_CERTIFICATE


def test_a_signer_that_is_known_below_one_is_not_known_below_another() -> None:
    """Two certificates of one CA: only the second one constrains names."""
    domain, upper = made(), CA.intermediate()
    constraining = CA.intermediate(permitted=(x509.DNSName("a.test"),))
    constraining.key = upper.key
    other = constraining._build(constraining._how, upper.key, CA)
    peer = upper.intermediate().issue(dns=("b.test",))
    for _ in range(2):
        assert path_of(domain, peer)
        presented = Issued((*peer.chain[:2], other), peer.key)
        assert alert_of(domain, presented) is Alert.BAD_CERTIFICATE


def test_a_signer_that_is_no_ca_is_not_remembered(sought: list[bytes]) -> None:
    """Whoever has the key of an SVID can make any number of them."""
    domain, below = made(), CA.intermediate(ca=False)
    for _ in range(3):
        assert alert_of(domain, below.issue()) is Alert.BAD_CERTIFICATE
    assert len(sought) == 3


def test_nothing_is_sought_below_what_is_no_ca(sought: list[bytes]) -> None:
    below = CA.intermediate(ca=False)
    assert alert_of(made(), below.intermediate().intermediate().issue()) is Alert.UNKNOWN_CA
    assert len(sought) == 3  # each once, among the roots


@pytest.mark.parametrize("quirks", [{"path_length": 0}, {"ca": False}, {"ca": None}], ids=str)
def test_a_path_is_known_only_if_openssl_has_taken_it(quirks: dict[str, Any]) -> None:
    """It takes a name in other letters for the root's, looks at nothing in between, and finds that
    the root hasn't signed the leaf: of the rest it has said nothing."""
    root = Authority("example.org", subject="Example CA", now=NOW)
    between = root.intermediate(**quirks).intermediate(subject="example ca")
    domain = made(root)
    for _ in range(3):
        assert alert_of(domain, between.issue(aki=False)) in (
            Alert.UNKNOWN_CA,
            Alert.BAD_CERTIFICATE,
        )


def test_a_root_that_is_presented_as_leaf_is_refused() -> None:
    upper = CA.intermediate()
    bundle = Bundle("example.org", (upper.certificate,))
    domain = Anchors(bundle, Roots({"example.org": bundle}))
    shown = Issued((upper.certificate,), upper.key)
    assert alert_of(domain, shown) is Alert.UNKNOWN_CA


def again(
    old: x509.Certificate, signer: Authority, *, ends: datetime | None = None,
    issuer: x509.Name | None = None, names: x509.AuthorityKeyIdentifier | None = None,
) -> x509.Certificate:  # fmt: skip
    """A certificate with the same key and extensions, but for what is given."""
    builder = (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(old.subject)
        .issuer_name(issuer or old.issuer)
        .public_key(old.public_key())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(ends or old.not_valid_after_utc)
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer.key, SHA256())


@pytest.mark.parametrize("goes_first", [True, False])
def test_signers_outlive_the_root_they_were_found_by_if_it_was_renewed(goes_first: bool) -> None:
    soon = NOW + timedelta(minutes=5)
    bundles = (Bundle("example.org", (CA.root, again(CA.root, CA, ends=soon))) for _ in range(1000))
    # roots are tried in the order of their DER
    bundle = next(each for each in bundles if (each.roots[1] == CA.root) is goes_first)
    domain, peer = Anchors(bundle, Roots({"example.org": bundle})), CA.intermediate().issue()
    assert path_of(domain, peer)
    assert path_of(domain, peer, soon + SECOND)[-1] == encoding.der(CA.root)
    # without a time roots that have ended count too
    assert path_of(domain, peer, None)
    assert path_of(domain, peer, soon + SECOND)[-1] == encoding.der(CA.root)


@pytest.mark.parametrize(
    ("last", "value"),
    [(7, "300c300a0402000130040302000a"), (8, "3007a0053003020105")],
)  # fmt: skip
def test_resources_that_a_root_has_not_are_no_leafs_whatever_is_known(
    last: int, value: str
) -> None:
    """RFC 3779 sections 2.3 and 3.3: those of a certificate are part of its signer's."""
    oid = x509.ObjectIdentifier(f"1.3.6.1.5.5.7.1.{last}")
    some = x509.UnrecognizedExtension(oid, bytes.fromhex(value))  # 10.0.0.0/8; system 5
    lower = CA.intermediate(extensions=((some, False),))
    domain = made()
    for _ in range(2):
        assert path_of(domain, lower.issue())
        wants = lower.issue(extensions=((some, False),))
        assert alert_of(domain, wants) is Alert.BAD_CERTIFICATE


def test_the_path_is_the_one_that_openssl_has_taken() -> None:
    """It follows a serial number past the signer whose name is written as the leaf writes it."""
    signer = CA.intermediate()
    capitals = "INTERMEDIATE 1 OF EXAMPLE.ORG"
    passed_over = signer.intermediate(subject=capitals)
    names = x509.AuthorityKeyIdentifier(
        None, [x509.DirectoryName(CA.root.subject)], signer.certificate.serial_number
    )
    old = signer.issue(aki=False)
    issuer = passed_over.certificate.subject
    leaf = again(old.certificate, signer, issuer=issuer, names=names)
    peer = Issued((leaf, passed_over.certificate, signer.certificate), old.key)
    domain = made()
    for _ in range(2):
        assert path_of(domain, peer) == (encoding.der(signer.certificate), CA.der)


def test_what_is_wrong_with_a_path_is_wrong_each_time() -> None:
    domain = made()
    wrong: list[tuple[dict[str, Any], Alert, Alert]] = [
        ({"ca": False}, Alert.BAD_CERTIFICATE, Alert.UNKNOWN_CA),
        ({"unknown_critical": True}, Alert.BAD_CERTIFICATE, Alert.BAD_CERTIFICATE),
        ({"forged": True}, Alert.UNKNOWN_CA, Alert.UNKNOWN_CA),
    ]
    for quirks, alert, further_below in wrong:
        upper: Authority = CA.intermediate(**quirks)
        for _ in range(2):
            for forged in (True, False):
                assert alert_of(domain, upper.issue(forged=forged)) is alert
                lower = upper.intermediate().issue(forged=forged)
                assert alert_of(domain, lower) is further_below


def _constraining() -> Iterator[Authority]:
    only: dict[str, Any] = {"permitted": (x509.DNSName("a.test"),)}
    yield CA.intermediate(**only)
    yield CA.intermediate(**only).intermediate()
    yield deep(CA.intermediate(**only), 2)


@pytest.mark.parametrize("lower", [*_constraining()], ids=["first", "second", "third"])
def test_every_signer_constrains_the_names_of_each_leaf(lower: Authority) -> None:
    domain = made()
    for _ in range(3):
        assert path_of(domain, lower.issue(dns=("x.a.test",)))
        assert alert_of(domain, lower.issue(dns=("b.test",))) is Alert.BAD_CERTIFICATE
        assert alert_of(domain, lower.issue(dns=("b.test",), forged=True)) is Alert.UNKNOWN_CA


def test_only_above_the_first_signer_constraints_have_the_whole_path_validated(
    validated: list[int],
) -> None:
    domain, upper = made(), CA.intermediate(permitted=(x509.DNSName("a.test"),))
    for each in (upper, upper, lower := upper.intermediate(), lower):
        assert path_of(domain, each.issue())
    assert validated == [2, 1, 3, 3]


def test_a_refusal_names_the_issuer_that_is_missing() -> None:
    domain, below = made(), CA.intermediate()
    for peer, issuer in (
        (below.issue(forged=True), "CN=intermediate 1 of example.org"),
        (CA.issue(forged=True), "CN=CA of example.org"),
    ):
        for _ in range(2):
            with pytest.raises(UntrustedError, match=f"ends at issuer '{issuer}'"):
                path_of(domain, peer)


def test_a_root_constrains_the_names_of_each_leaf() -> None:
    root = Authority("example.org", now=NOW, excluded=(x509.DNSName("a.test"),))
    domain, lower = made(root), root.intermediate()
    for _ in range(3):
        assert path_of(domain, lower.issue(dns=("b.test",)))
        assert alert_of(domain, lower.issue(dns=("x.a.test",))) is Alert.BAD_CERTIFICATE


def test_what_is_known_ends_with_its_time_all_the_same() -> None:
    domain, brief = made(), CA.intermediate(not_after=NOW)
    assert path_of(domain, brief.issue())
    assert alert_of(domain, brief.issue(), NOW + SECOND) is Alert.CERTIFICATE_EXPIRED
    assert path_of(domain, brief.issue(), None)
    # the leaf's time is the verifier's
    assert path_of(domain, CA.issue(not_before=NOW - 2 * SECOND, not_after=NOW - SECOND))


def test_who_is_known_is_known_through_those_that_are_presented() -> None:
    domain, lower = made(), deep(CA, 2)
    peer = lower.issue()
    assert path_of(domain, peer)
    for others in ((), peer.chain[1:2], peer.chain[2:]):
        presented = Issued((peer.chain[0], *others), peer.key)
        assert alert_of(domain, presented) is Alert.UNKNOWN_CA


def test_strangers_take_no_room_among_what_is_remembered(
    sought: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchors, "MAX_REMEMBERED", 1)
    domain, below = made(), CA.intermediate()
    assert path_of(domain, below.issue())
    for _ in range(3):
        stranger = Authority("example.org", now=NOW).intermediate()
        assert alert_of(domain, stranger.issue()) is Alert.UNKNOWN_CA
    sought.clear()
    assert path_of(domain, below.issue())
    assert sought == []


def test_of_what_is_remembered_nothing_goes_while_there_is_room(
    sought: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchors, "MAX_REMEMBERED", 2)
    domain = made()
    first, second, third = (CA.intermediate() for _ in range(3))
    for each in (first, second, first, second, third, first):
        assert path_of(domain, each.issue())
    # the third didn't fit beside the two, so that they were forgotten
    expected = [first, second, third, first]
    assert sought == [encoding.der(each.certificate) for each in expected]


def test_who_is_known_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def outline(der: bytes, certificate: x509.Certificate | None = None) -> Outline:
        read.append(der)
        return Outline(der, certificate)

    monkeypatch.setattr(anchors, "Outline", outline)
    domain, lower = made(), deep(CA, 2)
    for _ in range(3):
        assert path_of(domain, lower.issue())
    assert read == [CA.der, *lower.issue().der[1:]]


def test_openssl_reads_each_path_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def anchor(der: bytes) -> libssl.Anchor:
        read.append(der)
        return libssl.Anchor(der)

    monkeypatch.setattr(anchors, "Anchor", anchor)
    domain, below = made(), CA.intermediate()
    for _ in range(2):
        assert alert_of(domain, below.issue(forged=True)) is Alert.UNKNOWN_CA
        assert path_of(domain, below.issue())
    assert read == [CA.der, encoding.der(below.certificate)]


def test_few_paths_are_remembered(validated: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors, "MAX_PATHS", 2)
    domain = made()
    first, second, third = (CA.intermediate() for _ in range(3))
    for each in (first, second, first, third, third, first):
        assert path_of(domain, each.issue())
    # the third didn't fit beside the two, so that they were forgotten
    assert validated == [2, 2, 1, 2, 1, 2]


def test_a_certificate_that_is_presented_twice_counts_once(sought: list[bytes]) -> None:
    domain, lower = made(), deep(CA, 2)
    leaf, *above = lower.issue().chain
    peer = Issued((leaf, leaf, *above, CA.root, *above), lower.key)
    assert path_of(domain, peer) == (*lower.issue().der[1:], CA.der)
    assert sought == [encoding.der(each) for each in above]


def test_nothing_of_a_stranger_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[x509.Certificate] = []
    monkeypatch.setattr(encoding, "decode", decoded.append)
    domain, stranger = made(), deep(Authority("example.org", now=NOW), 9)
    assert alert_of(domain, stranger.issue()) is Alert.UNKNOWN_CA
    assert alert_of(domain, CA.issue(forged=True)) is Alert.UNKNOWN_CA
    assert decoded == []


def test_a_certificate_that_is_none_is_refused_wherever_it_is() -> None:
    leaf = CA.issue().der[0]
    with pytest.raises(UntrustedError, match="can't be read") as caught:
        made().path(Outline(leaf), (leaf, b"x"), NOW)
    assert caught.value.alert is Alert.BAD_CERTIFICATE
