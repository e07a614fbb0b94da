"""Any bytes as CRLs, and a good one with bytes overwritten: usable CRLs, or BundleError."""

from __future__ import annotations

import sys
import warnings

import atheris

with atheris.instrument_imports(include=["uproxy"]):
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from tests.helpers.workload_oracle import spoil
    from uproxy.errors import BundleError
    from uproxy.lab.pki import Authority
    from uproxy.spiffe.bundles import parse_crls
    from uproxy.spiffe.crls import revocations_by

_CA = Authority("example.org")
_REVOKED = _CA.issue()
_CRL = _CA.crl(
    [_REVOKED],
    extensions=[
        (x509.CRLNumber(7), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(_CA.key.public_key()), False),
    ],
    entry_extensions=[(x509.CRLReason(x509.ReasonFlags.key_compromise), False)],
)
_GOOD = (_CRL.public_bytes(Encoding.PEM), _CRL.public_bytes(Encoding.DER))


def check(data: bytes) -> None:
    """Read `data`, and what befell a good CRL; what the CA did not sign says nothing."""
    for candidate in (data, *(spoil(good, data) for good in _GOOD)):
        try:
            crls = parse_crls(candidate)
        except BundleError as error:
            _check_refusal(error)
            continue
        found = revocations_by(_CA.root, crls)
        if found.next_updates:
            assert found.serials == {_REVOKED.certificate.serial_number}


def _check_refusal(error: BundleError) -> None:
    assert str(error).isprintable(), error


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    # cryptography warns of what it still accepts, such as a negative serial number
    warnings.simplefilter("ignore")
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
