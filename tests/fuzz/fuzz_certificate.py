"""Any bytes as a peer's chain, and good chains with bytes overwritten: only what was issued
is believed, and every refusal is an UntrustedError."""

from __future__ import annotations

import sys
import warnings
from datetime import datetime

import atheris

with atheris.instrument_imports(include=["uproxy"]):
    from cryptography import x509

    from tests.helpers.workload_oracle import spoil
    from uproxy.errors import UntrustedError
    from uproxy.identity.credentials import Credentials
    from uproxy.identity.verifier import Verifier
    from uproxy.lab.pki import Authority
    from uproxy.model import Role

_CA = Authority("example.org")
_NOW: datetime = _CA.now
_BELOW = _CA.intermediate()
_CHAINS = (
    _CA.issue().der,
    _BELOW.issue("/ns/a/sa/b", dns=("a.test",), ips=("::1",), emails=("a@b.test",)).der,
    _BELOW.intermediate(permitted=(x509.DNSName("a.test"),)).issue(subject=None).der,
)
_ISSUED = {x509.load_der_x509_certificate(chain[0]).tbs_certificate_bytes for chain in _CHAINS}
_VERIFIER = Verifier(Credentials(None, "", {"example.org": _CA.bundle}, 1))


def check(data: bytes) -> None:
    """Judge `data` as a leaf, and as what befell each certificate of a good chain."""
    _check_chain((data,))
    _check_chain((data, *_CHAINS[1][1:]))
    for chain in _CHAINS:
        for spoiled in range(len(chain)):
            _check_chain((*chain[:spoiled], spoil(chain[spoiled], data), *chain[spoiled + 1 :]))


def _check_chain(chain: tuple[bytes, ...]) -> None:
    for role in Role:
        try:
            peer = _VERIFIER.verify(chain, role, _NOW)
        except UntrustedError as error:
            _check_refusal(error)
            continue
        leaf = x509.load_der_x509_certificate(peer.chain[0])
        assert leaf.tbs_certificate_bytes in _ISSUED


def _check_refusal(error: UntrustedError) -> None:
    assert error.rule
    assert str(error).isprintable(), error


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    # cryptography warns of what it still accepts, such as a negative serial number
    warnings.simplefilter("ignore")
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
