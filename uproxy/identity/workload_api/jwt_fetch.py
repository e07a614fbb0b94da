"""Fetches one JWT-SVID from a Workload API."""

from __future__ import annotations

import contextlib

from uproxy.errors import MessageError, UproxyError
from uproxy.identity.workload_api.endings import explain_ending
from uproxy.identity.workload_api.grpc import Ended, Message
from uproxy.identity.workload_api.stream import MAX_REQUEST_BYTES, watch
from uproxy.model import Address
from uproxy.spiffe.jwt_messages import (
    JwtSvidRequest,
    decode_jwt_svid_response,
    encode_jwt_svid_request,
)


class NoTokenError(UproxyError):
    """The agent gave no token; `ending` is how the call ended."""

    def __init__(self, message: str, ending: Ended) -> None:
        super().__init__(message)
        self.ending = ending


async def fetch_jwt_svid(address: Address, audience: tuple[str, ...], spiffe_id: str) -> str:
    """Return the token that the agent sends when it is asked for one of the identity `spiffe_id`
    for this audience; what it says isn't looked at.

    Raises:
        NoTokenError: there is none; says why.
    """
    request = encode_jwt_svid_request(JwtSvidRequest(audience, spiffe_id))
    if len(request) > MAX_REQUEST_BYTES:
        words = f"an audience of {len(audience)} identities is too long to ask for: list fewer"
        raise NoTokenError(words, Ended(words))
    async with contextlib.aclosing(watch(address, "FetchJWTSVID", request)) as events:
        async for event in events:
            if isinstance(event, Message):
                return _token(event.data)
            raise NoTokenError(explain_ending(event, "JWT-SVIDs"), event)
    raise AssertionError("the last event is always Ended")


def _token(data: bytes) -> str:
    try:
        for svid in decode_jwt_svid_response(data):
            if svid.token:
                return svid.token
    except MessageError as error:
        words = f"the agent's message is discarded: {error}"
        raise NoTokenError(words, Ended(words)) from error
    words = "the agent's answer has no token"
    raise NoTokenError(words, Ended(words))
