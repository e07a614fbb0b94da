"""Compares our decoding of Workload API messages with Google's; for property tests and fuzzing."""

from __future__ import annotations

import contextlib

from spiffe._proto import workload_pb2

from uproxy.errors import MessageError
from uproxy.spiffe.jwt_messages import (
    JwtSvidRequest,
    WireJwtSvid,
    decode_jwt_bundles_response,
    decode_jwt_svid_request,
    decode_jwt_svid_response,
    encode_jwt_svid_request,
    encode_jwt_svid_response,
)
from uproxy.spiffe.workload_messages import (
    WireSvid,
    decode_svid_response,
    encode_svid_response,
)
from uproxy.spiffe.workload_update import parse_svid_response


def check_message(data: bytes) -> None:
    """Decode `data` as each message in both ways and compare.

    Raises:
        AssertionError: we accept what protobuf doesn't, or decode something else.
    """
    for check in (_check_svids, _check_tokens, _check_jwt_bundles, _check_request):
        with contextlib.suppress(MessageError):
            check(data)


def _check_svids(data: bytes) -> None:
    ours = decode_svid_response(data)
    theirs = workload_pb2.X509SVIDResponse.FromString(data)
    assert [_as_ours(svid) for svid in theirs.svids] == list(ours.svids)
    assert tuple(theirs.crl) == ours.crl
    assert dict(theirs.federated_bundles) == dict(ours.federated_bundles)
    assert decode_svid_response(encode_svid_response(ours)) == ours
    parse_svid_response(data)


def _check_tokens(data: bytes) -> None:
    ours = decode_jwt_svid_response(data)
    theirs = workload_pb2.JWTSVIDResponse.FromString(data)
    assert [WireJwtSvid(each.spiffe_id, each.svid, each.hint) for each in theirs.svids] == [*ours]
    assert decode_jwt_svid_response(encode_jwt_svid_response(ours)) == ours


def _check_jwt_bundles(data: bytes) -> None:
    ours = decode_jwt_bundles_response(data)
    assert dict(workload_pb2.JWTBundlesResponse.FromString(data).bundles) == dict(ours)


def _check_request(data: bytes) -> None:
    ours = decode_jwt_svid_request(data)
    theirs = workload_pb2.JWTSVIDRequest.FromString(data)
    assert JwtSvidRequest(tuple(theirs.audience), theirs.spiffe_id) == ours
    assert decode_jwt_svid_request(encode_jwt_svid_request(ours)) == ours


def _as_ours(svid: workload_pb2.X509SVID) -> WireSvid:
    return WireSvid(svid.spiffe_id, svid.x509_svid, svid.x509_svid_key, svid.bundle, svid.hint)


def spoil(message: bytes, patches: bytes) -> bytes:
    """Overwrite single bytes: each three bytes of `patches` are an offset and a value."""
    spoiled = bytearray(message)
    for at in range(0, len(patches) - 2, 3):
        offset = int.from_bytes(patches[at : at + 2], "big") % len(spoiled)
        spoiled[offset] = patches[at + 2]
    return bytes(spoiled)
