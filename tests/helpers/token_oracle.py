"""Checks our reading of tokens against PyJWT's whole validation; for property tests and fuzzing."""

from __future__ import annotations

import base64
import json

import jwt
from jwt.types import Options

from uproxy.errors import UntrustedError
from uproxy.lab.tokens import TokenAuthority
from uproxy.spiffe.jwt_svids import ALGORITHMS, JwtSvid, verify_jwt_svid

AUDIENCE = "spiffe://example.org/ns/db/sa/orders"
HOME = TokenAuthority("example.org")
_BUNDLES = {"example.org": HOME.bundle}
GOOD = HOME.token("/a", AUDIENCE, life=86_400)
SAID = verify_jwt_svid(GOOD, _BUNDLES, AUDIENCE, HOME.now)


def check_token(token: str) -> JwtSvid | None:
    """Return what a token says; None: it was refused.

    Raises:
        AssertionError: PyJWT refuses what we believe, or reads something else.
    """
    try:
        ours = verify_jwt_svid(token, _BUNDLES, AUDIENCE, HOME.now)
    except UntrustedError:
        return None
    options: Options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
    theirs = jwt.decode(token, HOME.key.public_key(), list(ALGORITHMS), options, audience=AUDIENCE)
    assert theirs["sub"].lower() == ours.spiffe_id.lower()
    assert theirs["exp"] == ours.expires.timestamp()
    return SAID if ours == SAID else ours


def part(content: object) -> str:
    """Return a part of a token: bytes as they are, anything else as JSON."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
