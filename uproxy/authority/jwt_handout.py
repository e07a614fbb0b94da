"""Answers the Workload API's JWT methods for each caller.

Pure: `server` knows who calls, and the time.  Rules: a caller that matches no entry gets nothing,
not even a bundle; a token is for the audience that is asked for, and for no more than one of the
caller's own identities each; a token is validated by the very function that uProxy validates with.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from uproxy.authority.calls import CallRefusedError, no_identity
from uproxy.authority.definition import CallingProcess
from uproxy.authority.domain import Domain
from uproxy.authority.handout import DomainSet
from uproxy.errors import MessageError, UntrustedError
from uproxy.identity.workload_api.framing import Status
from uproxy.spiffe.jwt_messages import (
    WireJwtSvid,
    decode_jwt_svid_request,
    decode_validate_request,
    encode_jwt_bundles_response,
    encode_jwt_svid_response,
    encode_validate_response,
)
from uproxy.spiffe.jwt_svids import read_jwt_svid, verify_jwt_svid


def fetch_jwt_svid(
    world: DomainSet, trust_domain: str, caller: CallingProcess, request: bytes, now: datetime
) -> bytes:
    """Return the encoded JWTSVIDResponse.

    Raises:
        CallRefusedError: the caller has no such identity, or the request is invalid.
    """
    domain = world.domains[trust_domain]
    try:
        asked = decode_jwt_svid_request(request)
    except MessageError as error:
        raise CallRefusedError(Status.INVALID_ARGUMENT, str(error)) from error
    if not asked.audience or not all(asked.audience):
        raise CallRefusedError(Status.INVALID_ARGUMENT, "audience must be specified")
    found = [
        (entry, svid)
        for entry, svid in domain.svids_for(caller)
        if asked.spiffe_id in ("", svid.spiffe_id)
    ]
    if not found:
        raise no_identity()
    return encode_jwt_svid_response(
        WireJwtSvid(
            svid.spiffe_id, domain.token_for(svid.spiffe_id, asked.audience, now), entry.hint
        )
        for entry, svid in found
    )


def jwt_bundles(world: DomainSet, trust_domain: str, caller: CallingProcess) -> bytes | None:
    """Return the encoded JWTBundlesResponse for this process; None: no entry matches it."""
    domains = _domains(world, trust_domain, caller)
    if domains is None:
        return None
    return encode_jwt_bundles_response(
        (f"spiffe://{one.definition.name}", one.jwt_keys.jwks) for one in domains
    )


def validate_jwt_svid(
    world: DomainSet, trust_domain: str, caller: CallingProcess, request: bytes, now: datetime
) -> bytes:
    """Return the encoded ValidateJWTSVIDResponse.

    Raises:
        CallRefusedError: the caller has no identity, or the token isn't valid; says why.
    """
    domains = _domains(world, trust_domain, caller)
    if domains is None:
        raise no_identity()
    bundles = {one.definition.name: one.jwt_keys.bundle for one in domains}
    try:
        asked = decode_validate_request(request)
        if not asked.audience or not asked.token:
            raise CallRefusedError(Status.INVALID_ARGUMENT, "audience and svid must be specified")
        svid = verify_jwt_svid(asked.token, bundles, asked.audience, now)
    except (MessageError, UntrustedError) as error:
        raise CallRefusedError(Status.INVALID_ARGUMENT, str(error)) from error
    return encode_validate_response(svid.spiffe_id, read_jwt_svid(asked.token, now).claims)


def _domains(
    world: DomainSet, trust_domain: str, caller: CallingProcess
) -> Iterable[Domain] | None:
    """Return the trust domains whose bundles the caller gets; None: no entry matches it."""
    domain = world.domains[trust_domain]
    return world.seen_from(domain) if domain.svids_for(caller) else None
