"""Whatever goes wrong in a reload, what ran before runs on: connections, doors, probes, signals."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.background import background
from tests.helpers.faults import Faults
from tests.helpers.pair import identity_of
from tests.helpers.traffic import echo
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

Config = dict[str, Any]


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Config:
    ca = Authority("example.org")
    folder = tmp_path_factory.mktemp("identity")
    return identity_of(write_identity(folder, ca.issue("/ns/shop/sa/orders"), ca.pem))


@pytest.fixture(scope="module")
def app() -> Iterator[int]:
    with background(echo) as port:
        yield port


@pytest.fixture(params=["native", "python"])
def config(request: pytest.FixtureRequest, identity: Config, app: int) -> Config:
    """One door in clear, in front of an echo."""
    return {
        "identity": identity,
        "engine": request.param,
        "inbound": [door(app)],
        "authorization": [{"name": "a", "action": "allow", "from": {"unauthenticated": True}}],
    }


def door(app: int) -> Config:
    port = free_port()
    listen = f"127.0.0.1:{port}"
    return {"name": str(port), "listen": listen, "transport": "plaintext", "to": f"127.0.0.1:{app}"}


def port_of(door: Config) -> int:
    return int(door["listen"].rpartition(":")[2])


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 10) as caller:
        yield caller


def echoes(caller: socket.socket, word: bytes = b"x") -> bool:
    caller.sendall(word)
    return caller.recv(len(word)) == word


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def test_without_descriptors_the_reload_is_refused_and_everything_runs_on(
    config: Config, app: int, tmp_path: Path
) -> None:
    with Uproxy(config, tmp_path / "u") as uproxy:
        uproxy.wait_until_ready()
        (first,) = config["inbound"]
        with connected(port_of(first)) as caller:
            assert echoes(caller)
            used = {int(name) for name in os.listdir(f"/proc/{uproxy.pid}/fd")}
            free = next(number for number in range(len(used) + 1) if number not in used)
            # one is left: enough to read the file, not for three sockets
            resource.prlimit(uproxy.pid, resource.RLIMIT_NOFILE, (free + 1, free + 1))
            fresh = [door(app) for _ in range(3)]
            uproxy.write_config({**config, "inbound": [first, *fresh]})
            uproxy.send(signal.SIGHUP)
            wait_until(lambda: "not reloaded, what ran before stays" in uproxy.output, "a refusal")
            assert echoes(caller)
            assert not any(map(listens, map(port_of, fresh)))
            assert uproxy.running


def test_an_outbound_door_does_not_inherit_a_reachable_socket_by_a_reload(
    config: Config, app: int, tmp_path: Path
) -> None:
    wide = socket.create_server(("0.0.0.0", 0))
    script = (
        "import os, sys; fd = int(sys.argv[1]); os.dup2(fd, 3, True); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='web'); "
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    config["inbound"][0]["listen"] = "systemd:web"
    uproxy = Uproxy(config, tmp_path / "u")
    with wide, uproxy.log.open("ab") as log:
        wide.set_inheritable(True)
        uproxy._popen = subprocess.Popen(
            [sys.executable, "-c", script, str(wide.fileno()), *uproxy.argv],
            stdout=log, stderr=log, close_fds=False, start_new_session=True,
        )  # fmt: skip
        try:
            uproxy.wait_until_ready()
            to = {"addresses": [f"127.0.0.1:{app}"], "transport": "plaintext"}
            outbound = [{"listen": "systemd:web", "to": "d"}]
            changed = {"inbound": [], "outbound": outbound, "destinations": {"d": to}}
            uproxy.write_config({**config, **changed})
            wait_until(lambda: "or say expose: true" in uproxy.output, "the guard's refusal")
            assert "not reloaded, what ran before stays" in uproxy.output
            with connected(wide.getsockname()[1]) as caller:
                assert echoes(caller)
            outbound[0]["expose"] = True  # type: ignore[assignment]  # a mapping of anything
            uproxy.write_config({**config, **changed})
            wait_until(
                lambda: "whoever reaches this" in uproxy.output or _reloaded(uproxy), "reload"
            )
        finally:
            uproxy.stop(signal.SIGKILL)


def _reloaded(uproxy: Uproxy) -> bool:
    return "]: reloaded " in uproxy.output or '"reloaded ' in uproxy.output


# Names that are new.


@pytest.fixture
def slow_names(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which a look-up takes almost a second."""
    faults = Faults(tmp_path)
    yield {**faults.env, "UPROXY_SLOW_NAMES_MS": "700"}
    faults.close()


def to_localhost(app: int) -> tuple[int, Config]:
    """An outbound door, and what makes it lead to an application by its name."""
    port = free_port()
    return port, {
        "outbound": [{"listen": f"127.0.0.1:{port}", "to": "app"}],
        "destinations": {"app": {"addresses": [f"localhost:{app}"], "transport": "plaintext"}},
    }


def test_a_reload_with_a_new_name_lets_its_callers_wait_for_the_answer(
    config: Config, app: int, tmp_path: Path, slow_names: dict[str, str]
) -> None:
    with Uproxy(config, tmp_path / "u", env=slow_names) as uproxy:
        uproxy.wait_until_ready()
        port, named = to_localhost(app)
        uproxy.write_config({**config, **named})
        uproxy.send(signal.SIGHUP)
        wait_until(lambda: listens_in_proc(port), "the new door's socket")
        with connected(port) as caller:
            assert echoes(caller)
        assert "resolved" not in uproxy.output


def test_a_start_with_a_name_lets_its_callers_wait_for_the_answer(
    config: Config, app: int, tmp_path: Path, slow_names: dict[str, str]
) -> None:
    port, named = to_localhost(app)
    with Uproxy({**config, **named}, tmp_path / "u", env=slow_names) as uproxy:
        ports = (port_of(config["inbound"][0]), port)
        wait_until(lambda: all(map(listens_in_proc, ports)), "the doors' sockets")
        with connected(port) as caller, connected(ports[0]) as other:
            assert echoes(other)  # what needs no name doesn't wait for one
            assert echoes(caller)
        assert "resolved" not in uproxy.output


def listens_in_proc(port: int) -> bool:
    """Whether somebody listens there, asked without a connection."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    wanted = f"0100007F:{port:04X}", "0A"
    return any((fields[1], fields[3]) == wanted for fields in map(str.split, lines))


# Configurations that come through a pipe.


class Piped:
    """A uProxy whose configuration is written into a FIFO."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.uproxy = Uproxy(config, folder)
        self.text = self.uproxy.config_file.read_text()
        self.uproxy.config_file.unlink()
        os.mkfifo(self.uproxy.config_file)

    @contextlib.contextmanager
    def running(self) -> Iterator[Uproxy]:
        writer = threading.Thread(target=self.write, args=(self.text,))
        writer.start()
        with self.uproxy as uproxy:
            uproxy.wait_until_ready()
            writer.join()
            yield uproxy

    def write(self, text: str) -> None:
        self.uproxy.config_file.write_text(text)


def test_a_reload_that_waits_for_its_pipe_holds_up_nothing_and_is_done_when_it_comes(
    config: Config, app: int, tmp_path: Path
) -> None:
    piped = Piped(config, tmp_path / "u")
    with piped.running() as uproxy:
        (first,) = config["inbound"]
        uproxy.send(signal.SIGHUP)
        wait_until(lambda: _reads(uproxy), "the reload to wait for its pipe")
        uproxy.send(signal.SIGHUP)  # what is asked while one waits is one more
        for _ in range(20):
            assert uproxy.status("/readyz") == 200
            with connected(port_of(first)) as caller:
                assert echoes(caller)
        for _ in range(2):
            fresh = door(app)
            again = yaml.safe_load(piped.text)
            again["inbound"] = [first, fresh]
            wait_until(lambda: _reads(uproxy), "a reload to wait for its pipe")
            piped.write(json.dumps(again))
            wait_until(lambda: listens(port_of(fresh)), "the new door")  # noqa: B023  waited for here
        assert uproxy.running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_waits_for_its_pipe_gives_way_to_the_end(
    config: Config, tmp_path: Path, number: signal.Signals
) -> None:
    uproxy = Piped(config, tmp_path / "u").uproxy
    with uproxy:
        wait_until(lambda: _reads(uproxy), "the start to wait for its pipe")
        uproxy.send(signal.SIGHUP)
        uproxy.send(number)
        assert uproxy.wait() == 0
    assert uproxy.output == ""


@pytest.mark.parametrize("how", ["SIGTERM", "drain", "quit"])
def test_a_reload_that_waits_gives_way_to_the_end(config: Config, tmp_path: Path, how: str) -> None:
    with Piped(config, tmp_path / "u").running() as uproxy:
        uproxy.send(signal.SIGHUP)
        wait_until(lambda: _reads(uproxy), "the reload to wait for its pipe")
        began = time.monotonic()
        if how == "SIGTERM":
            uproxy.send(signal.SIGTERM)
        else:
            path = "/drain" if how == "drain" else "/quitquitquit"
            assert uproxy.request(path, "POST")[0] == 200
        wait_until(lambda: "not reloaded: draining" in uproxy.output, "the reload to be given up")
        wait_until(lambda: "drained: " in uproxy.output, "the end of draining")
        if how != "drain":
            assert uproxy.wait(10) == 0
        assert time.monotonic() - began < 20  # the pipe would have been waited for much longer


def _reads(uproxy: Uproxy) -> bool:
    """Whether a thread of it has the configuration open."""
    there = str(uproxy.config_file)
    folder = f"/proc/{uproxy.pid}/fd"
    with contextlib.suppress(FileNotFoundError):
        return any(os.readlink(f"{folder}/{name}") == there for name in os.listdir(folder))
    return False


def test_a_pipe_that_was_read_refuses_the_reload_with_the_way_out(
    config: Config, tmp_path: Path
) -> None:
    uproxy = Uproxy(config, tmp_path / "u")
    argv = [*uproxy.argv[:-1], "/dev/stdin"]
    with uproxy.log.open("ab") as log:
        uproxy._popen = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
        try:
            assert uproxy._popen.stdin is not None
            uproxy._popen.stdin.write(uproxy.config_file.read_bytes())
            uproxy._popen.stdin.close()
            uproxy.wait_until_ready()
            uproxy.send(signal.SIGHUP)
            words = "a pipe can be read only once"
            wait_until(lambda: words in uproxy.output, "the refusal to reload")
            with connected(port_of(config["inbound"][0])) as caller:
                assert echoes(caller)
            assert uproxy.stop() == 0
        finally:
            uproxy.stop(signal.SIGKILL)
