"""Any text as a SPIFFE ID, a trust domain and a pattern: a value, or SpiffeIdError."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["uproxy"]):
    from uproxy.errors import SpiffeIdError
    from uproxy.spiffe.ids import IdentityPattern, SpiffeId, TrustDomain

_EVERYBODY = IdentityPattern.parse("spiffe://example.org/**")


def check(data: bytes) -> None:
    """Read `data`, bare and behind what makes it nearly right."""
    text = data.decode("utf-8", "surrogateescape")
    for candidate in (text, f"spiffe://{text}", f"spiffe://example.org/{text}"):
        with contextlib.suppress(SpiffeIdError):
            _check_id(candidate)
        with contextlib.suppress(SpiffeIdError):
            _check_pattern(candidate)
    with contextlib.suppress(SpiffeIdError):
        assert TrustDomain.parse(text).name.isascii()


def _check_id(text: str) -> None:
    identity = SpiffeId.parse(text)
    canonical = str(identity)
    assert canonical.isascii()
    assert canonical.isprintable()
    assert canonical.lower() == text.lower()
    assert SpiffeId.parse(canonical) == identity
    assert _EVERYBODY.matches(identity) == (identity.trust_domain.name == "example.org")
    if identity.path:
        assert IdentityPattern.parse(canonical).matches(identity)


def _check_pattern(text: str) -> None:
    pattern = IdentityPattern.parse(text)
    assert IdentityPattern.parse(str(pattern)) == pattern
    filled = "/".join("x" if "*" in segment else segment for segment in pattern.segments)
    assert pattern.matches(SpiffeId.parse(f"spiffe://{pattern.trust_domain}/{filled}"))


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
