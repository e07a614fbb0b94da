"""Programs that never heard of uProxy, captured, reach services that never did, through two.

Each resolves the service's name in its own way and connects in its own way; what they reach, and as
whom, is read from the service's answer and both access logs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import capture_app, capture_service, capture_web
from tests.helpers.apps import Postgres
from tests.helpers.capture_mesh import NAME, Mesh, as_json, at
from tests.helpers.capture_world import HOST, HOST6, POD, POD6, SECOND, World, existing
from uproxy.lab.software.golang import peer

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "tests" / "peers"
SSH, WEB, DB, KEYS, LINES = 22, 8080, 5432, 6379, 7777
MANY = 20_000_000
SSHD = """\
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
StrictModes no
UsePAM no
PidFile none
"""


@pytest.fixture(scope="module", params=["ebpf", "nft"])
def mesh(
    request: pytest.FixtureRequest, bpffs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mesh]:
    """Both workloads, with a web server and a service whose processes share their sockets."""
    folder = tmp_path_factory.mktemp("mesh")
    python = sys.executable
    with (
        existing(World(folder, bpffs, request.param)) as world,
        Mesh(world, (SSH, WEB, DB, KEYS, LINES)) as made,
        made.serve(python, capture_web.__file__, str(WEB)),
        made.serve(python, capture_service.__file__, str(LINES), "4"),
    ):
        yield made


def connect(mesh: Mesh, address: str, *options: str, port: int = LINES) -> dict[str, Any]:
    """Let tests/helpers/capture_app.py connect."""
    words = [sys.executable, capture_app.__file__, address, str(port), *options]
    return as_json(mesh.call(*words))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), {(HOST6, POD6), (HOST, POD)}),
        (("-4",), {(HOST, POD)}),
        (("-6",), {(HOST6, POD6)}),
        (("--happy-eyeballs-timeout-ms", "1"), {(HOST6, POD6), (HOST, POD)}),
        (("-4", "--tcp-fastopen"), {(HOST, POD)}),
        (("-4", "--interface", POD, "--local-port", "41000-41010"), {(HOST, POD)}),
    ],
    ids=["races", "four", "six", "races-closely", "fast-open", "bound"],
)
def test_curl(mesh: Mesh, options: tuple[str, ...], wanted: set[tuple[str, str]]) -> None:
    sees = "\n%{remote_ip} %{local_ip}"
    said = mesh.call("curl", "-sS", "-m", "20", *options, "-w", sees, f"http://{NAME}:{WEB}/")
    answer, _, seen = said.rpartition("\n")
    remote, local = seen.split()
    assert (remote, local) in wanted
    assert json.loads(answer)["reached"] == [remote, WEB]
    # of two that race the one that loses may have been made too
    made = mesh.seen()
    assert at(remote, WEB) in made
    assert made <= {at(address, WEB) for address, _ in wanted}


def test_curl_moves_large_files_both_ways(mesh: Mesh, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"\x5a" * MANY)
    wanted = hashlib.sha256(large.read_bytes()).hexdigest()
    url = f"http://{NAME}:{WEB}"
    assert mesh.call("curl", "-sS4", "--data-binary", f"@{large}", url) == wanted
    fetched = mesh.call("sh", "-c", f"curl -sS4 {url}/bytes/{MANY} | sha256sum")
    assert fetched.split()[0] == wanted
    mesh.check(*[at(HOST, WEB)] * 2)


def test_psql(mesh: Mesh) -> None:
    with Postgres(DB, inside=mesh.serving()) as database:
        words = ["psql", "-X", "-q", "-A", "-t", "-h", NAME, "-p", str(DB), "-U", "postgres"]
        server = mesh.call(*words, "-c", "select host(inet_server_addr()) || ' ' || 6 * 7")
        address, answer = server.split()
        assert answer == "42"
        mesh.check(at(address, DB))
        rows = "select count(*), sum(n) from generate_series(1, 100000) n"
        assert mesh.call(*words, "-h", HOST, "-c", rows) == "100000|5000050000"
        mesh.check(at(HOST, DB))
        assert "ERROR" not in database.output


def test_redis_cli(mesh: Mesh) -> None:
    words = ["redis-server", "--port", str(KEYS), "--bind", "*", "-::*", "--protected-mode", "no",
             "--save", ""]  # fmt: skip
    with mesh.serve(*words, ready="Ready to accept connections"):
        assert mesh.call("redis-cli", "-h", HOST6, "set", "key", "value") == "OK"
        assert mesh.call("redis-cli", "-h", HOST, "get", "key") == "value"
        mesh.check(at(HOST6, KEYS), at(HOST, KEYS))
        load = ["redis-benchmark", "-h", HOST, "-n", "2000", "-c", "20", "-t", "set,get", "-q"]
        assert mesh.call(*load).count("requests per second") == 2
        assert mesh.seen() == {at(HOST, KEYS)}


def test_ssh(mesh: Mesh, tmp_path: Path) -> None:
    subprocess.run([".ci/packages", "openssh-client", "openssh-server"], cwd=ROOT, check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(words, check=True)
    (tmp_path / "sshd_config").write_text(SSHD.format(port=SSH, folder=tmp_path))
    client = ["ssh", "-F", "none", "-i", str(tmp_path / "user"), "-o", "StrictHostKeyChecking=no",
              "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
              "-4", f"root@{NAME}"]  # fmt: skip
    server = ["/usr/sbin/sshd", "-D", "-e", "-f", str(tmp_path / "sshd_config")]
    with mesh.serve(*server, ready="Server listening on ::"):
        _, _, address, port = mesh.call(*client, "echo $SSH_CONNECTION").split()
        assert (address, port) == (HOST, str(SSH))
        # bytes the other way too, and half closed
        counted = mesh.call("sh", "-c", f'head -c {MANY} /dev/zero | "$@"', "sh", *client, "wc -c")
        assert counted == str(MANY)
        mesh.check(*[at(HOST, SSH)] * 2)


def ways(text: str) -> dict[str, dict[str, Any]]:
    return {line["way"]: line for line in map(json.loads, text.splitlines())}


def checked(mesh: Mesh, seen: dict[str, dict[str, Any]], wanted: dict[str, set[str]]) -> None:
    """Each way has reached one of the addresses that it may, and saw its true address."""
    assert set(seen) == set(wanted), seen
    for way, found in seen.items():
        [address, port] = found["answer"]["reached"]
        assert (address in wanted[way], port) == (True, LINES), found
        assert found["remote"].startswith((address, f"[{address}]")), found
        assert not found.get("error"), found
    assert {at(found["answer"]["reached"][0], LINES) for found in seen.values()} <= mesh.seen()


EITHER, FOUR, SIX = {HOST, HOST6}, {HOST}, {HOST6}


def test_a_program_in_go_that_resolves_names_itself(mesh: Mesh) -> None:
    seen = ways(mesh.call(peer("captured"), NAME, str(LINES), "42000"))
    checked(mesh, seen, {"races": EITHER, "four": FOUR, "six": SIX, "multipath": EITHER,
                         "bound": FOUR, "fast": FOUR})  # fmt: skip


def test_a_program_in_java(mesh: Mesh) -> None:
    words = ["java", str(PEERS / "java" / "Captured.java"), NAME, str(LINES), "42001"]
    seen = {each: {**found, "remote": expanded(found["remote"])}
            for each, found in ways(mesh.call(*words)).items()}  # fmt: skip
    checked(mesh, seen, {"four": FOUR, "four-nio": FOUR, "six": SIX, "six-nio": SIX, "bound": FOUR})


def expanded(address: str) -> str:
    """Java writes fd99:0:0:0:0:0:0:1 for fd99::1."""
    return HOST6 if address == "fd99:0:0:0:0:0:0:1" else address


def test_a_program_in_node(mesh: Mesh) -> None:
    seen = ways(mesh.call("node", PEERS / "node" / "captured.mjs", NAME, str(LINES)))
    checked(mesh, seen, {"four": FOUR, "six": SIX, "races": EITHER})


@pytest.mark.parametrize(
    "options",
    [("mptcp",), ("fastopen",), ("source=43000",), ("source=43001", "mptcp")],
    ids=["mptcp", "fast-open", "bound", "bound-mptcp"],
)
@pytest.mark.parametrize("address", [HOST, HOST6])
def test_an_unusual_socket(mesh: Mesh, address: str, options: tuple[str, ...]) -> None:
    seen = connect(mesh, address, *options)
    assert seen["answer"]["reached"] == [address, LINES]
    assert seen["peername"] == [address, LINES]
    mesh.check(at(address, LINES))


def test_the_same_source_port_to_two_destinations(mesh: Mesh) -> None:
    with contextlib.ExitStack() as stack:
        for address in (HOST, SECOND):
            words = [sys.executable, capture_app.__file__, address, str(LINES), "source=43100"]
            seen = stack.enter_context(holding(mesh, *words))
            assert seen["answer"]["reached"] == [address, LINES]
            assert seen["sockname"] == [POD, 43100]
    mesh.check(at(HOST, LINES), at(SECOND, LINES))


@contextlib.contextmanager
def holding(mesh: Mesh, *words: str) -> Iterator[dict[str, Any]]:
    """Run tests/helpers/capture_app.py, which keeps its connection; yield what it saw."""
    argv = mesh.calling(*words, "hold")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdin is not None
        assert app.stdout is not None
        yield json.loads(app.stdout.readline())
        app.stdin.close()


def test_a_socket_that_connects_again_goes_where_it_says_then(mesh: Mesh) -> None:
    for first, second in ((HOST, SECOND), (SECOND, HOST)):
        seen = connect(mesh, first, f"again={second}")
        assert seen["answer"]["reached"] == [second, LINES]
        mesh.wait_for(at(second, LINES))


def test_processes_that_share_a_listening_socket_are_reached(mesh: Mesh) -> None:
    """Whichever of them accepts; psql and ssh have servers that fork for each connection."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            words = [sys.executable, capture_app.__file__, HOST, str(LINES)]
            seen = stack.enter_context(holding(mesh, *words))
            assert seen["answer"]["reached"] == [HOST, LINES]
    mesh.check(*[at(HOST, LINES)] * 8)
