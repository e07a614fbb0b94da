"""The Workload API's JWT messages: decoded to fields and encoded to bytes, by both sides.

Tokens and bundles stay text and bytes here.  Rules as in `workload_messages`.  Source:
`workloadapi.proto` of the SPIFFE Workload API, and `google/protobuf/struct.proto` for claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from uproxy.spiffe.protobuf import read_text, write_double, write_fields, write_varint
from uproxy.spiffe.workload_messages import (
    MAX_BUNDLES,
    MAX_SVIDS,
    decode_entry,
    encode_entry,
    read_known,
)

MAX_AUDIENCE = 256
"""How many audiences one request may name."""

_NULL, _NUMBER, _TEXT, _BOOLEAN, _OBJECT, _LIST = range(1, 7)
"""The field numbers of google.protobuf.Value."""


@dataclass(frozen=True, slots=True)
class JwtSvidRequest:
    """The message JWTSVIDRequest."""

    audience: tuple[str, ...] = ()
    spiffe_id: str = ""
    """Empty: every identity of the caller."""


@dataclass(frozen=True, slots=True)
class WireJwtSvid:
    """The message JWTSVID."""

    spiffe_id: str = ""
    token: str = field(default="", repr=False)
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ValidateRequest:
    """The message ValidateJWTSVIDRequest."""

    audience: str = ""
    token: str = field(default="", repr=False)


def encode_jwt_svid_request(request: JwtSvidRequest) -> bytes:
    """Encode a JWTSVIDRequest."""
    names = [(1, each.encode()) for each in request.audience]
    return write_fields([*names, *_given((2, request.spiffe_id))])


def decode_jwt_svid_request(data: bytes) -> JwtSvidRequest:
    """Decode a JWTSVIDRequest.

    Raises:
        MessageError: it isn't one.
    """
    what = "JWTSVIDRequest"
    known = read_known(data, what, {1: MAX_AUDIENCE, 2: MAX_SVIDS})
    audience = tuple(read_text(each, 1, what) for each in known[1])
    return JwtSvidRequest(audience, _last(known, 2, what))


def encode_jwt_svid_response(svids: Iterable[WireJwtSvid]) -> bytes:
    """Encode a JWTSVIDResponse."""
    return write_fields(
        (1, write_fields(_given((1, each.spiffe_id), (2, each.token), (3, each.hint))))
        for each in svids
    )


def decode_jwt_svid_response(data: bytes) -> tuple[WireJwtSvid, ...]:
    """Decode a JWTSVIDResponse.

    Raises:
        MessageError: it isn't one.
    """
    known = read_known(data, "JWTSVIDResponse", {1: MAX_SVIDS})
    return tuple(_decode_svid(each) for each in known[1])


def encode_jwt_bundles_response(bundles: Iterable[tuple[str, bytes]]) -> bytes:
    """Encode a JWTBundlesResponse out of (trust domain, JWKS) pairs."""
    return write_fields((1, encode_entry(each)) for each in bundles)


def decode_jwt_bundles_response(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """Decode a JWTBundlesResponse into (trust domain as written, JWKS) pairs; repeated ones are
    kept.

    Raises:
        MessageError: it isn't one.
    """
    known = read_known(data, "JWTBundlesResponse", {1: MAX_BUNDLES})
    return tuple(decode_entry(each) for each in known[1])


def decode_validate_request(data: bytes) -> ValidateRequest:
    """Decode a ValidateJWTSVIDRequest.

    Raises:
        MessageError: it isn't one.
    """
    what = "ValidateJWTSVIDRequest"
    known = read_known(data, what, {1: MAX_SVIDS, 2: MAX_SVIDS})
    return ValidateRequest(_last(known, 1, what), _last(known, 2, what))


def encode_validate_response(spiffe_id: str, claims: Mapping[str, object]) -> bytes:
    """Encode a ValidateJWTSVIDResponse."""
    return write_fields([(1, spiffe_id.encode()), (2, _object(claims))])


def _decode_svid(data: bytes) -> WireJwtSvid:
    what = "JWTSVID"
    known = read_known(data, what, {1: MAX_SVIDS, 2: MAX_SVIDS, 3: MAX_SVIDS})
    return WireJwtSvid(*(_last(known, number, what) for number in (1, 2, 3)))


def _last(known: Mapping[int, list[bytes]], number: int, what: str) -> str:
    """Return a singular string: if it is repeated the last one counts."""
    texts = [read_text(each, number, what) for each in known[number]]
    return texts[-1] if texts else ""


def _given(*texts: tuple[int, str]) -> list[tuple[int, bytes]]:
    return [(number, text.encode()) for number, text in texts if text]


def _object(members: Mapping[str, object]) -> bytes:
    """Encode a google.protobuf.Struct."""
    return write_fields(
        (1, write_fields([(1, _utf8(name)), (2, _value(value))])) for name, value in members.items()
    )


def _value(value: object) -> bytes:
    """Encode a google.protobuf.Value."""
    match value:
        case bool():
            return write_varint(_BOOLEAN, value)
        case int() | float():
            return write_double(_NUMBER, value)
        case str():
            return write_fields([(_TEXT, _utf8(value))])
        case list():
            return write_fields([(_LIST, write_fields((1, _value(each)) for each in value))])
        case dict():
            return write_fields([(_OBJECT, _object(value))])
    return write_varint(_NULL, 0)


def _utf8(text: str) -> bytes:
    # JSON may have half of a surrogate pair, protobuf may not
    return text.encode(errors="replace")
