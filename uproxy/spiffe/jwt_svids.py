"""Checks a JWT-SVID: its subject, its audience, its times, and that its trust domain signed it.

Pure: the time is passed in.  Rules `JW-…` of docs/reference/spiffe-rules.md: header and claims are
checked before the signature, because that costs most, and nothing is believed until the signature
is right; the key is looked for in the bundle of the subject's own trust domain and nowhere else;
what the standard doesn't allow in a header is refused, `crit` and `b64` too.  PyJWT verifies the
signature, and is imported for the first one.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from uproxy.errors import SpiffeIdError, UntrustedError
from uproxy.model import Alert
from uproxy.spiffe.ids import SpiffeId
from uproxy.spiffe.jwt_bundles import JwtBundle, JwtPublicKey
from uproxy.spiffe.strict_json import read_object

if TYPE_CHECKING:
    from uproxy.lean.tokens import PyJWS

MAX_TOKEN_BYTES: Final = 8 << 10
"""A token with a SPIFFE ID of 2,048 bytes and one such audience, signed with RSA of 8,192 bits, has
about 7 KiB; common ones have half of one."""

LEEWAY: Final = timedelta(seconds=60)
"""How far the issuer's clock may be ahead of ours (`nbf`, `iat`): tokens aren't backdated as
certificates are.  `exp` is compared without it."""

ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
)
"""The only ones a JWT-SVID may be signed with (JWT-SVID §2.1)."""

_TYPES: Final = (None, "JWT", "JOSE")
_HEADERS: Final = frozenset(("alg", "kid", "typ"))
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_SHOWN: Final = 120  # characters of a token's words in a message


@dataclass(frozen=True, slots=True)
class JwtSvid:
    """The claims of a token that was verified."""

    spiffe_id: str
    audience: tuple[str, ...]
    expires: datetime
    """UTC.  From then on it is refused."""


@dataclass(frozen=True, slots=True)
class Unverified:
    """Header and claims of a token whose signature wasn't checked."""

    algorithm: str
    kid: str
    svid: JwtSvid
    claims: Mapping[str, object]


def verify_jwt_svid(
    token: str, bundles: Mapping[str, JwtBundle], audience: str, now: datetime
) -> JwtSvid:
    """Verify a token that must be for `audience`, and return its claims; `bundles` are by trust
    domain name.

    Raises:
        UntrustedError: it isn't valid; names the rule.
    """
    said = read_jwt_svid(token, now)
    if audience not in said.svid.audience:
        names = ", ".join(map(_shown, said.svid.audience[:3]))
        raise _bad("JW-6", f"the token is for {names}, not for {audience}")
    _check_signature(token, said, _signer(said, bundles))
    return said.svid


def read_jwt_svid(token: str, now: datetime) -> Unverified:
    """Read a token without checking its audience and signature: for tokens that our own agent gave
    us, and for `verify_jwt_svid`.

    Raises:
        UntrustedError: it isn't a JWT-SVID that is valid at `now`.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise _bad("UP-1", f"a token of {len(token)} bytes; at most {MAX_TOKEN_BYTES} are read")
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise _bad("JW-1", "it isn't a token in JWS compact serialization")
    algorithm, kid = _read_header(_object(parts[1], "the token's header"))
    claims = _object(parts[2], "the token's payload")
    expires = _check_times(claims, now)
    return Unverified(algorithm, kid, JwtSvid(_subject(claims), _audience(claims), expires), claims)


def _object(part: str, what: str) -> dict[str, object]:
    try:
        return read_object(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), what)
    except ValueError as error:
        raise _bad("JW-1", str(error)) from error


def _read_header(header: dict[str, object]) -> tuple[str, str]:
    """Return algorithm and key name."""
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise _bad("JW-3", f"the token's 'alg' is {_shown(algorithm)}, which no JWT-SVID may have")
    if unknown := sorted(header.keys() - _HEADERS):
        raise _bad(
            "JW-2", f"the token has a header {_shown(unknown[0])}, which no JWT-SVID may have"
        )
    if kind not in _TYPES:
        raise _bad("JW-4", f"the token's 'typ' is {_shown(kind)}, neither JWT nor JOSE")
    if not isinstance(kid, str) or not kid:
        raise _bad("JW-8", "the token doesn't name its key ('kid')")
    return algorithm, kid


def _subject(claims: dict[str, object]) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise _bad("JW-5", "the token has no subject ('sub')")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except SpiffeIdError as error:
        raise _bad("JW-5", f"the token's subject: {error}") from error
    if not spiffe_id.path:
        raise _bad("JW-5", f"the token's subject {spiffe_id} names a trust domain, not a workload")
    return str(spiffe_id)


def _audience(claims: dict[str, object]) -> tuple[str, ...]:
    audience = claims.get("aud")
    found = [audience] if isinstance(audience, str) else audience
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise _bad("JW-6", "the token names no audience ('aud')")
    return tuple(found)


def _check_times(claims: dict[str, object], now: datetime) -> datetime:
    """Return when the token expires."""
    if "exp" not in claims:
        raise _bad("JW-7", "the token never expires (no 'exp')")
    expires = _date(claims, "exp")
    if now >= expires:
        raise _bad("JW-7", f"the token expired at {expires.isoformat()}: are both clocks right?")
    for name in ("nbf", "iat"):
        if name in claims and (begins := _date(claims, name)) > now + LEEWAY:
            words = f"the token isn't valid before {begins.isoformat()} ({name!r})"
            raise _bad("JW-7", f"{words}: are both clocks right?")
    return expires


def _date(claims: dict[str, object], name: str) -> datetime:
    """Return a NumericDate (RFC 7519 §2)."""
    value = claims[name]
    # JSON's true is an int in Python
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError, OSError, ValueError):  # beyond the year 9999
            return datetime.fromtimestamp(value, UTC)
    raise _bad("JW-7", f"the token's {name!r} is {_shown(value)}, not a date")


def _signer(said: Unverified, bundles: Mapping[str, JwtBundle]) -> JwtPublicKey:
    domain = SpiffeId.parse(said.svid.spiffe_id).trust_domain.name
    bundle = bundles.get(domain)
    if bundle is None:
        raise _bad("WA-18", f"there is no JWT bundle of {domain}, so its tokens are not accepted")
    if bundle.problem:
        raise _bad("WA-18", bundle.problem)
    found = bundle.keys.get(said.kid)
    if found is None:
        raise _bad("JW-9", f"the JWT bundle of {domain} has no key {_shown(said.kid)}")
    if found.key is None:
        words = f"the key {_shown(said.kid)} of {domain} can't be used: {found.problem}"
        raise _bad("JW-9", words)
    if found.algorithm not in (None, said.algorithm):
        words = f"is only for {_shown(found.algorithm)}, and the token's 'alg' is {said.algorithm}"
        raise _bad("JW-3", f"the key {_shown(said.kid)} of {domain} {words}")
    return found.key


def _check_signature(token: str, said: Unverified, key: JwtPublicKey) -> None:
    # imported here to save memory: most uProxies never see a token
    from uproxy.lean.tokens import PyJWTError

    try:
        _signatures().decode_complete(token, key, [said.algorithm])
    except (PyJWTError, TypeError, ValueError) as error:
        words = f"the token about {said.svid.spiffe_id} isn't signed by the key {_shown(said.kid)}"
        raise _bad("JW-10", f"{words}: {error}") from error


@functools.cache
def _signatures() -> PyJWS:
    from uproxy.lean.tokens import PyJWS

    return PyJWS(tuple(ALGORITHMS))


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN]


def _bad(rule: str, reason: str) -> UntrustedError:
    # the alert is never sent: no handshake ends with it
    return UntrustedError(rule, reason, Alert.CERTIFICATE_UNKNOWN)
