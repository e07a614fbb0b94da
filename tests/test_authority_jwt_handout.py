"""Which tokens and keys each caller gets, and what is said of a token."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.json_format import MessageToDict
from spiffe._proto import workload_pb2

from uproxy.authority import CallingProcess, Definition, DomainDefinition, EntryDefinition
from uproxy.authority.calls import CallRefusedError
from uproxy.authority.handout import DomainSet
from uproxy.authority.jwt_handout import fetch_jwt_svid, jwt_bundles, validate_jwt_svid
from uproxy.identity.workload_api.framing import Status
from uproxy.spiffe.jwt_bundles import parse_jwt_bundle
from uproxy.spiffe.jwt_messages import JwtSvidRequest, encode_jwt_svid_request
from uproxy.spiffe.jwt_svids import JwtSvid, verify_jwt_svid

ME = CallingProcess(1, 1000, 100, None)
NOBODY = CallingProcess(1, 1, 1, None)
NOW = datetime.now(UTC).replace(microsecond=0)
A, B = "spiffe://home.test/a", "spiffe://home.test/b"


def domain(name: str, *federates_with: str) -> DomainDefinition:
    entries = tuple(EntryDefinition(f"spiffe://{name}/{each}", each, uid=1000) for each in "ba")
    return DomainDefinition(name, entries, federates_with=federates_with)


DEFINITION = Definition(
    {
        "home.test": domain("home.test", "away.test"),
        "away.test": replace(domain("away.test"), jwt_ttl=7),
        "other.test": domain("other.test"),
    }
)
WORLD = DomainSet(DEFINITION, NOW)


def fetch(*audience: str, spiffe_id: str = "", trust_domain: str = "home.test") -> list[JwtSvid]:
    request = encode_jwt_svid_request(JwtSvidRequest(audience, spiffe_id))
    data = fetch_jwt_svid(WORLD, trust_domain, ME, request, NOW)
    theirs = workload_pb2.JWTSVIDResponse.FromString(data)
    bundles = {trust_domain: WORLD.domains[trust_domain].jwt_keys.bundle}
    found = [verify_jwt_svid(each.svid, bundles, audience[0], NOW) for each in theirs.svids]
    assert [each.spiffe_id for each in theirs.svids] == [each.spiffe_id for each in found]
    assert [each.hint for each in theirs.svids] == [each.spiffe_id[-1] for each in found]
    return found


def token(trust_domain: str = "home.test") -> str:
    request = encode_jwt_svid_request(JwtSvidRequest(("me",), f"spiffe://{trust_domain}/a"))
    data = fetch_jwt_svid(WORLD, trust_domain, ME, request, NOW)
    return str(workload_pb2.JWTSVIDResponse.FromString(data).svids[0].svid)


def validate(
    svid: str, audience: str = "me", caller: CallingProcess = ME
) -> workload_pb2.ValidateJWTSVIDResponse:
    request = workload_pb2.ValidateJWTSVIDRequest(audience=audience, svid=svid)
    data = validate_jwt_svid(WORLD, "home.test", caller, request.SerializeToString(), NOW)
    return workload_pb2.ValidateJWTSVIDResponse.FromString(data)


def refusal(status: Status) -> pytest.RaisesExc[CallRefusedError]:
    return pytest.RaisesExc(CallRefusedError, check=lambda error: error.status is status)


def test_every_identity_of_the_caller_has_a_token_for_the_whole_audience() -> None:
    assert fetch("me", "you") == [
        JwtSvid(each, ("me", "you"), NOW + timedelta(minutes=5)) for each in (B, A)
    ]


def test_one_identity_may_be_chosen_and_the_life_is_the_domains() -> None:
    assert [each.spiffe_id for each in fetch("me", spiffe_id=A)] == [A]
    (only,) = fetch("me", spiffe_id="spiffe://away.test/b", trust_domain="away.test")
    assert only.expires == NOW + timedelta(seconds=7)


@pytest.mark.parametrize(
    ("caller", "spiffe_id"), [(NOBODY, ""), (ME, "spiffe://home.test/c"), (NOBODY, A)]
)
def test_nobody_gets_anothers_token(caller: CallingProcess, spiffe_id: str) -> None:
    request = encode_jwt_svid_request(JwtSvidRequest(("me",), spiffe_id))
    with refusal(Status.PERMISSION_DENIED):
        fetch_jwt_svid(WORLD, "home.test", caller, request, NOW)


def test_a_revoked_identity_gets_no_token() -> None:
    revoked = replace(DEFINITION.trust_domains["home.test"], revoke=(A,))
    world = DomainSet(Definition({"home.test": replace(revoked, federates_with=())}), NOW)
    request = encode_jwt_svid_request(JwtSvidRequest(("me",), A))
    with refusal(Status.PERMISSION_DENIED):
        fetch_jwt_svid(world, "home.test", ME, request, NOW)


@pytest.mark.parametrize("request_", [b"", b"\x0a\x00", b"\x12\x01a", b"\x08"])
def test_a_token_is_for_somebody(request_: bytes) -> None:
    with refusal(Status.INVALID_ARGUMENT):
        fetch_jwt_svid(WORLD, "home.test", ME, request_, NOW)


def test_the_keys_of_the_federation_are_handed_out_and_no_roots() -> None:
    data = jwt_bundles(WORLD, "home.test", ME)
    assert data is not None
    theirs = dict(workload_pb2.JWTBundlesResponse.FromString(data).bundles)
    assert {name: parse_jwt_bundle(name[9:], jwks) for name, jwks in theirs.items()} == {
        f"spiffe://{name}": WORLD.domains[name].jwt_keys.bundle
        for name in ("home.test", "away.test")
    }
    assert not any(b"x509" in jwks for jwks in theirs.values())
    assert jwt_bundles(WORLD, "home.test", ME) == data
    assert jwt_bundles(WORLD, "home.test", NOBODY) is None


def test_a_valid_token_is_told_with_its_claims() -> None:
    for trust_domain in ("home.test", "away.test"):
        found = validate(token(trust_domain))
        assert found.spiffe_id == f"spiffe://{trust_domain}/a"
        claims = MessageToDict(found.claims)
        assert (claims["sub"], claims["aud"]) == (found.spiffe_id, ["me"])
        assert claims["exp"] > NOW.timestamp()


@pytest.mark.parametrize(
    ("svid", "audience"),
    [(token(), "you"), (token("other.test"), "me"), ("nonsense", "me"), ("", "me"), (token(), "")],
)
def test_a_token_that_is_not_valid_is_an_invalid_argument(svid: str, audience: str) -> None:
    with refusal(Status.INVALID_ARGUMENT):
        validate(svid, audience)


def test_who_has_no_identity_is_told_nothing_of_a_token() -> None:
    with refusal(Status.PERMISSION_DENIED):
        validate(token(), caller=NOBODY)
