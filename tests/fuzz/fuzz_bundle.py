"""Any bytes as a bundle, and good bundles with bytes overwritten: a Bundle, or BundleError."""

from __future__ import annotations

import contextlib
import sys
import warnings

import atheris

with atheris.instrument_imports(include=["uproxy"]):
    from tests.helpers.workload_oracle import spoil
    from uproxy.errors import BundleError
    from uproxy.lab.pki import Authority
    from uproxy.spiffe.bundles import parse_bundle, parse_certificates, parse_jwks

_CA = Authority("example.org")
_GOOD = (_CA.pem * 2, _CA.der * 2, _CA.jwks)


def check(data: bytes) -> None:
    """Read `data` in every form, and as what befell a good bundle on its way."""
    for candidate in (data, *(spoil(good, data) for good in _GOOD)):
        for parse in (parse_bundle, parse_certificates, parse_jwks):
            with contextlib.suppress(BundleError):
                parse("example.org", candidate)


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    # cryptography warns of what it still accepts, such as a negative serial number
    warnings.simplefilter("ignore")
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
