"""One set of identity files: what fits, what doesn't, and what is told about it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.helpers.odd_certificates import rsassa_pss, with_printable_issuer
from uproxy.config.settings import FilesIdentity
from uproxy.errors import IdentityError, UnusableError
from uproxy.identity.file_set import FileSet, read_files
from uproxy.lab.pki import SERVER_AUTH, Authority, Issued, private_bytes
from uproxy.lab.tokens import TokenAuthority

NOBODY = 65534
NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
CA = Authority("example.org", now=NOW)
PARTNER = Authority("partner.test", now=NOW)
INTERMEDIATE = CA.intermediate()
EXPIRED: dict[str, Any] = {
    "not_before": NOW - timedelta(hours=2),
    "not_after": NOW - timedelta(hours=1),
}


@dataclass
class Files:
    """The files' contents before they are written."""

    folder: Path
    svid: bytes
    key: bytes
    bundles: dict[str, bytes] = field(default_factory=lambda: {"example.org": CA.pem})
    crls: tuple[bytes, ...] = ()
    key_mode: int = 0o600

    @property
    def settings(self) -> FilesIdentity:
        return FilesIdentity(
            svid=str(self.folder / "svid"),
            key=str(self.folder / "key"),
            bundles={domain: str(self.folder / domain) for domain in self.bundles},
            crls=tuple(str(self.folder / f"crl{number}") for number in range(len(self.crls))),
        )

    def write(self) -> None:
        contents: Mapping[str, bytes] = {
            "svid": self.svid,
            "key": self.key,
            **self.bundles,
            **{f"crl{number}": data for number, data in enumerate(self.crls)},
        }
        for name, data in contents.items():
            (self.folder / name).write_bytes(data)
        (self.folder / "key").chmod(self.key_mode)

    def read(self) -> FileSet:
        self.write()
        return read_files(self.settings, NOW)

    def error(self) -> str:
        with pytest.raises(IdentityError) as caught:
            self.read()
        return str(caught.value).removeprefix(f"{self.folder}/")


@pytest.fixture
def files(tmp_path: Path) -> Callable[[Issued], Files]:
    return lambda issued: Files(tmp_path, issued.pem, issued.key_pem)


MakeFiles = Callable[[Issued], Files]


def pem(*crls: x509.CertificateRevocationList) -> bytes:
    return b"".join(crl.public_bytes(Encoding.PEM) for crl in crls)


def test_every_form_of_every_file_is_read(files: MakeFiles) -> None:
    issued = INTERMEDIATE.issue()
    expected = files(issued).read()
    assert expected.svid.chain == issued.chain
    assert expected.warnings == ()
    der = replace(
        files(issued),
        svid=b"".join(issued.der),
        key=private_bytes(issued.key, Encoding.DER, sec1=True),
        bundles={"example.org": CA.der},
    )
    both = replace(files(issued), svid=issued.pem + issued.key_pem, key=issued.key_pem)
    jwks = replace(files(issued), bundles={"Example.ORG": CA.jwks})
    for other in (der, both, jwks):
        found = other.read()
        assert found.svid.chain == issued.chain
        assert found.bundles == expected.bundles


def test_a_root_behind_the_chain_is_not_sent(files: MakeFiles) -> None:
    issued = INTERMEDIATE.issue()
    found = replace(files(issued), svid=issued.pem + CA.pem).read()
    assert found.svid.chain == issued.chain


@pytest.mark.parametrize("name", ["example.org", "crl0"])
def test_a_missing_bundle_or_crl_is_named(files: MakeFiles, name: str) -> None:
    made = replace(files(CA.issue()), crls=(pem(CA.crl()),))
    made.write()
    (made.folder / name).unlink()
    (problem,) = read_files(made.settings, NOW).problems
    words = "no certificate of example.org is trusted"
    assert problem == f"{words}: {made.folder}/{name}: no such file"


@pytest.mark.parametrize("name", ["svid", "key"])
def test_a_missing_file_is_named(files: MakeFiles, name: str) -> None:
    made = files(CA.issue())
    made.write()
    (made.folder / name).unlink()
    with pytest.raises(IdentityError) as caught:
        read_files(made.settings, NOW)
    assert str(caught.value) == f"{made.folder}/{name}: no such file"


@pytest.mark.parametrize("name", ["svid", "key"])
def test_an_empty_file_is_named(files: MakeFiles, name: str) -> None:
    made = files(CA.issue())
    made.write()
    (made.folder / name).write_bytes(b"")
    with pytest.raises(IdentityError, match=f"/{name}: the file is empty"):
        read_files(made.settings, NOW)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_waited_for(files: MakeFiles, make: Callable[[Path], None]) -> None:
    made = files(CA.issue())
    made.write()
    (made.folder / "key").unlink()
    make(made.folder / "key")
    with pytest.raises(IdentityError, match="/key: not a regular file"):
        read_files(made.settings, NOW)


def test_an_unreadable_file_names_the_permission(files: MakeFiles) -> None:
    made = replace(files(CA.issue()), key_mode=0)
    made.write()
    us = os.geteuid()
    if us == 0:
        os.seteuid(NOBODY)  # root reads everything
    try:
        with pytest.raises(IdentityError, match="read permission"):
            read_files(made.settings, NOW)
    finally:
        os.seteuid(us)


def test_a_refusal_of_the_system_names_the_permission(
    files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = files(CA.issue())
    made.write()

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(IdentityError, match=r"not readable by user .* read permission"):
        read_files(made.settings, NOW)


def test_a_chain_that_is_no_chain_is_told(files: MakeFiles) -> None:
    assert (
        replace(files(CA.issue()), svid=b"hello")
        .error()
        .startswith("svid: not a certificate chain in PEM or DER")
    )


@pytest.mark.parametrize(
    ("rule", "issued"),
    [
        ("X5-1", CA.issue(uris=(), dns=("a.test",))),
        ("X5-2", CA.issue(uris=("spiffe://example.org/a", "spiffe://example.org/b"))),
        ("X5-4", CA.issue("")),
        ("X5-8", CA.issue(ca=True)),
        ("X5-12", CA.issue(key_usage=("digital_signature", "crl_sign"))),
    ],
    ids=["X5-1", "X5-2", "X5-4", "X5-8", "X5-12"],
)
def test_a_certificate_that_is_no_svid_is_told_by_rule(
    files: MakeFiles, rule: str, issued: Issued
) -> None:
    error = files(issued).error()
    assert error.startswith("svid: the first certificate is not an SVID")
    assert error.endswith(f"({rule})")


def test_a_chain_out_of_order_is_told(files: MakeFiles) -> None:
    issued = INTERMEDIATE.intermediate().issue()
    leaf, *above = issued.chain
    swapped = replace(issued, chain=(leaf, *reversed(above)))
    assert "certificate 1 is not signed by certificate 2" in files(swapped).error()
    missing = replace(issued, chain=(leaf, above[1]))
    assert "certificate 1 is not signed by certificate 2" in files(missing).error()


def test_a_chain_whose_names_have_other_kinds_of_strings_is_in_order(files: MakeFiles) -> None:
    issued = INTERMEDIATE.issue()
    leaf = with_printable_issuer(issued.certificate, INTERMEDIATE.key)
    found = files(replace(issued, chain=(leaf, *issued.chain[1:]))).read()
    assert found.svid.chain[0] == leaf


def test_a_key_of_another_certificate_is_told(files: MakeFiles) -> None:
    error = replace(files(CA.issue()), key=CA.issue().key_pem).error()
    assert error.startswith("key: this key is not the one of the certificate in ")


def test_an_encrypted_key_is_told(files: MakeFiles) -> None:
    issued = CA.issue()
    key = private_bytes(issued.key, Encoding.PEM, password=b"secret")
    assert replace(files(issued), key=key).error().startswith("key: the key is encrypted")


def test_an_expired_svid_is_told(files: MakeFiles) -> None:
    error = files(CA.issue(**EXPIRED)).error()
    assert error.startswith("svid: our SVID spiffe://example.org/ns/default/sa/workload expired at")


def test_an_expired_intermediate_ends_the_svid(files: MakeFiles) -> None:
    assert "expired at" in files(CA.intermediate(**EXPIRED).issue()).error()


def test_a_bundle_under_a_wrong_name_is_told(files: MakeFiles) -> None:
    error = replace(files(CA.issue()), bundles={"example org": CA.pem}).error()
    assert error.startswith("example org: not a bundle of example org")


def test_a_key_everybody_can_read_is_a_warning(files: MakeFiles) -> None:
    (warning,) = replace(files(CA.issue()), key_mode=0o644).read().warnings
    assert warning.endswith("every user here can read the key: chmod 0600")
    assert replace(files(CA.issue()), key_mode=0o640).read().warnings == ()


def test_an_svid_that_its_own_bundles_refuse_is_a_warning(files: MakeFiles) -> None:
    def warning(issued: Issued, bundles: dict[str, bytes]) -> str:
        (found,) = replace(files(issued), bundles=bundles).read().warnings
        return found

    assert warning(CA.issue(), {"partner.test": PARTNER.pem}).endswith("(X5-17)")
    assert warning(CA.issue(), {"example.org": b'{"keys": []}'}).endswith("(TB-5)")
    assert warning(PARTNER.issue(), {"partner.test": CA.pem}).endswith("(X5-14)")
    assert warning(CA.issue(eku=(SERVER_AUTH,)), {"example.org": CA.pem}).endswith("(X5-13)")


def test_a_crl_goes_with_the_bundle_whose_root_issued_it(files: MakeFiles) -> None:
    capitals = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA OF PARTNER.TEST")])
    ours, theirs = CA.crl(), PARTNER.crl(issuer=capitals)
    found = replace(
        files(CA.issue()),
        bundles={"example.org": CA.pem, "partner.test": PARTNER.pem},
        crls=(pem(ours, theirs),),
    ).read()
    assert found.bundles["example.org"].crls == (ours,)
    assert found.bundles["partner.test"].crls == (theirs,)
    assert found.warnings == ()


def test_a_crl_of_an_intermediate_goes_with_every_bundle_and_is_told(files: MakeFiles) -> None:
    crl = INTERMEDIATE.crl()
    found = replace(
        files(CA.issue()),
        bundles={"example.org": CA.pem, "partner.test": PARTNER.pem},
        crls=(crl.public_bytes(Encoding.DER),),
    ).read()
    assert [bundle.crls for bundle in found.bundles.values()] == [(crl,), (crl,)]
    (warning,) = found.warnings
    assert "no bundle's root issued this CRL" in warning


def test_a_crl_with_a_root_s_name_and_another_signature_ends_the_trust_in_that_domain(
    files: MakeFiles,
) -> None:
    found = replace(
        files(CA.issue()),
        bundles={"example.org": CA.pem, "partner.test": PARTNER.pem},
        crls=(pem(CA.crl(forged=True)),),
    ).read()
    assert found.bundles["example.org"].roots == ()
    assert found.bundles["partner.test"] == PARTNER.bundle
    (problem,) = found.problems
    assert "crl0: the signature is not that of 'CN=CA of example.org'" in problem


def test_a_crl_that_can_not_be_applied_is_its_issuers_and_a_problem(files: MakeFiles) -> None:
    delta = CA.crl(extensions=[(x509.DeltaCRLIndicator(1), True)])
    found = replace(
        files(CA.issue()),
        bundles={"example.org": CA.pem, "partner.test": PARTNER.pem},
        crls=(pem(delta),),
    ).read()
    assert found.bundles["example.org"].crls == (delta,)
    assert found.bundles["partner.test"] == PARTNER.bundle
    (problem,) = found.problems
    assert problem.endswith(
        "crl0: no certificate issued by 'CN=CA of example.org' is trusted: "
        "a delta CRL; only complete CRLs are applied"
    )


def test_a_crl_of_nobody_knows_whom_ends_the_trust_in_everybody(files: MakeFiles) -> None:
    for data, reason in (
        (b"damaged", "not usable CRLs"), (CA.pem, "not usable CRLs"), (b"", "the file is empty")
    ):  # fmt: skip
        found = replace(
            files(CA.issue()),
            bundles={"example.org": CA.pem, "partner.test": PARTNER.pem},
            crls=(pem(CA.crl()), data),
        ).read()
        assert [bundle.roots for bundle in found.bundles.values()] == [(), ()]
        assert all(f"crl1: {reason}" in problem for problem in found.problems)
        assert len(found.problems) == 2


BAD_BUNDLES = {
    "empty": b"",
    "half": PARTNER.pem[:200],
    "two, one of them damaged": PARTNER.pem + CA.pem.replace(b"MII", b"MIA"),
    "JWKS without keys": b"{}",
    "JWKS with garbage": b'{"keys": [{"use": "x509-svid", "kty": "EC", "x5c": ["AAAA"]}]}',
    "a workload's certificate": PARTNER.pem + PARTNER.issue().pem,
    "a CRL": PARTNER.crl().public_bytes(Encoding.PEM),
}


@pytest.mark.parametrize("data", BAD_BUNDLES.values(), ids=BAD_BUNDLES)
def test_a_bad_bundle_ends_the_trust_in_its_domain_and_nothing_else(
    files: MakeFiles, data: bytes
) -> None:
    issued = CA.issue()
    found = replace(files(issued), bundles={"example.org": CA.pem, "partner.test": data}).read()
    assert found.svid.chain == issued.chain
    assert found.bundles["example.org"] == CA.bundle
    assert found.bundles["partner.test"].roots == ()
    (problem,) = found.problems
    assert problem.startswith("no certificate of partner.test is trusted: ")
    assert found.warnings == ()


def test_an_empty_list_of_keys_trusts_nobody_without_being_a_problem(files: MakeFiles) -> None:
    empty = {"example.org": CA.pem, "partner.test": b'{"keys": []}'}
    found = replace(files(CA.issue()), bundles=empty).read()
    assert (found.bundles["partner.test"].roots, found.problems) == ((), ())


@pytest.mark.parametrize("kind", ["rsa1024", "p224"])
def test_a_key_that_tls_can_not_use_is_told_with_the_way_out(files: MakeFiles, kind: str) -> None:
    made = files(CA.issue(key=kind))
    with pytest.raises(UnusableError, match=r"can't be used.*P-256, P-384, P-521.* can"):
        made.read()


def test_an_rsassa_pss_key_of_ours_is_told_with_the_way_out(
    files: MakeFiles, tmp_path: Path
) -> None:
    """Peers may have one; ours would get a certificate that it doesn't fit, in OpenSSL's eyes."""
    key, certificate = rsassa_pss(CA, tmp_path)
    with pytest.raises(UnusableError, match=r"an RSASSA-PSS key can't be used.*rsaEncryption"):
        replace(files(CA.issue()), svid=certificate, key=key).read()


def test_our_own_revocation_is_a_warning(files: MakeFiles) -> None:
    issued = CA.issue()
    (warning,) = replace(files(issued), crls=(pem(CA.crl([issued])),)).read().warnings
    assert warning.endswith("(UP-2)")


def test_a_file_of_more_than_a_megabyte_is_not_read_whole(files: MakeFiles) -> None:
    issued = CA.issue()
    error = replace(files(issued), svid=issued.pem + b"#" * (5 << 20)).error()
    assert "1048577 bytes; at most 1048576" in error


def both(roots: Authority, signer: TokenAuthority) -> bytes:
    """A JWKS with roots and keys for tokens."""
    keys = [key for each in (roots, signer) for key in json.loads(each.jwks)["keys"]]
    return json.dumps({"keys": keys}).encode()


def test_keys_of_tokens_are_read_from_jwks_where_they_are_wanted(files: MakeFiles) -> None:
    signer = TokenAuthority("example.org")
    made = replace(
        files(CA.issue()), bundles={"Example.ORG": both(CA, signer), "partner.test": PARTNER.pem}
    )
    made.write()
    wanted = read_files(made.settings, NOW, with_jwt=True)
    assert wanted.jwt_bundles == {"example.org": signer.bundle}
    assert wanted.bundles == {"example.org": CA.bundle, "partner.test": PARTNER.bundle}
    assert read_files(made.settings, NOW).jwt_bundles == {}


def test_a_jwks_that_can_not_be_read_ends_the_belief_in_its_tokens(files: MakeFiles) -> None:
    made = replace(files(CA.issue()), bundles={"example.org": CA.pem, "partner.test": b"{"})
    made.write()
    found = read_files(made.settings, NOW, with_jwt=True)
    assert set(found.jwt_bundles) == {"partner.test"}
    assert found.jwt_bundles["partner.test"].problem in found.problems
    assert "no JWT-SVID of partner.test is accepted: " in found.jwt_bundles["partner.test"].problem
    (Path(made.settings.bundles["partner.test"])).unlink()
    gone = read_files(made.settings, NOW, with_jwt=True).jwt_bundles
    assert "no such file" in gone["partner.test"].problem
