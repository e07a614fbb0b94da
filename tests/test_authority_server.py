"""The authority's endpoints: who calls is asked of the kernel, and changes reach live streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import grpc
import grpc.aio
import pytest
import uvloop
from spiffe._proto import workload_pb2

from uproxy.authority import Definition, DevelopmentAuthority, DomainDefinition, EntryDefinition
from uproxy.config.scalars import workload_api
from uproxy.errors import UproxyError
from uproxy.identity.workload_api.framing import SERVICE
from uproxy.identity.workload_api.source import WorkloadApiSource, fetch_once
from uproxy.lab.waiting import eventually

WEB, ORDERS = "spiffe://example.org/web", "spiffe://example.org/orders"
TRUE = (("workload.spiffe.io", "true"),)
Response = workload_pb2.X509SVIDResponse


@pytest.fixture
def sockets() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="authority-") as folder:
        yield folder


def definition(sockets: str, *entries: EntryDefinition, **domain: object) -> Definition:
    entries = entries or (EntryDefinition(WEB, uid=os.getuid()),)
    one = replace(DomainDefinition("example.org", entries), **domain)  # type: ignore[arg-type]  # any field
    return Definition({"example.org": one}, sockets)


class Client:
    """grpcio as a Workload API client that may break the rules."""

    def __init__(self, authority: DevelopmentAuthority) -> None:
        address = authority.endpoints["example.org"]
        self._channel = grpc.aio.insecure_channel(address)

    def stream(
        self, metadata: tuple[tuple[str, str], ...] = TRUE, method: str = "FetchX509SVID"
    ) -> grpc.aio.UnaryStreamCall[workload_pb2.X509SVIDRequest, Response]:
        multi = self._channel.unary_stream(
            SERVICE + method,
            request_serializer=workload_pb2.X509SVIDRequest.SerializeToString,
            response_deserializer=Response.FromString,
        )
        call = multi(workload_pb2.X509SVIDRequest(), metadata=metadata, timeout=10)
        return cast("grpc.aio.UnaryStreamCall[workload_pb2.X509SVIDRequest, Response]", call)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._channel.close()


async def refusal(
    call: grpc.aio.UnaryStreamCall[workload_pb2.X509SVIDRequest, Response],
) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value.code(), caught.value.details()


async def test_this_process_gets_what_its_user_program_and_group_select(sockets: str) -> None:
    program = os.readlink("/proc/self/exe")
    mine = EntryDefinition(WEB, uid=os.getuid(), gid=os.getgid(), path=program)
    others = [
        EntryDefinition(ORDERS, uid=os.getuid() + 1),
        EntryDefinition(ORDERS, gid=os.getgid() + 1),
        EntryDefinition(ORDERS, path="/bin/false"),
    ]
    async with (
        DevelopmentAuthority(definition(sockets, mine, *others)) as authority,
        Client(authority) as client,
    ):
        response = await client.stream().read()

    assert isinstance(response, Response)
    assert [svid.spiffe_id for svid in response.svids] == [WEB]


@pytest.mark.parametrize(
    "metadata", [(), TRUE + TRUE, (("workload.spiffe.io", "TRUE"),), (("workload.spiffe.io", ""),)]
)
async def test_a_request_without_the_right_security_header_is_invalid(
    sockets: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    async with DevelopmentAuthority(definition(sockets)) as authority, Client(authority) as client:
        code, details = await refusal(client.stream(metadata))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "security header missing from request"


@pytest.mark.parametrize("method", ["FetchWITSVID", "FetchWITBundles", "Nonsense"])
async def test_other_methods_are_unimplemented(sockets: str, method: str) -> None:
    async with DevelopmentAuthority(definition(sockets)) as authority, Client(authority) as client:
        code, _ = await refusal(client.stream(method=method))

    assert code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"])
async def test_without_an_entry_no_identity_is_issued(sockets: str, method: str) -> None:
    nobody = EntryDefinition(WEB, path="/bin/false")
    async with (
        DevelopmentAuthority(definition(sockets, nobody)) as authority,
        Client(authority) as client,
    ):
        refused = await refusal(client.stream(method=method))

    assert refused == (grpc.StatusCode.PERMISSION_DENIED, "no identity issued")


async def test_a_live_stream_sees_every_change_and_its_end(sockets: str) -> None:
    both = (EntryDefinition(WEB, uid=os.getuid()), EntryDefinition(ORDERS, uid=os.getuid()))
    async with (
        DevelopmentAuthority(definition(sockets, *both)) as authority,
        Client(authority) as client,
    ):
        call = client.stream()
        seen = [await _ids(call)]
        authority.apply(definition(sockets, *both, revoke=(WEB,)))
        seen.append(await _ids(call))
        authority.apply(definition(sockets, *both, ttl=60.0))
        seen.append(await _ids(call))
        authority.apply(definition(sockets, *both, revoke=(WEB, ORDERS)))

        assert seen == [[WEB, ORDERS], [ORDERS], [WEB, ORDERS]]
        assert await refusal(call) == (grpc.StatusCode.PERMISSION_DENIED, "no identity issued")


async def _ids(
    call: grpc.aio.UnaryStreamCall[workload_pb2.X509SVIDRequest, Response],
) -> list[str]:
    response = await call.read()
    assert isinstance(response, Response)
    return [svid.spiffe_id for svid in response.svids]


async def test_a_change_that_concerns_nobody_sends_nothing(sockets: str) -> None:
    other = EntryDefinition(ORDERS, path="/bin/false")
    mine = EntryDefinition(WEB, uid=os.getuid())
    async with (
        DevelopmentAuthority(definition(sockets, mine)) as authority,
        Client(authority) as client,
    ):
        call = client.stream()
        first = await call.read()
        authority.apply(definition(sockets, mine, other))
        authority.renew()

        second = await call.read()
        assert isinstance(first, Response)
        assert isinstance(second, Response)
        assert first.svids[0].x509_svid != second.svids[0].x509_svid


async def test_svids_are_renewed_while_nobody_asks(sockets: str) -> None:
    async with (
        DevelopmentAuthority(definition(sockets, ttl=2.0)) as authority,
        Client(authority) as client,
    ):
        call = client.stream()
        chains = set()
        for _ in range(3):
            response = await call.read()
            assert isinstance(response, Response)
            chains.add(response.svids[0].x509_svid)

    assert len(chains) == 3


async def test_a_ca_rotation_shows_both_roots_first(sockets: str) -> None:
    async with DevelopmentAuthority(definition(sockets)) as authority, Client(authority) as client:
        call = client.stream()
        first = await call.read()
        authority.rotate_ca("example.org")
        published = await call.read()
        signed = await call.read()

    assert isinstance(first, Response)
    assert isinstance(published, Response)
    assert isinstance(signed, Response)
    assert first.svids[0].x509_svid == published.svids[0].x509_svid
    assert len(published.svids[0].bundle) > 1.5 * len(first.svids[0].bundle)
    assert signed.svids[0].x509_svid != first.svids[0].x509_svid
    assert signed.svids[0].bundle == published.svids[0].bundle


async def test_everybody_may_open_the_socket_and_it_is_gone_afterwards(sockets: str) -> None:
    async with DevelopmentAuthority(definition(sockets)):
        assert _socket_mode(sockets) == 0o777

    assert os.listdir(sockets) == []


def _socket_mode(folder: str) -> int:
    return stat.S_IMODE(Path(folder, "example.org.sock").stat().st_mode)


async def test_a_left_over_socket_is_replaced_and_a_served_one_is_not(sockets: str) -> None:
    path = Path(sockets, "example.org.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with DevelopmentAuthority(definition(sockets)) as authority, Client(authority) as client:
        assert await client.stream().read()

        with pytest.raises(UproxyError, match="is served already: is another authority running"):
            await DevelopmentAuthority(definition(sockets)).__aenter__()
        assert await client.stream().read()


async def test_a_client_that_speaks_no_http2_is_hung_up_on(sockets: str) -> None:
    async with DevelopmentAuthority(definition(sockets)) as authority:
        path = authority.endpoints["example.org"].removeprefix("unix://")
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")

        async with asyncio.timeout(10):
            await reader.read()
        writer.close()


async def test_many_come_and_go(sockets: str) -> None:
    async with DevelopmentAuthority(definition(sockets)) as authority:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(authority)) for _ in range(20)]
            seen = await asyncio.gather(*(_ids(client.stream()) for client in clients))
            assert seen == [[WEB]] * 20
        endpoint = authority._endpoints[0]
        await eventually(lambda: not endpoint._clients, "every client to be forgotten")


def test_it_serves_and_is_served_under_uvloop_too(sockets: str) -> None:
    async def both() -> str:
        async with DevelopmentAuthority(definition(sockets)) as authority:
            source = WorkloadApiSource(
                workload_api(authority.endpoints["example.org"]),
                spiffe_id=None,
                hint=None,
                revocation_grace=30,
                clock=lambda: datetime.now(UTC),
            )
            svid = (await fetch_once(source, timeout_s=10)).svid
            return svid.spiffe_id if svid else ""

    assert uvloop.run(both()) == WEB
