"""What a process is started with, and what is sent to it: signals, Python's switches, standard
descriptors that are closed or full, limits."""

from __future__ import annotations

import ast
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.pair import Pair
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Process, Uproxy
from uproxy.lab.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    with background(traffic.echo) as port:
        yield port


@pytest.fixture
def pair(tmp_path: Path, echo: int) -> Pair:
    return Pair(tmp_path, {"app": echo})


# Signals.

STRAY = ("USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "PIPE", "WINCH", "URG", "CONT")


def test_signals_that_mean_nothing_end_nothing(pair: Pair) -> None:
    with pair, socket.create_connection(("127.0.0.1", pair.port("app")), 10) as client:
        for name in STRAY:
            for uproxy in (pair.frontend, pair.orders):
                uproxy.send(signal.Signals[f"SIG{name}"])
            client.sendall(name.encode())
            assert client.recv(100) == name.encode()


def held_back(process: Process, number: signal.Signals) -> bool:
    """Whether the process has come so far that the signal waits for it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_while_it_starts_does_not_end_it(pair: Pair, number: signal.Signals) -> None:
    uproxy = pair.orders
    uproxy.is_ready = lambda: held_back(uproxy, signal.SIGHUP)  # type: ignore[method-assign]  # as it starts
    with uproxy:
        uproxy.send(number)
        uproxy.wait_until_ready()
        if number is signal.SIGHUP:
            wait_until(lambda: "reloaded" in uproxy.output, "the reload that was asked for")


def test_sigterm_while_it_starts_ends_it_in_order(pair: Pair) -> None:
    uproxy = pair.orders
    uproxy.is_ready = lambda: held_back(uproxy, signal.SIGTERM)  # type: ignore[method-assign]  # as it starts
    with uproxy:
        uproxy.send(signal.SIGTERM)
        assert uproxy.wait() == 0
        # nothing to drain, or nothing was open; whatever it has opened by then is drained
        assert not uproxy.output or "drained: 0 connections" in uproxy.output


# Python's switches.


@pytest.mark.parametrize("level", ["1", "2"])
async def test_without_assertions_and_docstrings_it_does_the_same(pair: Pair, level: str) -> None:
    for uproxy in (pair.frontend, pair.orders):
        uproxy._env = {"PYTHONOPTIMIZE": level}
    with pair:
        await traffic.exchange(pair.port("app"), 100_000)
        scrape = http.client.HTTPConnection("127.0.0.1", pair.orders.admin_port, timeout=10)
        with contextlib.closing(scrape):
            for _ in range(3):
                scrape.request("GET", "/metrics")
                assert b"uproxy_handshakes_total" in scrape.getresponse().read()
        admin = f"127.0.0.1:{pair.orders.admin_port}"
        argv = [sys.executable, "-m", "uproxy", "status", "--admin", admin]
        status = Process(argv, pair.orders.log.with_name("status.log"), env=pair.orders._env)
        status.is_ready = lambda: not status.running  # type: ignore[method-assign]  # it ends
        with contextlib.suppress(AssertionError):
            status.start()
        assert status.wait() == 0, status.output
        pair.orders.send(signal.SIGHUP)
        wait_until(lambda: "reloaded" in pair.orders.output, "a reload")


def test_no_assertion_does_work_or_carries_a_check() -> None:
    """They may tell the type checker what it can't see, and nothing else."""
    for path in sorted((ROOT / "uproxy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                calls = [each for each in ast.walk(node.test) if isinstance(each, ast.Call)]
                functions = {ast.unparse(each.func) for each in calls}
                assert functions <= {"isinstance"}, f"{path}: {ast.unparse(node)}"
                arguments = [each for call in calls for each in call.args[:1]]
                assert all(isinstance(each, ast.Name | ast.Attribute) for each in arguments)


# Standard descriptors.


def started_by(uproxy: Uproxy, redirections: str) -> None:
    uproxy.argv = ["sh", "-c", f'exec "$@" {redirections}', "sh", *uproxy.argv]


async def test_closed_standard_descriptors_are_not_taken_by_sockets(pair: Pair) -> None:
    for uproxy in (pair.frontend, pair.orders):
        started_by(uproxy, "<&- >&- 2>&-")
    with pair:
        await traffic.exchange(pair.port("app"), 100_000)
        for uproxy in (pair.frontend, pair.orders):
            for number in range(3):
                assert os.readlink(f"/proc/{uproxy.pid}/fd/{number}") == "/dev/null"


async def test_a_full_standard_output_and_error_stop_nothing(pair: Pair) -> None:
    for uproxy in (pair.frontend, pair.orders):
        started_by(uproxy, ">/dev/full 2>&1")
    with pair:
        await traffic.exchange(pair.port("app"), 100_000)


@pytest.mark.parametrize("redirections", ["2>/dev/full", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_a_mistake_that_cannot_be_told_keeps_its_exit_code(
    tmp_path: Path, redirections: str
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("naem: x\n")
    for command in ("run", "check"):
        argv = [sys.executable, "-m", "uproxy", command, "--config", str(wrong)]
        ran = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirections}', "sh", *argv], capture_output=True, check=False
        )
        assert ran.returncode == 2, (command, ran.stderr)
        assert b"Traceback" not in ran.stderr


# Limits.


@pytest.mark.parametrize(
    "limit",
    ["--nofile=8", "--nofile=16", "--nofile=40", "--nofile=70", "--as=25000000", "--as=51000000"],
)
def test_a_limit_too_tight_to_run_is_told_in_one_line(pair: Pair, limit: str) -> None:
    pair.orders.write_config({**pair.orders_config, "log": {"level": "error"}})
    ran = subprocess.run(
        ["prlimit", limit, *pair.orders.argv], capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stdout == ""
    [told] = ran.stderr.splitlines()
    assert told.startswith("uproxy: error: ")
    assert "raise" in told or "ask for fewer" in told


def test_admin_clients_take_no_descriptor_that_connections_count_on(
    pair: Pair, tmp_path: Path
) -> None:
    """As many callers as it says that fit are carried, beside a crowd on `ready`."""
    ready = free_port()
    pair.orders_config["admin"] = {**pair.orders._admin, "ready": f"0.0.0.0:{ready}"}
    door = {"listen": f"127.0.0.1:{free_port()}", "transport": "plaintext"}
    pair.orders_config["inbound"].append({**door, "to": pair.orders_config["inbound"][0]["to"]})
    rule = {"name": "all", "action": "allow", "from": {"unauthenticated": True}}
    pair.orders_config["authorization"].append(rule)
    pair.orders.argv = ["prlimit", "--nofile=300:300", *pair.orders.argv]
    with pair, contextlib.ExitStack() as crowd:
        [clamped] = [line for line in pair.orders.lines if "is clamped to" in line["message"]]
        fitting = int(clamped["message"].split("clamped to ")[1].split()[0])
        assert 10 < fitting < 150
        for number in range(200):
            client = socket.create_connection(("127.0.0.1", ready), 10, (f"127.0.1.{number}", 0))
            crowd.enter_context(client).sendall(b"G")
        port = int(door["listen"].rpartition(":")[2])
        for _ in range(fitting):
            client = crowd.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        pair.orders.send(signal.SIGHUP)
        wait_until(lambda: "reloaded" in pair.orders.output, "a reload beside them")


def test_one_client_of_ready_starves_no_probe(pair: Pair) -> None:
    """It connects as fast as it can, holds hundreds of connections, and says nothing."""
    ready = free_port()
    pair.orders_config["admin"] = {**pair.orders._admin, "ready": f"0.0.0.0:{ready}"}
    with pair, flood(ready):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", ready), 5) as probe:
                time.sleep(0.005)  # a round trip of a network
                probe.settimeout(5)
                probe.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert probe.recv(100).startswith(b"HTTP/1.1 200 ")


_FLOOD = """
import os, socket, sys
os.nice(5)
held = []
print("on", flush=True)
while True:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", int(sys.argv[1])))
    held.append(client)
    if len(held) > 300:
        held.pop(0).close()
"""


@contextlib.contextmanager
def flood(port: int) -> Iterator[None]:
    argv = [sys.executable, "-c", _FLOOD, str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as flooding:
        assert flooding.stdout is not None
        assert flooding.stdout.readline() == b"on\n"
        try:
            yield
        finally:
            flooding.kill()
