"""What deploy/envoy carries from a caller's CONNECT to the destination's, and what it refuses.

Caller and destination are made of the h2 library here, so that every header can be sent and seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h2.events
import pytest
from OpenSSL import SSL

from tests.helpers.http_app import fetch
from tests.helpers.shared import L7, Shared
from tests.helpers.streams import Upstream, close_all
from tests.helpers.tunnels import H2Peer
from tests.helpers.xxhash64 import with_hash_of, xxhash64
from uproxy.lab.mesh import ORDERS, UNWANTED, WEB, FileWorld
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.software.shared_envoy import SharedEnvoy
from uproxy.lab.waiting import eventually, wait_until
from uproxy.model import TcpAddress

ENDED = (SSL.Error, ConnectionError, EOFError)
PROOF = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
EXPECTS = ("x-uproxy-expect-id", ORDERS)
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
BY_AN_AGENT = {
    "trusted_ca: {filename: identity/bundle.pem}": f"""custom_validator_config:
      name: envoy.tls.cert_validator.spiffe
      typed_config:
        "@type": {TLS}.SPIFFECertValidatorConfig
        trust_domains: [{{name: example.org, trust_bundle: {{filename: identity/bundle.pem}}}}]""",
}
ADDRESSES = ("127.0.0.1:8080", "127.0.0.1:5432")
"""To the first goes HTTP, to the second any TCP."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The shared Envoy, and the destination of all that it sends on."""

    envoy: SharedEnvoy
    destination: Upstream
    ca: Authority

    async def call(self, spiffe_id: str = WEB) -> H2Peer:
        return await H2Peer.connect(TcpAddress("127.0.0.1", self.envoy.port), self.svid(spiffe_id))

    async def accept(self, spiffe_id: str = ORDERS) -> H2Peer:
        return await H2Peer.accept(self.destination, self.svid(spiffe_id))

    def svid(self, spiffe_id: str) -> Issued:
        return self.ca.issue(spiffe_id.removeprefix("spiffe://example.org"))


@pytest.fixture(scope="module", params=["files", "agent"])
def all_ends(request: pytest.FixtureRequest, folder: Path, file_world: FileWorld) -> Iterator[Ends]:
    """With roots in a file, and as an agent sends them (SDS), which another validator checks."""
    destination = Upstream()
    assert isinstance(destination.address, TcpAddress)
    port = destination.address.port
    envoy = SharedEnvoy(folder, file_world.theirs(L7), destinations=port)
    if request.param == "agent":
        envoy.replace("roots.yaml", BY_AN_AGENT)
    with envoy:
        envoy.use("tcp-only")
        yield Ends(envoy, destination, file_world.ca)
    destination.close()


@pytest.fixture
def ends(all_ends: Ends) -> Iterator[Ends]:
    yield all_ends
    close_all()


async def asked(peer: H2Peer) -> list[tuple[str, str]]:
    """The headers of the next CONNECT, which isn't answered."""
    request = await peer.event(h2.events.RequestReceived)
    return [(str(name), str(value)) for name, value in request.headers or ()]


async def streams(ends: Ends, authority: str) -> tuple[H2Peer, int, H2Peer, int]:
    """A caller and its stream, the destination and its stream; the CONNECT has been answered."""
    caller = await ends.call()
    stream = await caller.open(authority, EXPECTS)
    assert await caller.status(stream) == 200
    if authority == ADDRESSES[0]:
        await caller.send(stream, GET)
    orders = await ends.accept()
    served = await orders.request()
    await orders.answer(served, 200)
    return caller, stream, orders, served


@pytest.mark.parametrize("authority", ADDRESSES)
async def test_the_caller_is_who_the_certificate_says_and_the_proof_comes_along(
    ends: Ends, authority: str
) -> None:
    caller = await ends.call()
    forged = [("x-uproxy-caller", UNWANTED), ("x-caller", UNWANTED)]
    stream = await caller.open(authority, EXPECTS, ("x-uproxy-proof", PROOF), *forged)
    assert await caller.status(stream) == 200
    await caller.send(stream, GET)
    headers = await asked(await ends.accept())
    assert headers[:2] == [(":method", "CONNECT"), (":authority", authority)]
    ours = [each for each in headers if "uproxy" in each[0] or "caller" in each[0]]
    assert sorted(ours) == [("x-uproxy-caller", WEB), ("x-uproxy-proof", PROOF)]


async def test_without_a_proof_there_is_no_header_for_it(ends: Ends) -> None:
    caller = await ends.call()
    stream = await caller.open(ADDRESSES[1], EXPECTS)
    assert await caller.status(stream) == 200
    names = [name for name, _ in await asked(await ends.accept())]
    assert "x-uproxy-proof" not in names


@pytest.mark.parametrize(
    ("authority", "headers"),
    [
        (ADDRESSES[0], ()),
        (ADDRESSES[0], (("x-uproxy-expect-id", ""),)),
        (ADDRESSES[0], (("x-uproxy-expect-id", "spiffe://example.org/ns/*"),)),
        (ADDRESSES[0], (("x-uproxy-expect-id", f"{ORDERS},"),)),
        (ADDRESSES[0], (("x-uproxy-expect-id", "orders.shop.svc"),)),
        ("localhost:8080", (EXPECTS,)),
        ("127.0.0.1", (EXPECTS,)),
        ("127.0.0.1:15008", (EXPECTS,)),
        ("[::1]:15008", (EXPECTS,)),
    ],
    ids=str,
)
async def test_a_connect_is_refused_without_an_address_and_an_expected_identity(
    ends: Ends, authority: str, headers: tuple[tuple[str, str], ...]
) -> None:
    caller = await ends.call()
    assert await caller.status(await caller.open(authority, *headers)) == 403


async def test_the_shared_envoy_may_not_call_itself(ends: Ends) -> None:
    caller = await ends.call(L7)
    assert await caller.status(await caller.open(ADDRESSES[0], EXPECTS)) == 403


async def test_only_the_frontend_opens_a_tunnel_to_postgresql(ends: Ends) -> None:
    caller = await ends.call(UNWANTED)
    assert await caller.status(await caller.open(ADDRESSES[1], EXPECTS)) == 403


async def test_a_caller_of_another_trust_domain_gets_no_tunnel(
    ends: Ends, file_world: FileWorld
) -> None:
    stranger = file_world.stranger_ca.issue("/ns/web/sa/frontend")

    async def call() -> int:
        caller = await H2Peer.connect(TcpAddress("127.0.0.1", ends.envoy.port), stranger)
        return await caller.status(await caller.open(ADDRESSES[0], EXPECTS))

    with pytest.raises(ENDED):
        await call()


async def test_a_destination_with_another_identity_receives_nothing(ends: Ends) -> None:
    caller = await ends.call()
    stream = await caller.open(ADDRESSES[0], EXPECTS)
    await caller.send(stream, GET)
    with pytest.raises(ENDED):
        await asked(await ends.accept(UNWANTED))
    assert b" 503 " in await caller.receive(stream, 30)
    lines = await eventually(
        lambda: [line for line in ends.envoy.accesses if line.get("failure")], "its line"
    )
    assert "SAN" in lines[-1]["failure"]


async def test_any_of_several_expected_identities_will_do(ends: Ends) -> None:
    caller = await ends.call()
    several = ("x-uproxy-expect-id", f"{UNWANTED},{ORDERS}")
    stream = await caller.open(ADDRESSES[1], several)
    assert await caller.status(stream) == 200
    assert ("x-uproxy-caller", WEB) in await asked(await ends.accept())


async def served_once(ends: Ends) -> tuple[H2Peer, H2Peer]:
    """A caller that got an answer, and the destination, whose stream stays open for more."""
    caller, stream, orders, served = await streams(ends, ADDRESSES[0])
    assert await orders.receive(served, len(GET))
    await orders.send(served, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert b" 200 " in await caller.receive(stream, 30)
    return caller, orders


async def test_another_caller_gets_no_open_connection(ends: Ends) -> None:
    await served_once(ends)
    another = await ends.call(UNWANTED)
    stream = await another.open(ADDRESSES[0], EXPECTS)
    await another.send(stream, GET)
    assert ("x-uproxy-caller", UNWANTED) in await asked(await ends.accept())


async def test_a_proof_that_is_made_to_collide_opens_nobody_elses_connection(ends: Ends) -> None:
    """Envoy tells connections apart by a hash that isn't a cryptographic one.  So what a caller
    chooses must not be in one text with who it is."""
    assert xxhash64(b"abc") == 0x44BC2CF5AD770999
    await served_once(ends)
    begins = f"{UNWANTED} "
    crafted = with_hash_of(f"{WEB} -".encode(), begins.encode()).decode()
    another = await ends.call(UNWANTED)
    proof = ("x-uproxy-proof", crafted.removeprefix(begins))
    stream = await another.open(ADDRESSES[0], EXPECTS, proof)
    await another.send(stream, GET)
    assert ("x-uproxy-caller", UNWANTED) in await asked(await ends.accept())


async def test_who_expects_somebody_else_gets_no_open_connection(ends: Ends) -> None:
    """Envoy keeps connections to the application open for other requests of the same caller."""
    caller, _ = await served_once(ends)
    other = await caller.open(ADDRESSES[0], ("x-uproxy-expect-id", UNWANTED))
    await caller.send(other, GET)
    with pytest.raises(ENDED):
        await asked(await ends.accept())
    assert b" 503 " in await caller.receive(other, 30)


async def test_the_access_log_has_both_verified_identities_of_each_stream(ends: Ends) -> None:
    caller, stream, orders, served = await streams(ends, ADDRESSES[1])
    await caller.send(stream, b"hello", end=True)
    await orders.send(served, await orders.receive(served, 5), end=True)

    def lines(hop: str) -> list[dict[str, object]]:
        return [each for each in ends.envoy.accesses if each["hop"] == hop and each["sent"] == 5]

    (line,) = await eventually(lambda: lines("originate"), "hop 3's line")
    assert (line["caller"], line["destination"]) == (WEB, ORDERS)
    (line,) = await eventually(lambda: lines("tunnels"), "the tunnel's line")
    assert (line["caller"], line["to"], line["status"]) == (WEB, ADDRESSES[1], 200)


async def test_a_caller_over_tcp_may_end_first_and_still_read(ends: Ends) -> None:
    caller, stream, orders, served = await streams(ends, ADDRESSES[1])
    await caller.send(stream, b"question", end=True)
    await orders.event(h2.events.StreamEnded, served)
    await orders.send(served, b"answer", end=True)
    assert await caller.receive(stream, 6) == b"answer"
    await caller.event(h2.events.StreamEnded, stream)


async def test_a_destination_that_ends_first_hears_no_more(ends: Ends) -> None:
    """Envoy's limit: it resets the caller's stream, without an error."""
    caller, stream, orders, served = await streams(ends, ADDRESSES[1])
    await orders.send(served, b"banner", end=True)
    assert await caller.receive(stream, 6) == b"banner"
    await caller.event(h2.events.StreamEnded, stream)
    reset = await caller.event(h2.events.StreamReset, stream)
    assert reset.error_code == 0


async def test_a_caller_over_http_that_ends_first_loses_the_answer(ends: Ends) -> None:
    caller, stream, orders, served = await streams(ends, ADDRESSES[0])
    assert await orders.receive(served, len(GET))
    await caller.send(stream, b"", end=True)
    await orders.event(h2.events.StreamReset, served)
    await caller.event(h2.events.StreamEnded, stream)
    assert caller.data.get(stream, b"") == b""


def test_the_access_log_has_both_identities_of_each_request(shared: Shared, frontend: int) -> None:
    fetch(frontend, "/logged")
    (line,) = wait_until(
        lambda: [line for line in shared.envoy.accesses if line.get("path") == "/logged"],
        "its line",
    )
    assert (line["caller"], line["expects"]) == (WEB, ORDERS)
    assert (line["to"], line["status"]) == (shared.addresses[0], 200)


def test_what_tracing_adds_is_kept(shared: Shared, frontend: int) -> None:
    trace = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=value",
        "baggage": "tenant=blue",
        "b3": "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1",
        "x_request_id": "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    }
    seen = fetch(frontend, **trace).seen
    assert {name: seen[name.replace("_", "-")] for name in trace} == trace


def test_without_a_tracer_no_trace_is_begun(shared: Shared, frontend: int) -> None:
    seen = fetch(frontend).seen
    assert not {"traceparent", "tracestate", "b3", "baggage"} & seen.keys()
    assert seen["x-caller"] == WEB


def test_headers_of_a_caller_dont_steer_envoy(shared: Shared, frontend: int) -> None:
    shared.first.failing = 1
    steering = {
        "x_forwarded_for": "127.0.0.1",
        "x_envoy_internal": "true",
        "x_envoy_retry_on": "5xx",
        "x_envoy_max_retries": "3",
    }
    assert fetch(frontend, **steering).status == 503
    assert len(shared.first.requests) == 1
