"""The self-check: what the border refuses to start with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from uproxy.errors import EngineError
from uproxy.libssl import Session, binding, selfcheck
from uproxy.libssl.binding import ffi

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_the_loaded_library_is_the_tested_one() -> None:
    found = selfcheck.check()
    assert found.cryptography == selfcheck.TESTED_CRYPTOGRAPHY
    assert found.openssl.startswith(f"OpenSSL {selfcheck.TESTED_OPENSSL}.")


def test_the_tested_version_is_the_pinned_one() -> None:
    """A new release of cryptography brings another OpenSSL: the border must be looked at."""
    pinned = re.search(r'"cryptography==([\d.]+)"', PYPROJECT.read_text())
    assert pinned is not None
    assert pinned.group(1) == selfcheck.TESTED_CRYPTOGRAPHY


def test_another_version_is_refused_with_the_tested_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryptography.__version__", "51.0.0")
    with pytest.raises(EngineError, match=r"51\.0\.0 .* tested with cryptography 50\.0\.2"):
        selfcheck.check()


def test_a_missing_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "NAMES", (*binding.NAMES, "SSL_CTX_ctrl"))
    with pytest.raises(EngineError, match=r"lacks SSL_CTX_ctrl; uProxy was tested with"):
        selfcheck.check()


def test_a_handshake_that_fails_in_the_rehearsal_refuses_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what OpenSSL is to believe in it is left out
    monkeypatch.setattr(selfcheck, "expect_ok", lambda _result, _what: None)
    monkeypatch.setattr(selfcheck, "x509_from", lambda _der: ffi.NULL)
    with pytest.raises(EngineError, match="throw-away handshake"):
        selfcheck.check()


def test_a_peer_that_python_refuses_in_the_rehearsal_refuses_the_python_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    selfcheck.check_callbacks()
    monkeypatch.setattr(Session, "verify_result", lambda _self: 28)
    with pytest.raises(EngineError, match="throw-away handshake"):
        selfcheck.check_callbacks()
