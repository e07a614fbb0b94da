"""The keys with which one trust domain signs JWT-SVIDs, over time.

No clock: `tick(now)` does what is due, and `due()` says when to call it next.  Rules: a new key is
published before it signs; the old one stays published until the last token that it signed has
expired; keys live in memory only.
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from uproxy.lean.tokens import ECAlgorithm, PyJWS
from uproxy.spiffe.jwt_bundles import JwtBundle, parse_jwt_bundle

PUBLISH_FIRST = timedelta(seconds=1)
"""How long a new root or key is in the bundle before anything is signed with it."""


class JwtKey:
    """One key pair on P-256."""

    def __init__(self, now: datetime, lifetime: timedelta) -> None:
        self.kid = secrets.token_urlsafe(16)
        self.half_life = now + lifetime / 2
        self.last_expiry = now
        """When the last token that it has signed expires."""
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, Any]:
        """Its public half, as an entry of a bundle."""
        public = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        members = {name: public[name] for name in ("kty", "crv", "x", "y")}
        return {"use": "jwt-svid", "kid": self.kid, **members}

    def sign(self, spiffe_id: str, audience: tuple[str, ...], now: datetime, ttl: timedelta) -> str:
        """Return a token that is valid for `ttl`, in whole seconds."""
        expires = now.replace(microsecond=0) + ttl
        self.last_expiry = max(self.last_expiry, expires)
        claims = {
            "sub": spiffe_id,
            "aud": list(audience),
            "exp": int(expires.timestamp()),
            "iat": int(now.timestamp()),
        }
        header = {"typ": "JWT", "kid": self.kid}
        return PyJWS().encode(json.dumps(claims).encode(), self._key, "ES256", header)


class JwtKeys:
    """The keys of one trust domain."""

    def __init__(self, trust_domain: str, now: datetime, lifetime: timedelta) -> None:
        self._trust_domain = trust_domain
        self._lifetime = lifetime
        self._active = JwtKey(now, lifetime)
        self._next: tuple[JwtKey, datetime] | None = None  # set between publishing and signing
        self._retired: list[JwtKey] = []

    @property
    def jwks(self) -> bytes:
        """All keys against which tokens are valid, as a JWKS."""
        keys = [*self._retired, self._active, *(self._next or ())[:1]]
        return json.dumps({"keys": [key.jwk for key in keys]}).encode()

    @property
    def bundle(self) -> JwtBundle:
        """The same, as tokens are checked against them."""
        return parse_jwt_bundle(self._trust_domain, self.jwks)

    def sign(self, spiffe_id: str, audience: tuple[str, ...], now: datetime, ttl: timedelta) -> str:
        """Return a new token."""
        return self._active.sign(spiffe_id, audience, now, ttl)

    def rotate(self, now: datetime) -> None:
        """Publish a new key that will sign after PUBLISH_FIRST.  Does nothing during a rotation."""
        if self._next is None:
            self._next = (JwtKey(now, self._lifetime), now + PUBLISH_FIRST)

    def tick(self, now: datetime) -> None:
        """Do everything that is due at `now`."""
        if now >= self._active.half_life:
            self.rotate(now)
        if self._next is not None and now >= self._next[1]:
            self._retired.append(self._active)
            self._active, self._next = self._next[0], None
        self._retired = [key for key in self._retired if key.last_expiry > now]

    def due(self) -> datetime:
        """Return when `tick` must be called next."""
        next_step = self._next[1] if self._next else self._active.half_life
        return min([next_step, *(key.last_expiry for key in self._retired)])
