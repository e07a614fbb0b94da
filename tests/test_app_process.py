"""A whole uProxy as a process: what it tells systemd, and what signals do to it."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pair import identity_of
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

HEARD_WITHIN_S = 20.0


class Manager:
    """systemd's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(HEARD_WITHIN_S)

    def hears(self, word: str) -> list[str]:
        """The next notification that has `word` in it."""
        while True:
            lines = self._socket.recv(4096).decode().split("\n")
            if any(line.startswith(word) for line in lines):
                return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    ca = Authority("example.org")
    files = write_identity(tmp_path / "identity", ca.issue("/ns/shop/sa/orders"), ca.pem)
    listen = f"127.0.0.1:{free_port()}"
    return {
        "name": "orders",
        "identity": identity_of(files),
        "inbound": [{"name": "api", "listen": listen, "transport": "mtls", "to": "127.0.0.1:9"}],
    }


def test_systemd_hears_each_step_of_a_life(
    manager: Manager, config: dict[str, Any], tmp_path: Path
) -> None:
    with Uproxy(config, tmp_path / "orders", env={"NOTIFY_SOCKET": str(manager.path)}) as uproxy:
        assert manager.hears("READY=1") == ["READY=1", "STATUS=ready"]
        uproxy.send(signal.SIGHUP)
        assert manager.hears("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
        manager.hears("READY=1")
        uproxy.send(signal.SIGTERM)
        assert manager.hears("STOPPING=1")[1] == "STATUS=draining"
        assert uproxy.wait() == 0


def test_the_watchdog_is_held_off(manager: Manager, config: dict[str, Any], tmp_path: Path) -> None:
    env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "200000"}
    with Uproxy(config, tmp_path / "orders", env=env):
        for _ in range(3):
            manager.hears("WATCHDOG=1")


def test_a_second_sigterm_does_not_wait(config: dict[str, Any], tmp_path: Path) -> None:
    config["timeouts"] = {"drain_delay": "60s", "drain": "60s"}
    with Uproxy(config, tmp_path / "orders") as uproxy:
        uproxy.wait_until_ready()
        uproxy.send(signal.SIGTERM)
        wait_until(lambda: uproxy.status("/readyz") == 503, "draining")
        uproxy.send(signal.SIGHUP)
        wait_until(lambda: "not reloaded: draining" in uproxy.output, "the refusal to reload")
        uproxy.send(signal.SIGTERM)
        assert uproxy.wait(10) == 0


def test_draining_by_request_keeps_the_process(config: dict[str, Any], tmp_path: Path) -> None:
    with Uproxy(config, tmp_path / "orders") as uproxy:
        uproxy.wait_until_ready()
        assert uproxy.request("/drain", "POST")[0] == 200
        wait_until(lambda: "drained: " in uproxy.output, "the end of draining")
        status, text = uproxy.request("/readyz")
        assert (status, text.splitlines()[0]) == (503, "draining")
        (door,) = json.loads(uproxy.request("/status.json")[1])["doors"]
        assert not door["open"]
        uproxy.send(signal.SIGHUP)
        wait_until(lambda: "not reloaded: draining" in uproxy.output, "the refusal to reload")
        assert uproxy.request("/quitquitquit", "POST")[0] == 200
        assert uproxy.wait() == 0


def test_a_running_uproxy_is_locked_in(config: dict[str, Any], tmp_path: Path) -> None:
    with Uproxy(config, tmp_path / "orders") as uproxy:
        uproxy.wait_until_ready()
        assert "NoNewPrivs:\t1" in Path(f"/proc/{uproxy.pid}/status").read_text()
