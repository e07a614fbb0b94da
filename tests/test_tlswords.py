"""What goes wrong in TLS has the names that OpenSSL has for it, or better ones."""

from __future__ import annotations

import pytest
from cryptography.hazmat.bindings._rust import _openssl
from OpenSSL import SSL

from uproxy import tlswords
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
        said = words(_SSL, _ALERT + number) or {121: "ech required"}[number]  # RFC 9849
        for british, ours in american.items():
            said = said.replace(british, ours)
        assert said.endswith(name), number


def test_a_cause_is_looked_up_under_words_that_openssl_says() -> None:
    said = {words(library, reason) for library in range(64) for reason in range(100, 500)}
    assert set(CAUSES) <= said


def test_openssl_knows_no_alert_that_has_no_name_here() -> None:
    assert {number for number in range(256) if words(_SSL, _ALERT + number)} <= set(ALERTS)


def test_an_alert_says_who_refused_whom_and_what_to_look_for() -> None:
    ours = "spiffe://example.org/ns/web/sa/frontend"
    assert tlswords.refusal("the peer", 48, ours) == (
        "the peer refused our certificate (unknown ca): it may lack a bundle for example.org"
    )
    assert tlswords.refusal("the peer", 46, ours) == (
        f"the peer refused our certificate (certificate unknown): it wants another identity than "
        f"{ours}, or can't tell: its log says why"
    )
    assert tlswords.refusal("the peer", 48, None).endswith("a bundle for our trust domain")


@pytest.mark.parametrize("number", range(256))
def test_every_alert_that_can_come_has_plain_words(number: int) -> None:
    """Also when we show `{}`, which no SPIFFE ID has."""
    said = tlswords.refusal("the peer", number, "spiffe://example.org/{}")
    name = ALERTS.get(number, f"alert {number}")
    assert said.startswith("the peer ")
    assert f" ({name}): " in said
    specific = not said.endswith("off (" + name + "): its log says why")
    assert specific == (number in ALERTS)
