"""The source against grpcio's server: another HTTP/2, another gRPC, another protobuf."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from tests.helpers.workload_api import End, FakeAgent, good_response, svid_message, svid_response
from uproxy.errors import NoIdentityError
from uproxy.identity.credentials import Credentials
from uproxy.identity.workload_api.source import WorkloadApiSource, fetch_once
from uproxy.identity.workload_api.supervisor import SvidChoice
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import eventually
from uproxy.model import TcpAddress, UnixAddress

HOME = Authority("example.org")
WEB = HOME.issue("/web")
ORDERS = HOME.issue("/orders")
DENIED = End(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")


_ANY = SvidChoice()


class Clock:
    """The wall clock, moved by hand."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Watched(WorkloadApiSource):
    """A source that remembers what it told its subscribers."""

    def __init__(
        self,
        endpoint: Path | TcpAddress,
        choice: SvidChoice = _ANY,
        *,
        grace: float = 30,
        clock: Clock | None = None,
    ) -> None:
        address = UnixAddress(str(endpoint)) if isinstance(endpoint, Path) else endpoint
        super().__init__(
            address,
            spiffe_id=choice.spiffe_id,
            hint=choice.hint,
            revocation_grace=grace,
            clock=clock or Clock(),
        )
        self.seen: list[Credentials] = []
        self.subscribe(lambda _, after: self.seen.append(after))

    @property
    def spiffe_id(self) -> str | None:
        return self.current.svid.spiffe_id if self.current.svid else None

    async def until(self, spiffe_id: str | None) -> None:
        await eventually(lambda: self.spiffe_id == spiffe_id, f"the identity {spiffe_id}")

    async def until_fact(self, name: str, value: object) -> None:
        await eventually(lambda: self.status[name] == value, f"{name} to be {value!r}")


@contextlib.asynccontextmanager
async def watching(source: Watched) -> AsyncIterator[Watched]:
    await source.start()
    try:
        yield source
    finally:
        await source.stop()


@pytest.fixture
def path() -> Iterator[Path]:
    # pytest's own folders are too long for a socket's path
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        yield Path(folder) / "agent.sock"


def response(*issued: Issued) -> bytes:
    return svid_response(*(svid_message(one, HOME) for one in issued))


async def test_an_identity_comes_and_rotates(path: Path) -> None:
    renewed = HOME.issue("/web")
    async with FakeAgent(path) as agent, watching(Watched(path)) as source:
        agent.send(response(WEB))
        await source.until(WEB.spiffe_id)
        generation = source.current.generation
        agent.send(response(renewed))
        await source.until_fact("rotations", 1)

        assert source.current.svid is not None
        assert source.current.svid.chain == renewed.chain
        assert source.current.generation == generation
        assert agent.streams[0]["workload.spiffe.io"] == "true"
        assert source.status["stream"] == "streaming"


async def test_equal_content_is_no_change(path: Path) -> None:
    many = {f"td{n}.test": Authority(f"td{n}.test").der for n in range(4)}
    one_way = svid_response(svid_message(WEB, HOME), federated=many)
    other_way = svid_response(svid_message(WEB, HOME), federated=dict(reversed(many.items())))
    async with FakeAgent(path) as agent, watching(Watched(path)) as source:
        agent.send(one_way, other_way, one_way, b"")
        await source.until_fact("discarded_messages", 1)

        assert len(source.seen) == 1


async def test_it_starts_without_an_agent_and_says_why_it_is_not_ready(path: Path) -> None:
    async with watching(Watched(path)) as source:
        reason = f"agent socket {path} does not exist: is the SPIRE agent running?"
        await source.until_fact("reason", reason)
        assert source.current.svid is None

        async with FakeAgent(path) as agent:
            agent.send(response(WEB))
            await source.until(WEB.spiffe_id)


async def test_an_outage_changes_nothing_and_the_agent_is_found_again(path: Path) -> None:
    agent = FakeAgent(path)
    await agent.start()
    async with watching(Watched(path)) as source:
        agent.send(response(WEB))
        await source.until(WEB.spiffe_id)
        await agent.stop()
        await source.until_fact("stream", "retrying")

        assert source.spiffe_id == WEB.spiffe_id
        agent.send(response(ORDERS))
        await agent.start()
        await source.until(ORDERS.spiffe_id)
        await agent.stop()


async def test_a_bad_message_is_discarded_and_the_stream_stays(path: Path) -> None:
    spoiled = svid_response(svid_message(WEB, HOME, x509_svid_key=ORDERS.key_der))
    async with FakeAgent(path) as agent, watching(Watched(path)) as source:
        agent.send(response(WEB), b"", b"\xff\xff", spoiled)
        await source.until_fact("discarded_messages", 3)
        assert source.spiffe_id == WEB.spiffe_id
        assert source.status["last_error"] == (
            "the agent's message is discarded: "
            "the key of spiffe://example.org/web is not the certificate's (WA-11)"
        )

        agent.send(response(ORDERS))
        await source.until(ORDERS.spiffe_id)
        assert len(agent.streams) == 1


async def test_denial_in_mid_stream_revokes_at_once(path: Path) -> None:
    async with FakeAgent(path) as agent, watching(Watched(path)) as source:
        agent.send(response(WEB))
        await source.until(WEB.spiffe_id)
        agent.send(DENIED)
        await source.until(None)
        assert "no identity issued" in source.current.reason
        assert source.status["revocations"] == 1

        agent.send(response(WEB))
        await source.until(WEB.spiffe_id)


async def test_denial_on_a_reconnect_revokes_after_the_grace(path: Path) -> None:
    async with FakeAgent(path) as agent, watching(Watched(path, grace=1.5)) as source:
        agent.send(response(WEB))
        await source.until(WEB.spiffe_id)
        agent.send(End(grpc.StatusCode.UNAVAILABLE), *[DENIED] * 1000)
        await eventually(lambda: len(agent.streams) >= 3, "a denied reconnect")
        assert source.spiffe_id == WEB.spiffe_id

        await source.until(None)
        assert source.status["revocations"] == 1


async def test_a_message_within_the_grace_saves_the_identity(path: Path) -> None:
    async with FakeAgent(path) as agent, watching(Watched(path, grace=30)) as source:
        agent.send(response(WEB), End(grpc.StatusCode.UNAVAILABLE), DENIED, response(WEB), b"")
        await source.until_fact("discarded_messages", 1)

        assert source.seen == [source.current]
        assert source._grace is None


async def test_an_expired_svid_is_not_ready_even_if_the_agent_just_sent_it(path: Path) -> None:
    clock = Clock()
    clock.ahead = timedelta(days=1)
    async with FakeAgent(path) as agent, watching(Watched(path, clock=clock)) as source:
        agent.send(response(WEB))
        await eventually(lambda: "expired at" in source.current.reason, "the expiry to be seen")

        assert source.current.svid is None
        assert set(source.current.bundles) == {"example.org"}


async def test_an_svid_that_expires_while_held_is_dropped(path: Path) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    short = HOME.issue("/web", not_after=soon)
    async with FakeAgent(path) as agent, watching(Watched(path)) as source:
        agent.send(response(short))
        await source.until(short.spiffe_id)
        await source.until(None)

        assert "expired at" in source.current.reason


async def test_several_identities_need_a_choice(path: Path) -> None:
    async with FakeAgent(path) as agent, watching(Watched(path)) as source:
        agent.send(response(WEB, ORDERS))
        await eventually(lambda: "offers 2 identities" in source.current.reason, "the reason")
        assert source.current.svid is None

    async with (
        FakeAgent(path) as agent,
        watching(Watched(path, SvidChoice(spiffe_id=ORDERS.spiffe_id))) as source,
    ):
        agent.send(response(WEB, ORDERS))
        await source.until(ORDERS.spiffe_id)


async def test_a_federation_of_130_trust_domains_fits_through(path: Path) -> None:
    many = {f"spiffe://td{n}.test": Authority(f"td{n}.test", key="rsa2048").der for n in range(8)}
    ders = list(many.values())
    federated = {f"spiffe://td{n}.test": ders[n % 8] for n in range(130)}
    message = svid_response(svid_message(WEB, HOME), federated=federated)
    assert len(message) > 100_000
    async with FakeAgent(path) as agent, watching(Watched(path)) as source:
        agent.send(message, message)
        await eventually(lambda: len(source.current.bundles) == 131, "131 bundles")

        agent.send(response(WEB))
        await eventually(lambda: len(source.current.bundles) == 1, "redaction")


async def test_an_orderly_end_is_followed_by_a_new_stream(path: Path) -> None:
    async with FakeAgent(path) as agent, watching(Watched(path)) as source:
        agent.send(response(WEB), End(), response(ORDERS))
        await source.until(ORDERS.spiffe_id)

        assert source.status["reconnects"] == 1


async def test_a_goaway_is_followed_by_a_new_stream(path: Path) -> None:
    options = [("grpc.max_connection_age_ms", 200), ("grpc.max_connection_age_grace_ms", 100)]
    async with FakeAgent(path, options) as agent, watching(Watched(path)) as source:
        for _ in range(100):
            agent.send(response(WEB))
        await eventually(lambda: len(agent.streams) >= 3, "new streams after GOAWAY")

        assert source.spiffe_id == WEB.spiffe_id
        assert len(source.seen) == 1


async def test_an_invalid_request_is_said_and_not_repeated_in_a_loop(path: Path) -> None:
    async with FakeAgent(path) as agent, watching(Watched(path)) as source:
        agent.send(*[End(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")] * 10)
        await eventually(lambda: "request invalid" in source.current.reason, "the reason")

        assert "security header missing" in source.current.reason
        assert len(agent.streams) == 1


async def test_an_endpoint_may_be_on_tcp() -> None:
    address = TcpAddress("127.0.0.1", free_port())
    async with FakeAgent(str(address)) as agent, watching(Watched(address)) as source:
        agent.send(response(WEB))
        await source.until(WEB.spiffe_id)


async def test_fetch_once_gives_an_identity(path: Path) -> None:
    async with FakeAgent(path) as agent:
        agent.send(response(WEB))
        credentials = await fetch_once(Watched(path), timeout_s=5)

    assert credentials.svid is not None
    assert credentials.svid.spiffe_id == WEB.spiffe_id


async def test_fetch_once_says_why_none_came(path: Path) -> None:
    with pytest.raises(NoIdentityError, match=r"no identity within 0.2 s: agent socket .* exist"):
        await fetch_once(Watched(path), timeout_s=0.2)


async def test_status_never_holds_a_key(path: Path) -> None:
    async with FakeAgent(path) as agent, watching(Watched(path)) as source:
        agent.send(good_response())
        await eventually(lambda: source.current.svid, "an identity")

        facts = dict(source.status)

    assert facts["source"] == "workload_api"
    assert facts["address"] == f"unix://{path}"
    assert not any(isinstance(value, bytes) for value in facts.values())
    assert "PrivateKey" not in repr(facts)
