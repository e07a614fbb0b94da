"""The JWT messages of the Workload API, as Google's protobuf reads and writes them."""

from __future__ import annotations

import math

import pytest
from google.protobuf.json_format import MessageToDict
from spiffe._proto import workload_pb2

from uproxy.errors import MessageError
from uproxy.spiffe.jwt_messages import (
    MAX_AUDIENCE,
    JwtSvidRequest,
    ValidateRequest,
    WireJwtSvid,
    decode_jwt_bundles_response,
    decode_jwt_svid_request,
    decode_jwt_svid_response,
    decode_validate_request,
    encode_jwt_bundles_response,
    encode_jwt_svid_request,
    encode_jwt_svid_response,
    encode_validate_response,
)

REQUEST = JwtSvidRequest(("one", "zwölf"), "spiffe://example.org/a")
SVIDS = (WireJwtSvid("spiffe://example.org/a", "token", "hint"), WireJwtSvid("b", "other"))
BUNDLES = (("spiffe://example.org", b"{}"), ("partner.test", b"\xff"))


def test_a_request_for_a_token_is_googles() -> None:
    theirs = workload_pb2.JWTSVIDRequest(audience=REQUEST.audience, spiffe_id=REQUEST.spiffe_id)
    assert encode_jwt_svid_request(REQUEST) == theirs.SerializeToString()
    assert decode_jwt_svid_request(theirs.SerializeToString()) == REQUEST
    assert decode_jwt_svid_request(b"") == JwtSvidRequest()


def test_tokens_are_googles() -> None:
    theirs = workload_pb2.JWTSVIDResponse(
        svids=[
            workload_pb2.JWTSVID(spiffe_id=each.spiffe_id, svid=each.token, hint=each.hint)
            for each in SVIDS
        ]
    )
    assert encode_jwt_svid_response(SVIDS) == theirs.SerializeToString()
    assert decode_jwt_svid_response(theirs.SerializeToString()) == SVIDS


def test_bundles_are_googles() -> None:
    theirs = workload_pb2.JWTBundlesResponse(bundles=dict(BUNDLES))
    assert sorted(decode_jwt_bundles_response(theirs.SerializeToString())) == sorted(BUNDLES)
    back = workload_pb2.JWTBundlesResponse.FromString(encode_jwt_bundles_response(BUNDLES))
    assert dict(back.bundles) == dict(BUNDLES)


def test_a_request_to_validate_is_googles() -> None:
    theirs = workload_pb2.ValidateJWTSVIDRequest(audience="one", svid="token")
    assert decode_validate_request(theirs.SerializeToString()) == ValidateRequest("one", "token")


def test_claims_of_every_kind_are_googles() -> None:
    claims = {
        "text": "ä", "number": 1.5, "whole": 1700000000, "yes": True, "no": False, "nothing": None,
        "list": [1, "a", [], {}], "object": {"a": {"b": None}}, "": "",
    }  # fmt: skip
    data = encode_validate_response("spiffe://example.org/a", claims)
    theirs = workload_pb2.ValidateJWTSVIDResponse.FromString(data)
    assert theirs.spiffe_id == "spiffe://example.org/a"
    assert MessageToDict(theirs.claims) == claims


def test_claims_that_protobuf_has_no_place_for_come_as_near_as_may_be() -> None:
    claims = {"half \ud800": "\udc00", "huge": 10**400, "low": -(10**400)}
    data = encode_validate_response("a", claims)
    theirs = workload_pb2.ValidateJWTSVIDResponse.FromString(data).claims
    assert theirs["half ?"] == "?"
    assert (theirs["huge"], theirs["low"]) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    "decode", [decode_jwt_svid_request, decode_jwt_svid_response, decode_validate_request]
)
def test_what_is_another_message_is_refused(decode: object) -> None:
    assert callable(decode)
    for data in (b"\x0a", b"\x08\x01", b"\x0a\x05ab"):
        with pytest.raises(MessageError):
            decode(data)


def test_text_is_utf8_and_the_last_of_singular_ones_counts() -> None:
    with pytest.raises(MessageError, match="UTF-8"):
        decode_jwt_svid_response(b"\x0a\x03\x12\x01\xff")
    assert decode_validate_request(b"\x0a\x01a\x0a\x01b") == ValidateRequest("b", "")


def test_the_names_in_a_request_are_counted() -> None:
    most = JwtSvidRequest(("a",) * MAX_AUDIENCE)
    assert decode_jwt_svid_request(encode_jwt_svid_request(most)) == most
    with pytest.raises(MessageError, match="more than 256"):
        decode_jwt_svid_request(encode_jwt_svid_request(JwtSvidRequest(("a",) * 257)))


def test_a_token_that_is_printed_is_not_shown() -> None:
    assert "token" not in repr(WireJwtSvid("a", "my token")).replace("WireJwtSvid", "")
    assert "secret" not in repr(ValidateRequest("a", "secret"))
