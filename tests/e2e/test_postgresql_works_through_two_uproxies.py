"""PostgreSQL behind one uProxy, its clients behind another: psql, COPY, many, LISTEN, sockets."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.apps import Postgres, sha256_of
from tests.helpers.pair import FRONTEND, MTLS, ORDERS, TUNNELS, Pair, Way
from uproxy.lab.waiting import wait_until

MIB = 1 << 20
COPIED = 200 * MIB


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    """A folder everybody may look into, whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="uproxy-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=[MTLS, *TUNNELS], ids=str)
def pair(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres: Postgres,
    sockets: Path,
) -> Iterator[Pair]:
    way: Way = request.param
    applications: dict[str, str | int] = {"db": postgres.port}
    if way == MTLS:
        applications["db-by-socket"] = f"unix://{postgres.folder}/.s.PGSQL.{postgres.port}"
    pair = Pair(tmp_path_factory.mktemp("pair"), applications, way)
    pair.frontend_config["outbound"] += [
        {"listen": f"unix://{sockets}/.s.PGSQL.1", "to": "db", "mode": "0660"},
        {
            "listen": f"unix://{sockets}/.s.PGSQL.2",
            "to": "db",
            "mode": "0600",
            "owner": _somebody(),
        },
    ]
    with pair:
        yield pair


def _somebody() -> str:
    """A user other than root, if we can be others."""
    return "postgres:postgres" if os.geteuid() == 0 else str(os.geteuid())


def test_psql_gets_its_answer_and_both_logs_name_both_workloads(pair: Pair) -> None:
    assert Postgres.psql("select 6 * 7", pair.port("db")) == "42"
    for uproxy in (pair.frontend, pair.orders):
        wait_until(lambda: uproxy.accesses, "an access line")  # noqa: B023  called at once
        line = uproxy.accesses[-1]
        assert (line["src.identity"], line["dst.identity"]) == (FRONTEND, ORDERS)
        assert line["outcome"] == "closed"


def test_a_large_copy_goes_in_and_comes_back_whole(pair: Pair, tmp_path: Path) -> None:
    rows, back = tmp_path / "rows", tmp_path / "back"
    size = COPIED if pair.way == MTLS else COPIED // 8
    write_rows(rows, size)
    port = pair.port("db")
    Postgres.psql("create unlogged table copied (n int, noise text)", port)
    try:
        with rows.open("rb") as stdin:
            Postgres.psql("copy copied from stdin", port, stdin=stdin)
        with back.open("wb") as stdout:
            # a scan that begins elsewhere would give the rows in another order
            sql = "set synchronize_seqscans = off; copy copied to stdout"
            Postgres.psql(sql, port, stdout=stdout)
    finally:
        Postgres.psql("drop table copied", port)
    assert back.stat().st_size >= size
    assert sha256_of(back) == sha256_of(rows)


def test_many_short_connections_each_get_their_own_answer(pair: Pair) -> None:
    port = pair.port("db")

    def ask(number: int) -> str:
        return Postgres.psql(f"select {number} * 1000003", port)

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, range(120)))
    assert answers == [str(number * 1000003) for number in range(120)]


def test_a_notification_reaches_a_client_that_has_long_been_silent(pair: Pair) -> None:
    port = pair.port("db")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        startup = struct.pack("!i", 196608) + b"user\0postgres\0database\0postgres\0\0"
        client.sendall(struct.pack("!i", len(startup) + 4) + startup)
        _read_until(client, b"Z")
        query = b"listen news\0"
        client.sendall(b"Q" + struct.pack("!i", len(query) + 4) + query)
        _read_until(client, b"Z")
        for number in range(10):
            assert Postgres.psql(f"select {number}", port) == str(number)
        Postgres.psql("notify news, 'here it is'", port)
        assert _read_until(client, b"A").endswith(b"news\0here it is\0")


@pytest.mark.parametrize("pair", [MTLS], ids=str, indirect=True)
@pytest.mark.parametrize("transfer", ["select", "copy"])
def test_the_application_may_listen_at_a_unix_socket(pair: Pair, transfer: str) -> None:
    port = pair.port("db-by-socket")
    if transfer == "select":
        # of a connection by socket, PostgreSQL knows no address
        assert Postgres.psql("select inet_client_addr() is null", port) == "t"
    else:
        rows = Postgres.psql("copy (select generate_series(1, 200000)) to stdout", port)
        assert rows == "\n".join(map(str, range(1, 200001)))


def test_a_client_may_come_by_a_unix_socket(pair: Pair, sockets: Path) -> None:
    assert Postgres.psql("select 1", 1, str(sockets)) == "1"
    assert stat.S_IMODE((sockets / ".s.PGSQL.1").stat().st_mode) == 0o660


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="to become other users needs root")
def test_a_unix_socket_lets_in_nobody_but_its_owner(pair: Pair, sockets: Path) -> None:
    facts = (sockets / ".s.PGSQL.2").stat()
    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert (sockets / ".s.PGSQL.2").owner() == "postgres"
    assert (sockets / ".s.PGSQL.2").group() == "postgres"
    assert _psql_as("postgres", sockets).stdout == "2\n"
    refused = _psql_as("nobody", sockets)
    assert refused.returncode == 2
    assert "Permission denied" in refused.stderr


def _psql_as(user: str, folder: Path) -> subprocess.CompletedProcess[str]:
    argv = ["psql", "-X", "-A", "-t", "-h", str(folder), "-p", "2", "-U", "postgres"]
    return subprocess.run(
        [*argv, "-c", "select 2"],
        user=user, group=pwd.getpwnam(user).pw_gid, extra_groups=[], cwd="/",
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def _read_until(client: socket.socket, kind: bytes) -> bytes:
    """The body of the next message of this kind; others are passed over, an error is not."""
    while True:
        found = _read(client, 1)
        assert found != b"E" or kind == b"E"
        body = _read(client, struct.unpack("!i", _read(client, 4))[0] - 4)
        if found == kind:
            return body


def _read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        assert more, "the server ended the connection"
        data += more
    return data


def write_rows(path: Path, size: int) -> None:
    """At least `size` bytes of rows, none like another."""
    noise = os.urandom(1000).hex()
    with path.open("w") as file:
        for number in range(size // 2000):
            file.write(f"{number}\t{noise[number % 1000 :]}{noise[: number % 1000]}\n")
