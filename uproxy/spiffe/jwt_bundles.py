"""JWT bundles: the public keys against which one trust domain's JWT-SVIDs are checked.

A JWKS has them beside the roots for X509-SVIDs; `bundles` reads those.  Rules (`JW-…` and `TB-…` of
docs/reference/spiffe-rules.md): a bundle knows its trust domain and is never merged with another's;
only entries with `use` `jwt-svid` count, and where all keys are for tokens those without `use`; a
key that can't be used, or whose `kid` names two keys, stays in the bundle with the reason, so that
a token that names it is refused in words.  PyJWT reads the keys, and is imported when the first
bundle is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from uproxy.errors import BundleError
from uproxy.spiffe import encoding
from uproxy.spiffe.ids import TrustDomain
from uproxy.spiffe.strict_json import read_object
from uproxy.spiffe.svid import key_problem

MAX_KEYS = 256
"""How many keys a bundle may have; SPIRE publishes one to three."""

_USE = "jwt-svid"
_KEY_TYPES = ("RSA", "EC", "OKP")
_PUBLIC = {"EC": ("crv", "x", "y"), "RSA": ("n", "e")}
"""The members of a JWK that make the public key; others, a private key's too, are left out."""

JwtPublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class JwtKey:
    """One public key, with the `kid` by which tokens choose it."""

    kid: str
    key: JwtPublicKey | None
    """None where `problem` says why."""
    algorithm: str | None = None
    """The only algorithm that it may be used with (`alg`); None: any that fits the key."""
    problem: str = ""
    """Why it can't be used; empty where it can."""


@dataclass(frozen=True, slots=True)
class JwtBundle:
    """The keys of one trust domain."""

    trust_domain: str
    """Its name, lower case."""
    keys: Mapping[str, JwtKey] = field(default_factory=lambda: MappingProxyType({}))
    """The keys by their `kid`; empty: no token of the domain is believed."""
    problem: str = ""
    """Why the bundle can't be used; empty where it can."""

    def __post_init__(self) -> None:
        TrustDomain(self.trust_domain)

    @property
    def is_usable(self) -> bool:
        """Whether a token of the domain can be believed."""
        return any(each.key is not None for each in self.keys.values())


def distrusted_jwt(trust_domain: str, problem: str) -> JwtBundle:
    """Return the bundle that replaces one that can't be used: none of its tokens is accepted."""
    return JwtBundle(trust_domain, problem=f"no JWT-SVID of {trust_domain} is accepted: {problem}")


def parse_jwt_bundle(
    trust_domain: str, data: bytes, *, for_tokens_alone: bool = False
) -> JwtBundle:
    """Read the keys for JWT-SVIDs in a JWKS (Trust Domain and Bundle §4, JWT-SVID §6).

    Args:
        for_tokens_alone: it comes from where there are no other keys, so that a key which doesn't
            say its `use` is one of them: SPIRE's agent sends them so.

    Raises:
        BundleError: it isn't a JWKS; says why.
    """
    if len(data) > encoding.MAX_BYTES:
        raise BundleError(f"{len(data)} bytes; at most {encoding.MAX_BYTES} are read")
    try:
        entries = read_object(data, "the JWKS").get("keys")
    except ValueError as error:
        raise BundleError(str(error)) from error
    if not isinstance(entries, list):
        raise BundleError("the JWKS has no list 'keys' (TB-4)")
    keys: dict[str, JwtKey] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise BundleError("an entry of 'keys' is not a JSON object")
        kid = entry.get("kid")
        # without a name no token can choose it
        uses = (_USE, None) if for_tokens_alone else (_USE,)
        if _is_for_tokens(entry, uses) and isinstance(kid, str) and kid:
            found = _key(kid, entry)
            keys[kid] = found if keys.get(kid, found) == found else _ambiguous(found)
    if len(keys) > MAX_KEYS:
        raise BundleError(f"the JWKS has {len(keys)} keys for JWT-SVIDs; at most {MAX_KEYS}")
    return JwtBundle(trust_domain, MappingProxyType(keys))


def _is_for_tokens(entry: dict[str, object], uses: tuple[str | None, ...]) -> bool:
    return entry.get("use") in uses and entry.get("kty") in _KEY_TYPES


def _ambiguous(key: JwtKey) -> JwtKey:
    return replace(key, key=None, problem="two keys of the bundle have this kid (JW-8)")


def _key(kid: str, entry: dict[str, object]) -> JwtKey:
    algorithm = entry.get("alg")
    if algorithm is not None and not isinstance(algorithm, str):
        return JwtKey(kid, None, problem="its 'alg' is not a string")
    try:
        key = _public_key(entry)
    except ValueError as error:
        return JwtKey(kid, None, algorithm, str(error))
    return JwtKey(kid, key, algorithm)


def _public_key(entry: dict[str, object]) -> JwtPublicKey:
    """Return the public key of a JWK.

    Raises:
        ValueError: it can't be read, or is weak.
    """
    # imported here to save memory: most uProxies never see a token
    from uproxy.lean.tokens import ECAlgorithm, PyJWTError, RSAAlgorithm

    kind = str(entry["kty"])
    if kind not in _PUBLIC:
        raise ValueError(f"no algorithm of JWT-SVIDs uses keys of the type {kind} (JW-3)")
    public = {name: entry.get(name) for name in _PUBLIC[kind]}
    if not all(isinstance(value, str) for value in public.values()):
        raise ValueError(f"it lacks one of {', '.join(public)}, or it is not a string")
    reader = ECAlgorithm if kind == "EC" else RSAAlgorithm
    try:
        key = reader.from_jwk({"kty": kind, **public})
    except (PyJWTError, ValueError, TypeError) as error:
        raise ValueError(f"it can't be read: {encoding.first_line(error)}") from error
    assert isinstance(key, JwtPublicKey)  # noqa: S101  for mypy: no private member was given
    if problem := key_problem(key):
        raise ValueError(problem)
    return key
