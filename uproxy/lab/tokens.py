"""JWT signing keys made at run time, whose tokens can have any defect.

`TokenAuthority("example.org")` signs for a trust domain: `.token("/ns/web/sa/frontend", AUDIENCE)`
returns a valid JWT-SVID, with `claims`, `headers` or `key` an invalid one; `.jwks` is its bundle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.api_jws import PyJWS

from uproxy.spiffe.jwt_bundles import JwtBundle, parse_jwt_bundle

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def make_signing_key(algorithm: str) -> SigningKey:
    """Return a new key for tokens with this `alg`."""
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    return rsa.generate_private_key(65537, 2048)


def jwt_jwk(kid: str, key: SigningKey, **members: object) -> dict[str, Any]:
    """Return the public key as an entry of a JWKS; a member that is None is left out."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        made = RSAAlgorithm.to_jwk(public, as_dict=True)
    else:
        made = ECAlgorithm.to_jwk(public, as_dict=True)
    made = {name: made[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in made}
    made = {**made, "use": "jwt-svid", "kid": kid, **members}
    return {name: value for name, value in made.items() if value is not None}


class TokenAuthority:
    """One key of a trust domain."""

    def __init__(self, trust_domain: str, algorithm: str = "ES256", kid: str = "first") -> None:
        self.trust_domain = trust_domain
        self.algorithm = algorithm
        self.kid = kid
        self.key = make_signing_key(algorithm)
        self.now = datetime.now(UTC)

    @property
    def jwks(self) -> bytes:
        """The key, as a SPIFFE bundle document."""
        return json.dumps({"keys": [jwt_jwk(self.kid, self.key)]}).encode()

    @property
    def bundle(self) -> JwtBundle:
        """The key, as tokens are checked against it."""
        return parse_jwt_bundle(self.trust_domain, self.jwks)

    def claims(self, path: str, *audience: str, life: float = 300) -> dict[str, Any]:
        """Return the claims of a valid token that begins at `now` and lasts `life` seconds."""
        return {
            "sub": f"spiffe://{self.trust_domain}{path}",
            "aud": list(audience),
            "iat": int(self.now.timestamp()),
            "exp": int((self.now + timedelta(seconds=life)).timestamp()),
        }

    def token(
        self,
        path: str,
        *audience: str,
        claims: Mapping[str, object] | bytes | None = None,
        headers: Mapping[str, object] | None = None,
        key: SigningKey | None = None,
        life: float = 300,
    ) -> str:
        """Return a token; `claims` and `headers` replace its own, and None leaves one out; `claims`
        as bytes are the payload as they are."""
        whole = {**self.claims(path, *audience, life=life), **_changes(claims)}
        payload = claims if isinstance(claims, bytes) else json.dumps(_given(whole)).encode()
        head: dict[str, Any] = {"typ": "JWT", "kid": self.kid, **(headers or {})}
        # PyJWT leaves out an empty typ
        head = {**_given(head), "typ": head["typ"]}
        return PyJWS().encode(payload, key or self.key, self.algorithm, head)


def _changes(claims: Mapping[str, object] | bytes | None) -> Mapping[str, object]:
    return {} if claims is None or isinstance(claims, bytes) else claims


def _given(members: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}
