"""curl, nghttp and h2load come to a door that serves nothing but tunnels.

Each must hear why in its own protocol, have its line in the log, and leave the door as it was.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.dialogue import ask
from tests.helpers.endings import Line, ended, metric, only
from tests.helpers.pair import ENGINES
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, TunnelsIn, TunnelsOut
from uproxy.lab.waiting import wait_until
from uproxy.model import Outcome

_CURLE_HTTP2_STREAM = 92


@dataclass(frozen=True)
class World:
    door: TunnelsIn
    caller: TunnelsOut
    """With a tunnel that is open: no stranger may harm it."""
    identity: IdentityFiles

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.door.port}/"

    @property
    def certificate(self) -> list[str]:
        """nghttp's options to be WEB."""
        return [f"--cert={self.identity.svid}", f"--key={self.identity.key}"]

    def tunnels(self) -> float:
        return metric(self.door, "uproxy_hbone_connections")


@pytest.fixture(scope="module", params=ENGINES)
def world(
    request: pytest.FixtureRequest, folder: Path, file_world: FileWorld, echo_app: int
) -> Iterator[World]:
    engine: str = request.param
    with (
        TunnelsIn(folder, file_world.ours(ORDERS), echo_app, engine=engine) as door,
        TunnelsOut(
            folder, file_world.ours(WEB), echo_app, end=door.port, engine=engine
        ) as caller,
    ):  # fmt: skip
        door.wait_until_ready()
        caller.wait_until_ready()
        with ended(door, "closed"):
            assert ask(caller.port) == b"hello\n"
        yield World(door, caller, file_world.theirs(WEB))


@pytest.fixture(autouse=True)
def others_are_untouched(world: World) -> Iterator[None]:
    """After each of them, the tunnel of a uProxy is the only one, and still serves."""
    yield
    wait_until(lambda: world.tunnels() == 1, "the stranger's tunnel to end")
    with ended(world.door, "closed"):
        assert ask(world.caller.port) == b"hello\n"
    assert world.tunnels() == 1


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def curl(*options: str, be: IdentityFiles | None = None) -> subprocess.CompletedProcess[str]:
    shown = [] if be is None else ["--cert", str(be.svid), "--key", str(be.key)]
    return run("curl", "-q", "-sS", "-k", "--noproxy", "*", "--max-time", "10", *shown, *options)


def error(lines: list[Line]) -> str:
    return str(only(lines)["error"])


def test_curl_without_a_certificate_is_told_that_one_is_required(world: World) -> None:
    with ended(world.door, "handshake_failed") as lines:
        done = curl(world.url)
    assert "certificate required" in done.stderr
    assert "certificate" in error(lines)


def test_curl_that_speaks_http_1_is_told_that_its_protocol_is_not_served(world: World) -> None:
    with ended(world.door, "handshake_failed") as lines:
        done = curl("--http1.1", world.url, be=world.identity)
    assert "no application protocol" in done.stderr
    assert "application protocol" in error(lines)


@pytest.mark.parametrize("options", [[], ["-d", "hello"], ["-I"], ["-T", "/etc/hostname"]])
def test_a_request_of_curl_that_is_no_connect_is_a_400(world: World, options: list[str]) -> None:
    with ended(world.door, "no_destination") as lines:
        done = curl("-o", "/dev/null", "-w", "%{http_version} %{http_code}",
                    *options, world.url, be=world.identity)  # fmt: skip
    # a curl that still uploads takes the RST_STREAM behind the answer (RFC 9113 §8.1) for a failure
    is_cut = bool({"-d", "-T"} & set(options)) and done.returncode == _CURLE_HTTP2_STREAM
    assert is_cut or (done.returncode, done.stdout) == (0, "2 400")
    assert only(lines)["src.identity"] == WEB
    assert "CONNECT" in error(lines)


@pytest.mark.parametrize("how", ["--http1.1", "--http2-prior-knowledge"])
def test_curl_without_tls_ends_at_once_and_is_recognized(world: World, how: str) -> None:
    with ended(world.door, "handshake_failed") as lines:
        done = curl(how, f"http://127.0.0.1:{world.door.port}/")
    assert done.returncode not in (0, 28)  # 28: it ran into its time limit
    assert error(lines) in {"plain HTTP where TLS was expected", "the other side doesn't speak TLS"}


def test_nghttp_gets_a_400(world: World) -> None:
    with ended(world.door, "no_destination"):
        done = run("nghttp", "-v", "--no-verify-peer", *world.certificate, world.url)
    assert ":status: 400" in done.stdout
    assert "error_code=NO_ERROR" in done.stdout
    assert done.returncode == 0


def test_nghttp_may_have_many_requests_refused_on_one_tunnel(world: World) -> None:
    """Which are all counted, although the log has had enough of them."""

    def refused() -> float:
        flag = Outcome.NO_DESTINATION.flag
        return metric(world.door, "istio_tcp_connections_failed_total", response_flags=flag)

    before = refused()
    done = run("nghttp", "-n", "-s", "--no-verify-peer", "-m", "50",
               *world.certificate, world.url)  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.count(" 400 ") == 50
    wait_until(lambda: refused() == before + 50, "all to be counted")


def test_h2load_which_has_no_certificate_gets_nowhere_with_any_of_its_clients(
    world: World,
) -> None:

    def refused() -> float:
        return metric(world.door, "uproxy_handshake_failures_total", reason="handshake_failed")

    before = refused()
    done = run("h2load", "-n", "100", "-c", "10", "-m", "10", world.url)
    assert "0 succeeded, 100 failed" in done.stdout
    wait_until(lambda: refused() == before + 10, "all to be counted")
