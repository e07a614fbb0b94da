"""Compares our decoding of Workload API messages with Google's; for property tests and fuzzing."""

from __future__ import annotations

import contextlib

from spiffe._proto import workload_pb2

from uproxy.errors import MessageError
from uproxy.spiffe.workload_messages import (
    WireSvid,
    decode_svid_response,
    encode_svid_response,
)
from uproxy.spiffe.workload_update import parse_svid_response


def check_message(data: bytes) -> None:
    """Decode `data` as an X509SVIDResponse in both ways and compare.

    Raises:
        AssertionError: we accept what protobuf doesn't, or decode something else.
    """
    with contextlib.suppress(MessageError):
        _check_svids(data)


def _check_svids(data: bytes) -> None:
    ours = decode_svid_response(data)
    theirs = workload_pb2.X509SVIDResponse.FromString(data)
    assert [_as_ours(svid) for svid in theirs.svids] == list(ours.svids)
    assert tuple(theirs.crl) == ours.crl
    assert dict(theirs.federated_bundles) == dict(ours.federated_bundles)
    assert decode_svid_response(encode_svid_response(ours)) == ours
    parse_svid_response(data)


def _as_ours(svid: workload_pb2.X509SVID) -> WireSvid:
    return WireSvid(svid.spiffe_id, svid.x509_svid, svid.x509_svid_key, svid.bundle, svid.hint)


def spoil(message: bytes, patches: bytes) -> bytes:
    """Overwrite single bytes: each three bytes of `patches` are an offset and a value."""
    spoiled = bytearray(message)
    for at in range(0, len(patches) - 2, 3):
        offset = int.from_bytes(patches[at : at + 2], "big") % len(spoiled)
        spoiled[offset] = patches[at + 2]
    return bytes(spoiled)
