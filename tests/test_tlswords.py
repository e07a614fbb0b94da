"""What goes wrong in TLS has the names that OpenSSL has for it, or better ones."""

from __future__ import annotations

import pytest
from cryptography.hazmat.bindings._rust import _openssl
from OpenSSL import SSL

from uproxy.tlswords import ALERTS, CAUSES

_SSL = 20
"""ERR_LIB_SSL."""
_ALERT = 1000
"""What the reason of an alert that was received is above (SSL_AD_REASON_OFFSET)."""


def words(library: int, reason: int) -> str:
    said = _openssl.lib.ERR_reason_error_string(library << 23 | reason)
    return "" if said == _openssl.ffi.NULL else _openssl.ffi.string(said).decode()


@pytest.fixture(autouse=True)
def _loaded() -> None:
    SSL.Context(SSL.TLS_METHOD)  # its words come with the first


def test_an_alert_has_openssls_name() -> None:
    american = {"user cancelled": "user canceled"}
    for number, name in ALERTS.items():
        said = words(_SSL, _ALERT + number)
        for british, ours in american.items():
            said = said.replace(british, ours)
        assert said.endswith(name), number


def test_a_cause_is_looked_up_under_words_that_openssl_says() -> None:
    said = {words(library, reason) for library in range(64) for reason in range(100, 500)}
    assert set(CAUSES) <= said
