"""Any bytes as a token, as parts of one, and as a JWT bundle: refused, or what PyJWT reads."""

from __future__ import annotations

import base64
import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["uproxy", "jwt"]):
    from tests.helpers.token_oracle import AUDIENCE, GOOD, HOME, check_token
    from tests.helpers.workload_oracle import spoil
    from uproxy.errors import BundleError
    from uproxy.spiffe.jwt_bundles import parse_jwt_bundle

_HEADER, _PAYLOAD, _SIGNATURE = GOOD.split(".")


def check(data: bytes) -> None:
    """Read `data` in every place, and as what befell a good token or bundle on its way."""
    text = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    check_token(data.decode("latin-1"))
    check_token(spoil(GOOD.encode(), data).decode("latin-1"))
    check_token(f"{text}.{_PAYLOAD}.{_SIGNATURE}")
    check_token(f"{_HEADER}.{text}.{_SIGNATURE}")
    check_token(f"{_HEADER}.{_PAYLOAD}.{text}")
    check_token(HOME.token("/a", AUDIENCE, claims=data))
    for bundle in (data, spoil(HOME.jwks, data)):
        with contextlib.suppress(BundleError):
            parse_jwt_bundle("example.org", bundle)


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
