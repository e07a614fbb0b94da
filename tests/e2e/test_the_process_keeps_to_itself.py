"""What surrounds a running uProxy can't harm it: a log nobody reads, the environment, debuggers."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.endings import handshakes, metric
from tests.helpers.pair import Pair
from tests.helpers.privileges import unprivileged
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

QUEUE = 10_000
"""Lines that wait for a blocked standard output."""


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    with background(traffic.echo) as port:
        yield port


async def test_a_log_nobody_reads_blocks_no_relay_and_its_drops_are_counted(
    tmp_path: Path, echo: int
) -> None:
    pair = Pair(tmp_path, {"app": echo})
    plain = {"addresses": [f"127.0.0.1:{echo}"], "transport": "plaintext"}
    pair.frontend_config["destinations"]["app"] = plain
    pair.frontend.write_config(pair.frontend_config)
    with full_pipe(pair.frontend.log) as reading, pair.frontend:
        pair.frontend.wait_until_ready()
        port = pair.port("app")
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda _: come_and_go(port), range(QUEUE + 500)))
        dropped = metric(pair.frontend, "uproxy_log_dropped_lines_total")
        assert 0 < dropped <= 500
        await traffic.exchange(port, 1 << 20)
        assert pair.frontend.status("/readyz") == 200
        told = b""

        def says_drops() -> bool:
            nonlocal told
            with suppress(BlockingIOError):
                while more := os.read(reading, 1 << 16):
                    told += more
            return b"log lines were dropped: standard output is blocked" in told

        # some megabytes, a page at a look
        wait_until(says_drops, "the log to tell of it", timeout=60)
        assert b'"outcome":"closed"' in told


@contextmanager
def full_pipe(path: Path) -> Iterator[int]:
    """A pipe in place of a log, which holds a page; the descriptor to read it by."""
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4096)
        yield reading
    finally:
        os.close(reading)


def come_and_go(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.shutdown(socket.SHUT_WR)
        return client.recv(1) == b""


_OPENSSL_CONF = """\
openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = system
[system]
MaxProtocol = TLSv1.2
"""

_HARMED = """\
from OpenSSL import SSL
client, server = (SSL.Connection(SSL.Context(SSL.TLS_METHOD), None) for _ in range(2))
client.set_connect_state()
server.set_accept_state()
try:
    client.do_handshake()
except SSL.WantReadError:
    pass
hello = client.bio_read(65536)
print("TLS 1.3" if b"\\x00\\x2b" in hello else "TLS 1.2")
"""
"""Offers TLS 1.3 (extension supported_versions, RFC 8446 §4.2.1) unless somebody forbids it."""


def offer_with(env: dict[str, str]) -> str:
    """What a program without uProxy's care offers in that environment."""
    argv = [sys.executable, "-W", "ignore", "-c", _HARMED]
    done = subprocess.run(
        argv, env={**os.environ, **env}, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


async def test_openssls_variables_are_ignored(
    tmp_path: Path, echo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf, keys = tmp_path / "openssl.cnf", tmp_path / "keys"
    conf.write_text(_OPENSSL_CONF)
    harmful = {
        "OPENSSL_CONF": str(conf),
        "OPENSSL_MODULES": str(tmp_path),
        "SSLKEYLOGFILE": str(keys),
    }
    # the file is one that would matter: everybody else who uses this OpenSSL obeys it
    assert (offer_with({}), offer_with(harmful)) == ("TLS 1.3", "TLS 1.2")
    keys.unlink(missing_ok=True)
    for name, value in harmful.items():
        monkeypatch.setenv(name, value)
    with Pair(tmp_path, {"app": echo}) as pair:
        await traffic.exchange(pair.port("app"), 100_000)
        for uproxy in (pair.frontend, pair.orders):
            assert handshakes(uproxy, version="TLSv1.3", group="X25519MLKEM768") == 1
            wait_until(lambda: uproxy.accesses, "the end")  # noqa: B023  called at once
    assert not keys.exists()


def test_nobody_of_the_same_user_can_read_its_memory(tmp_path: Path, echo: int) -> None:
    pair = Pair(tmp_path, {"app": echo})
    pair.orders.argv = [*unprivileged(), *pair.orders.argv]
    ordinary = Process([*unprivileged(), "sleep", "60"], tmp_path / "sleep.log")
    with pair, ordinary:
        wait_until(lambda: Path(f"/proc/{ordinary.pid}/comm").read_text() == "sleep\n", "exec")
        for name in ("maps", "environ", "mem", "fd/0"):
            assert may_look(ordinary.pid, name), name
            assert not may_look(pair.orders.pid, name), name
        limits = Path(f"/proc/{pair.orders.pid}/limits").read_text()
        (core,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]
        assert "NoNewPrivs:\t1" in Path(f"/proc/{pair.orders.pid}/status").read_text()


def may_look(pid: int, name: str) -> bool:
    """Whether somebody of our user, without privileges, may open that of a process."""
    done = subprocess.run(
        [*unprivileged(), sys.executable, "-c", f"open('/proc/{pid}/{name}', 'rb')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or "PermissionError" in done.stderr, done.stderr
    return done.returncode == 0


def test_no_key_is_ever_written_or_shown(tmp_path: Path, echo: int) -> None:
    with Pair(tmp_path, {"app": echo}) as pair:
        secret = (tmp_path / "shop" / "svid.key").read_text()
        inner = "".join(secret.splitlines()[1:-1])
        assert pair.orders.request("/logging?level=debug", "POST")[0] == 200
        assert come_and_go(pair.port("app"))
        wait_until(lambda: pair.orders.accesses, "an access line")
        pages = ("/config_dump", "/certs", "/connections", "/metrics", "/status.json", "/", "/l7")
        told = "".join(pair.orders.request(page)[1] for page in pages) + pair.orders.output
        for part in (inner[:40], inner[40:80], "PRIVATE KEY"):
            assert part not in told.replace("\\n", "")
