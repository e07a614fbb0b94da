"""The software the other end-to-end tests talk to works by itself, without uProxy between.

When one of these fails, the machine or a helper is at fault, not uProxy.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.apps import Nginx, Postgres, Redis, download, sha256_of, upload, write_file
from uproxy.lab.identities import IdentityFiles, write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.software.envoy import EnvoyClient, EnvoyServer
from uproxy.lab.software.peers import GhostunnelClient, GhostunnelServer, SServer, s_client
from uproxy.lab.waiting import eventually

WEB = "spiffe://example.org/ns/web/sa/frontend"
DB = "spiffe://example.org/ns/db/sa/orders"
STRANGER = "spiffe://example.org/ns/web/sa/stranger"
MIB = 1 << 20


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("example.org")


def identity(folder: Path, authority: Authority, spiffe_id: str) -> IdentityFiles:
    path = spiffe_id.removeprefix("spiffe://example.org")
    issued = authority.issue(path, ips=("127.0.0.1",))
    return write_identity(folder / path.replace("/", "-"), issued, authority.pem)


@pytest.fixture
def web(tmp_path: Path, authority: Authority) -> IdentityFiles:
    return identity(tmp_path, authority, WEB)


@pytest.fixture
def db(tmp_path: Path, authority: Authority) -> IdentityFiles:
    return identity(tmp_path, authority, DB)


def test_postgresql_answers_over_tcp_and_its_unix_socket() -> None:
    with Postgres() as postgres:
        assert postgres.psql("select 1", postgres.port) == "1"
        assert postgres.psql("select 2", postgres.port, str(postgres.folder)) == "2"
    assert not postgres.folder.exists()


def test_postgresql_copies_rows_in_and_out(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.write_text("".join(f"{number}\t{number * number}\n" for number in range(10_000)))
    back = tmp_path / "back"
    with Postgres() as postgres, rows.open("rb") as stdin, back.open("wb") as stdout:
        postgres.psql("create table squares (a int, b int)", postgres.port)
        postgres.psql("copy squares from stdin", postgres.port, stdin=stdin)
        postgres.psql("copy squares to stdout", postgres.port, stdout=stdout)
    assert back.read_bytes() == rows.read_bytes()


def test_redis_keeps_a_value_and_takes_a_benchmark(tmp_path: Path) -> None:
    with Redis(tmp_path) as redis:
        assert redis.cli("set", "color", "green", port=redis.port) == "OK"
        assert redis.cli("get", "color", port=redis.port) == "green"
        assert "GET" in redis.benchmark(redis.port, requests=500, clients=4)


def test_redis_can_be_killed_and_started_again_on_its_port(tmp_path: Path) -> None:
    with Redis(tmp_path) as redis:
        redis.stop()
        with pytest.raises(subprocess.CalledProcessError):
            redis.cli("ping", port=redis.port)
        redis.start()
        assert redis.cli("ping", port=redis.port) == "PONG"


def test_nginx_serves_and_takes_a_file_that_stays_the_same(tmp_path: Path) -> None:
    with Nginx(tmp_path) as nginx:
        digest = write_file(nginx.www / "file", 3 * MIB + 1)
        url = f"http://127.0.0.1:{nginx.port}"
        assert download(f"{url}/file") == (3 * MIB + 1, digest)
        upload(nginx.www / "file", f"{url}/copy")
        assert sha256_of(nginx.www / "copy") == digest
        with pytest.raises(subprocess.CalledProcessError, match="status 22"):
            download(f"{url}/nothing")


def test_openssl_talks_to_openssl(tmp_path: Path, web: IdentityFiles, db: IdentityFiles) -> None:
    with SServer(tmp_path, db) as server:
        heard = s_client(server.port, web, "-tls1_3", send=b"hello\n", expect=6)
        assert heard.data == b"olleh\n"


def test_an_openssl_server_wants_a_certificate(tmp_path: Path, db: IdentityFiles) -> None:
    with SServer(tmp_path, db) as server:
        heard = s_client(server.port, None, send=b"hello\n")
        assert heard.data == b""
        assert "certificate required" in heard.words


async def test_a_ghostunnel_talks_to_a_ghostunnel(
    tmp_path: Path, web: IdentityFiles, db: IdentityFiles
) -> None:
    async with traffic.serving(traffic.echo) as app:
        with (
            GhostunnelServer(tmp_path, db, target=app, allow=[WEB]) as server,
            GhostunnelClient(tmp_path, web, target=server.port, verify=[DB]) as client,
        ):
            await traffic.exchange(client.port, MIB, half_close=False)


async def test_a_ghostunnel_refuses_a_stranger(
    tmp_path: Path, authority: Authority, db: IdentityFiles
) -> None:
    stranger = identity(tmp_path, authority, STRANGER)
    async with traffic.serving(traffic.echo) as app:
        with (
            GhostunnelServer(tmp_path, db, target=app, allow=[WEB]) as server,
            GhostunnelClient(tmp_path, stranger, target=server.port, verify=[DB]) as client,
        ):
            with pytest.raises((AssertionError, OSError)):
                await traffic.exchange(client.port, 1000)
            await eventually(lambda: "unauthorized" in server.output, "ghostunnel's refusal")


async def test_an_envoy_talks_to_an_envoy(
    tmp_path: Path, web: IdentityFiles, db: IdentityFiles
) -> None:
    async with traffic.serving(traffic.echo) as app:
        with (
            EnvoyServer(tmp_path, db, target=app, allow=[WEB]) as server,
            EnvoyClient(tmp_path, web, target=server.port, expect=[DB]) as client,
        ):
            await traffic.exchange(client.port, MIB)
            assert client.statistics()["cluster.target.ssl.versions.TLSv1.3"] == 1


@pytest.mark.parametrize(("sessions_kept", "resumed"), [(1, 2), (0, 0)])
def test_an_envoy_client_resumes_the_session_it_has_kept(
    tmp_path: Path, web: IdentityFiles, db: IdentityFiles, sessions_kept: int, resumed: int
) -> None:
    tls = {"max_session_keys": sessions_kept}
    with (
        SServer(tmp_path, db) as server,
        EnvoyClient(tmp_path, web, target=server.port, expect=[DB], tls=tls) as client,
    ):
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", client.port), 10.0) as sock:
                sock.sendall(b"hello\n")
                assert sock.recv(100) == b"olleh\n"
        assert client.statistics()["cluster.target.ssl.handshake"] == 3
        assert client.statistics()["cluster.target.ssl.session_reused"] == resumed


async def test_an_envoy_refuses_a_stranger(
    tmp_path: Path, authority: Authority, db: IdentityFiles
) -> None:
    stranger = identity(tmp_path, authority, STRANGER)
    async with traffic.serving(traffic.echo) as app:
        with (
            EnvoyServer(tmp_path, db, target=app, allow=[WEB]) as server,
            EnvoyClient(tmp_path, stranger, target=server.port, expect=[DB]) as client,
        ):
            with pytest.raises((AssertionError, OSError)):
                await traffic.exchange(client.port, 1000)
            refused = server.statistics("ssl.fail_verify_san")
    assert sum(refused.values()) == 1


async def test_an_envoy_talks_to_a_ghostunnel(
    tmp_path: Path, web: IdentityFiles, db: IdentityFiles
) -> None:
    async with traffic.serving(traffic.echo) as app:
        with (
            GhostunnelServer(tmp_path, db, target=app, allow=[WEB]) as server,
            EnvoyClient(tmp_path, web, target=server.port, expect=[DB]) as client,
        ):
            await traffic.exchange(client.port, MIB, half_close=False)


async def test_an_app_that_answers_after_a_half_close_is_heard() -> None:
    async with traffic.serving(traffic.answer_digest) as app:
        await traffic.deliver(app, MIB + 7)


async def test_an_app_that_speaks_first_is_heard() -> None:
    async with traffic.serving(traffic.send_content(MIB, seed=3)) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app)
        assert await traffic.receive(reader) == (MIB, traffic.digest_of(MIB, seed=3))
        await traffic.close(writer)


async def test_a_changed_byte_is_noticed() -> None:
    async def liar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(1000)
        writer.write(data[:-1] + bytes([data[-1] ^ 1]))

    async with traffic.serving(liar) as app:
        with pytest.raises(AssertionError):
            await traffic.exchange(app, 1000)


async def test_a_reset_is_a_reset() -> None:
    async with traffic.serving(traffic.reset_after(4)) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app)
        writer.write(b"data")
        with pytest.raises(ConnectionResetError):
            await traffic.receive(reader)
        await traffic.close(writer)


async def test_an_app_that_does_not_read_stops_its_sender() -> None:
    async with traffic.serving(traffic.never_read) as app:
        with socket.create_connection(("127.0.0.1", app)) as sock:
            sent = await asyncio.to_thread(traffic.fill, sock)
    assert 0 < sent < 64 * MIB


def test_a_process_that_ends_early_tells_its_words(tmp_path: Path) -> None:
    nowhere = IdentityFiles(tmp_path / "no-svid", tmp_path / "no-key", tmp_path / "no-bundle")
    with pytest.raises(AssertionError, match="no-key"), SServer(tmp_path, nowhere):
        pytest.fail("it can't be ready")
