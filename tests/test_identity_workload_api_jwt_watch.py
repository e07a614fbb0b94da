"""JWT bundles from grpcio's server, beside an identity that they never cost."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import grpc
import pytest

from tests.helpers.workload_api import (
    End,
    FakeAgent,
    jwt_bundles_response,
    svid_message,
    svid_response,
)
from uproxy.identity.workload_api.source import WorkloadApiSource
from uproxy.lab.pki import Authority
from uproxy.lab.tokens import TokenAuthority
from uproxy.lab.waiting import eventually
from uproxy.model import UnixAddress

ROOTS = Authority("example.org")
WEB = ROOTS.issue("/web")
HOME, AWAY = TokenAuthority("example.org"), TokenAuthority("partner.test")
IDENTITY = svid_response(svid_message(WEB, ROOTS))


@pytest.fixture
def path() -> Iterator[Path]:
    # pytest's own folders are too long for a socket's path
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        yield Path(folder) / "agent.sock"


@contextlib.asynccontextmanager
async def watching(path: Path, *, wanted: bool = True) -> AsyncIterator[WorkloadApiSource]:
    source = WorkloadApiSource(
        UnixAddress(str(path)),
        spiffe_id=None,
        hint=None,
        revocation_grace=30,
        clock=partial(datetime.now, UTC),
    )
    source.want_jwt_bundles(wanted)
    await source.start()
    try:
        yield source
    finally:
        await source.stop()


async def until(source: WorkloadApiSource, *trust_domains: str) -> None:
    await eventually(
        lambda: sorted(source.current.jwt_bundles) == sorted(trust_domains), "JWT bundles"
    )


async def test_the_newest_message_is_the_whole_set(path: Path) -> None:
    agent = FakeAgent(path)
    agent.serve_jwt_bundles(jwt_bundles_response(example_org=HOME.jwks, partner_test=AWAY.jwks))
    async with agent, watching(path) as source:
        agent.send(IDENTITY)
        await until(source, "example.org", "partner.test")
        assert source.current.jwt_bundles["partner.test"] == AWAY.bundle
        await eventually(lambda: source.current.svid is not None, "the identity")
        generation = source.current.generation
        agent.serve_jwt_bundles(jwt_bundles_response(example_org=HOME.jwks))
        await until(source, "example.org")
        assert source.current.generation == generation
        assert source.status["jwt_trust_domains"] == ["example.org"]
        assert source.status["jwt_error"] is None


@pytest.mark.parametrize("serves", [False, True], ids=["unimplemented", "denied"])
async def test_an_agent_that_does_not_serve_them_is_told_and_costs_no_identity(
    path: Path, serves: bool, caplog: pytest.LogCaptureFixture
) -> None:
    agent = FakeAgent(path)
    if serves:
        agent.serve_jwt_bundles(*[End(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")] * 9)
    why = "no identity issued" if serves else "the endpoint doesn't offer JWT bundles"
    async with agent, watching(path) as source:
        assert source.status["jwt_awaited"]
        agent.send(IDENTITY)
        await eventually(lambda: source.current.svid is not None, "the identity")
        await eventually(lambda: why in str(source.status["jwt_error"]), "the reason")
        assert not source.status["jwt_awaited"]
        assert source.status["last_error"] is None
        assert source.current.jwt_bundles == {}
    told = [each for each in caplog.messages if why in each]
    assert len(told) == 1


async def test_an_outage_costs_nothing(path: Path) -> None:
    agent = FakeAgent(path)
    agent.serve_jwt_bundles(jwt_bundles_response(example_org=HOME.jwks))
    await agent.start()
    async with watching(path) as source:
        await until(source, "example.org")
        await agent.stop()
        await eventually(lambda: source.status["jwt_error"] is not None, "the outage")
        assert source.current.jwt_bundles == {"example.org": HOME.bundle}
        agent.serve_jwt_bundles(jwt_bundles_response(partner_test=AWAY.jwks))
        await agent.start()
        await until(source, "partner.test")
        await agent.stop()


async def test_an_agent_that_is_not_there_yet_has_said_nothing(path: Path) -> None:
    async with watching(path) as source:
        await eventually(lambda: "SPIRE" in str(source.status["jwt_error"]), "the reason")
        assert source.status["jwt_awaited"]
        agent = FakeAgent(path)
        agent.serve_jwt_bundles(jwt_bundles_response())
        async with agent:
            await eventually(lambda: not source.status["jwt_awaited"], "the agent's answer")
        assert source.current.jwt_bundles == {}


async def test_a_bad_message_is_discarded_and_a_bad_bundle_is_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = FakeAgent(path)
    agent.serve_jwt_bundles(jwt_bundles_response(example_org=HOME.jwks), b"\xff")
    async with agent, watching(path) as source:
        await eventually(lambda: "discarded" in str(source.status["jwt_error"]), "the discarding")
        assert source.current.jwt_bundles == {"example.org": HOME.bundle}
        for _ in range(2):
            agent.serve_jwt_bundles(jwt_bundles_response(partner_test=b"{}"))
        await until(source, "partner.test")
        assert source.status["jwt_trust_domains"] == []
        problem = source.current.jwt_bundles["partner.test"].problem
        assert "no JWT-SVID of partner.test is accepted" in problem
        assert source.status["jwt_distrusted"] == [problem]
    warned = [each for each in caplog.records if each.levelname == "WARNING"]
    assert [each.getMessage() for each in warned].count(problem) == 1


async def test_they_are_asked_for_when_wanted_and_forgotten_when_not(path: Path) -> None:
    agent = FakeAgent(path)
    agent.serve_jwt_bundles(*[jwt_bundles_response(example_org=HOME.jwks)] * 2)
    async with agent, watching(path, wanted=False) as source:
        agent.send(IDENTITY)
        await eventually(lambda: source.current.svid is not None, "the identity")
        assert source.current.jwt_bundles == {}
        assert "jwt_error" not in source.status
        source.want_jwt_bundles(True)
        await until(source, "example.org")
        source.want_jwt_bundles(True)
        source.want_jwt_bundles(False)
        assert source.current.jwt_bundles == {}
        assert source.current.svid is not None
