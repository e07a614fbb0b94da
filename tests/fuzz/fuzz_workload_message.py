"""Workload API messages: any bytes, and a good message with any bytes overwritten."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["uproxy"]):
    from tests.helpers.workload_api import svid_message, svid_response
    from tests.helpers.workload_oracle import check_message, spoil
    from uproxy.lab.pki import Authority

_HOME, _AWAY = Authority("example.org"), Authority("partner.test")
_ISSUED = _HOME.issue("/a")
_GOOD = svid_response(
    svid_message(_ISSUED, _HOME),
    federated={"spiffe://partner.test": _AWAY.der},
    crls=[_HOME.crl([_ISSUED])],
)


def check(data: bytes) -> None:
    """Judge `data` as a message, and as what befell a good one on its way."""
    check_message(data)
    check_message(spoil(_GOOD, data))


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
