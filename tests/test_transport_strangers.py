"""The distribution's `openssl s_client` and `s_server`: TLS by somebody else's library."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route, verifier
from tests.helpers.streams import Stream, Upstream, listening
from uproxy.contract import Engine
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.ports import free_port, listens
from uproxy.lab.processes import Process
from uproxy.model import Direction, Outcome, Role, TcpAddress, TlsSettings

engine = engines.engine

OURS = Authority("example.org")
US = OURS.issue("/ns/shop/sa/orders")
PEER = OURS.issue("/ns/web/sa/frontend")
TIMEOUT_S = 10.0
CLASSIC = TlsSettings(min_version="1.2")


def write(folder: Path, shows: Issued, name: str = "peer") -> list[str]:
    """The options that make openssl show a certificate and trust our root."""
    (folder / f"{name}.pem").write_bytes(shows.pem)
    (folder / f"{name}.key").write_bytes(shows.key_pem)
    (folder / "root.pem").write_bytes(OURS.pem)
    return ["-cert", f"{folder}/{name}.pem", "-key", f"{folder}/{name}.key",
            "-cert_chain", f"{folder}/{name}.pem", "-CAfile", f"{folder}/root.pem"]  # fmt: skip


class Client:
    """An `openssl s_client` with its standard input and output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.output = ""

    async def type(self, text: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        await self._process.stdin.drain()

    async def read_until(self, pattern: str) -> str:
        """Its output so far, once it matches."""
        assert self._process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            while not re.search(pattern, self.output):
                more = await self._process.stdout.read(1 << 16)
                assert more, f"ended without {pattern!r}: {self.output}"
                self.output += more.decode(errors="replace")
        return self.output

    async def end(self) -> str:
        """Close its input, and all it has said."""
        async with asyncio.timeout(TIMEOUT_S):
            rest, _ = await self._process.communicate()
        return self.output + rest.decode(errors="replace")


@asynccontextmanager
async def s_client(address: TcpAddress, *options: str) -> AsyncIterator[Client]:
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", str(address), "-noservername", *options,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield Client(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def inbound(
    engine: Engine, settings: TlsSettings = CLASSIC
) -> AsyncIterator[tuple[RecordingDoor, TcpAddress, Upstream]]:
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS), settings=settings)
    async with listening() as application:
        door = RecordingDoor(Direction.INBOUND, route(application.address), ours)
        async with open_door(engine, door) as address:
            assert isinstance(address, TcpAddress)
            yield door, address, application


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_s_client_is_served_and_half_closes(
    engine: Engine, tmp_path: Path, version: str
) -> None:
    async with inbound(engine) as (door, address, application):
        options = [*write(tmp_path, PEER), version, "-quiet", "-verify_return_error"]
        # named, because an OpenSSL of 3.5 or later would take X25519MLKEM768
        async with s_client(address, *options, "-groups", "X25519:P-256") as client:
            await client.type(b"a question\n")
            there = await application.accept()
            assert await there.receive_exactly(11) == b"a question\n"
            await there.send(b"an answer\n")
            await client.read_until("an answer")
            await client.type(b"Q\n")  # with -quiet no command, but bytes
            assert await there.receive_exactly(2) == b"Q\n"
            there.close()
            await client.end()
        ending = await door.ending()
    assert (ending.bytes_received, ending.bytes_sent) == (13, 10)
    connection = door.endings[0][0]
    assert connection.tls is not None
    assert connection.tls.version == {"-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}[version]
    assert connection.tls.group == "x25519"


async def test_tls_1_3_hands_out_no_ticket_and_resumes_nothing(
    engine: Engine, tmp_path: Path
) -> None:
    options = [*write(tmp_path, PEER), "-tls1_3", "-msg"]
    session = tmp_path / "session"
    async with inbound(engine) as (door, address, application):
        async with s_client(address, *options, "-sess_out", str(session)) as client:
            there = await application.accept()
            await there.send(b"served\n")
            await client.read_until("served")
            there.close()
            said = await client.end()
        await door.ending()
    assert "New, TLSv1.3" in said
    assert "NewSessionTicket" not in said
    assert not session.exists()


async def test_a_session_of_tls_1_2_resumes_nothing(engine: Engine, tmp_path: Path) -> None:
    options = [*write(tmp_path, PEER), "-tls1_2", "-reconnect"]
    async with inbound(engine) as (door, address, application):
        async with s_client(address, *options) as client:
            for _ in range(6):
                (await application.accept()).close()
            said = await client.end()
        await door.ending(6)
    assert said.count("New, TLSv1.2") == 6
    assert "Reused" not in said
    assert len(door.arrivals) == 6
    assert all(arrival.peer is not None for arrival in door.arrivals)


async def test_s_client_without_a_certificate_hears_what_is_missing(
    engine: Engine, tmp_path: Path
) -> None:
    async with inbound(engine) as (door, address, _application):
        async with s_client(address, "-tls1_3") as client:
            await client.read_until("alert certificate required")
        assert (await door.ending()).outcome is Outcome.HANDSHAKE_FAILED


async def test_s_client_of_another_authority_hears_unknown_ca(
    engine: Engine, tmp_path: Path
) -> None:
    stranger = Authority("stranger.test").issue()
    async with inbound(engine) as (door, address, _application):
        for version in ("-tls1_2", "-tls1_3"):
            async with s_client(address, *write(tmp_path, stranger), version) as client:
                await client.read_until("alert unknown ca")
        ending = await door.ending(2)
    assert ending.outcome is Outcome.PEER_UNTRUSTED


async def test_tls_1_2_is_refused_unless_asked_for(engine: Engine, tmp_path: Path) -> None:
    async with inbound(engine, TlsSettings()) as (door, address, _application):
        async with s_client(address, *write(tmp_path, PEER), "-tls1_2") as client:
            await client.read_until("alert protocol version")
        ending = await door.ending()
    assert ending.outcome is Outcome.HANDSHAKE_FAILED
    assert ending.reason == "no TLS version in common"


async def test_tls_1_2_speaks_only_what_has_forward_secrecy_and_aead(
    engine: Engine, tmp_path: Path
) -> None:
    async with inbound(engine) as (door, address, _application):
        for cipher in (
            "ECDHE-ECDSA-AES128-SHA256",
            "AES128-GCM-SHA256",
            "DHE-RSA-AES128-GCM-SHA256",
        ):
            options = [*write(tmp_path, PEER), "-tls1_2", "-cipher", cipher]
            async with s_client(address, *options) as client:
                await client.read_until("alert handshake failure")
        assert (await door.ending(3)).reason == "no cipher in common"


async def test_a_renegotiation_is_refused(engine: Engine, tmp_path: Path) -> None:
    options = [*write(tmp_path, PEER), "-tls1_2"]
    async with inbound(engine) as (door, address, application):
        async with s_client(address, *options) as client:
            await client.read_until("Verify return code: 0")
            there = await application.accept()
            await client.type(b"R\n")
            await client.read_until("no renegotiation")
        there.close()
        await door.ending()
    assert len(door.arrivals) == 1


async def test_a_key_update_passes_unnoticed(engine: Engine, tmp_path: Path) -> None:
    options = [*write(tmp_path, PEER), "-tls1_3"]
    async with inbound(engine) as (door, address, application):
        async with s_client(address, *options) as client:
            there = await application.accept()
            for _ in range(3):
                await client.type(b"K\n")  # asks us to update ours as well
                await client.read_until("KEYUPDATE")
                await there.send(b"with a new key\n")
                await client.read_until("with a new key")
                client.output = ""
            await client.type(b"done\n")
            assert await there.receive_exactly(5) == b"done\n"
            there.close()
            await client.end()
        await door.ending()


async def test_a_killed_s_client_is_a_truncation(engine: Engine, tmp_path: Path) -> None:
    async with inbound(engine) as (door, address, application):
        async with s_client(address, *write(tmp_path, PEER), "-quiet") as client:
            await client.type(b"half\n")
            there = await application.accept()
            assert await there.receive_exactly(5) == b"half\n"
        assert await there.is_reset()
        assert (await door.ending()).outcome is Outcome.RESET


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_s_server_answers_us(engine: Engine, tmp_path: Path, version: str) -> None:
    port = free_port()
    options = [*write(tmp_path, PEER), version, "-Verify", "3", "-verify_return_error", "-rev"]
    argv = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", *options]
    tls = plan(Role.CLIENT, US, verifier(Role.SERVER, OURS), settings=CLASSIC)
    upstream = TcpAddress("127.0.0.1", port)
    with Process(argv, tmp_path / "s_server.log") as server:
        server.wait_ready(lambda: "ACCEPT" in server.output or listens(port))
        door = RecordingDoor(Direction.OUTBOUND, route(upstream, tls=tls))
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            await downstream.send(b"stressed\n")
            assert await downstream.receive_exactly(9) == b"desserts\n"
            downstream.finish()
            assert await downstream.receive_all() == b""
            ending = await door.ending()
    assert ending.outcome is Outcome.CLOSED


async def test_an_s_server_that_does_not_trust_us_says_so(engine: Engine, tmp_path: Path) -> None:
    port = free_port()
    stranger = Authority("stranger.test")
    tls = plan(Role.CLIENT, stranger.issue(), verifier(Role.SERVER, OURS), settings=CLASSIC)
    options = [*write(tmp_path, PEER), "-Verify", "3", "-verify_return_error", "-rev"]
    argv = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", *options]
    with Process(argv, tmp_path / "s_server.log") as server:
        server.wait_ready(lambda: listens(port))
        door = RecordingDoor(Direction.OUTBOUND, route(TcpAddress("127.0.0.1", port), tls=tls))
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            assert await downstream.is_reset()
            ending = await door.ending()
    assert ending.outcome is Outcome.HANDSHAKE_FAILED
    assert ending.reason == (
        "the peer refused our certificate (unknown ca): it may lack a bundle for stranger.test"
    )
