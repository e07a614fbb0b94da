"""One token from grpcio's server, or why there is none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from spiffe._proto import workload_pb2

from tests.helpers.workload_api import End, FakeAgent, jwt_svid_response
from uproxy.identity.workload_api.framing import Status
from uproxy.identity.workload_api.jwt_fetch import NoTokenError, fetch_jwt_svid
from uproxy.model import UnixAddress

WEB = "spiffe://example.org/web"


@pytest.fixture
def path() -> Iterator[Path]:
    # pytest's own folders are too long for a socket's path
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        yield Path(folder) / "agent.sock"


async def fetch(path: Path, *audience: str) -> str:
    return await fetch_jwt_svid(UnixAddress(str(path)), audience, WEB)


async def test_the_agent_is_asked_for_one_identity_and_the_whole_audience(path: Path) -> None:
    agent, asked = FakeAgent(path), list[workload_pb2.JWTSVIDRequest]()

    def answer(request: workload_pb2.JWTSVIDRequest) -> bytes:
        asked.append(request)
        return jwt_svid_response((WEB, "the token"), (WEB, "another"))

    agent.token = answer
    async with agent:
        assert await fetch(path, "me", "you") == "the token"
    assert asked == [workload_pb2.JWTSVIDRequest(audience=["me", "you"], spiffe_id=WEB)]


@pytest.mark.parametrize(
    ("answer", "why", "status"),
    [
        (End(grpc.StatusCode.PERMISSION_DENIED, "no"), "has no identity for this process (no)", 7),
        (End(grpc.StatusCode.UNAVAILABLE, "later"), "gRPC status 14 (later)", 14),
        (b"\xff", "the agent's message is discarded", None),
        (b"", "the agent's answer has no token", None),
        (jwt_svid_response((WEB, "")), "the agent's answer has no token", None),
        (None, "the endpoint doesn't offer JWT-SVIDs", Status.UNIMPLEMENTED),
    ],
)
async def test_without_a_token_there_is_a_reason(
    path: Path, answer: bytes | End | None, why: str, status: int | None
) -> None:
    agent = FakeAgent(path)
    if answer is not None:
        agent.token = lambda _request: answer
    async with agent:
        with pytest.raises(NoTokenError) as caught:
            await fetch(path, "me")
    assert why in str(caught.value)
    assert caught.value.ending.status == status


async def test_without_an_agent_there_is_a_reason(path: Path) -> None:
    with pytest.raises(NoTokenError, match="is the SPIRE agent running"):
        await fetch(path, "me")


async def test_an_audience_beyond_one_frame_is_not_asked_for(path: Path) -> None:
    with pytest.raises(NoTokenError, match="too long to ask for"):
        await fetch(path, *(f"spiffe://example.org/{n:0100}" for n in range(200)))
