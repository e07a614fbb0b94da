"""IPv6 where it is, and a host without it: probes, doors, and `localhost` on one family only."""

from __future__ import annotations

import errno
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.faults import Faults
from tests.helpers.pair import identity_of, inbound
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    ca = Authority("example.org")
    files = write_identity(tmp_path / "identity", ca.issue("/ns/shop/sa/orders"), ca.pem)
    admin = {"listen": None, "metrics": None, "ready": f"[::]:{free_port()}"}
    door = inbound("api", free_port(), 9)
    return {"identity": identity_of(files), "inbound": [door], "admin": admin}


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Faults]:
    faults = Faults(tmp_path)
    yield faults
    faults.close()


def ready(host: str, port: int) -> int | None:
    """The status of a probe; None when nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def test_probes_are_answered_over_both_families(config: dict[str, Any], tmp_path: Path) -> None:
    port = int(config["admin"]["ready"].rpartition(":")[2])
    with Uproxy(config, tmp_path / "orders") as uproxy:
        uproxy.wait_ready(lambda: ready("::1", port) == 200)
        assert ready("127.0.0.1", port) == 200


def test_without_ipv6_probes_are_answered_over_ipv4(
    config: dict[str, Any], tmp_path: Path, faults: Faults
) -> None:
    port = int(config["admin"]["ready"].rpartition(":")[2])
    uproxy = Uproxy(config, tmp_path / "orders", env=faults.env)
    with faults.failing("socket6", errno.EAFNOSUPPORT), uproxy:
        uproxy.wait_ready(lambda: ready("127.0.0.1", port) == 200)
        assert f"[::]:{port}: this kernel has no IPv6" in uproxy.output


def test_without_ipv6_a_door_there_is_refused_with_the_way_out(
    config: dict[str, Any], tmp_path: Path, faults: Faults
) -> None:
    port = free_port()
    config["inbound"][0]["listen"] = f"[::]:{port}"
    uproxy = Uproxy(config, tmp_path / "orders", env=faults.env)
    with faults.failing("socket6", errno.EAFNOSUPPORT):
        uproxy.start()
        assert uproxy.wait() == 1
    (line,) = (row["text"] for row in uproxy.lines if "text" in row)
    assert line.startswith(f"uproxy: error: [::]:{port} can't be opened: this kernel has no IPv6")
    assert f"listen at 0.0.0.0:{port}" in line


def test_without_ipv6_a_reload_with_a_door_there_is_refused_and_the_process_runs_on(
    config: dict[str, Any], tmp_path: Path, faults: Faults
) -> None:
    probes = int(config["admin"]["ready"].rpartition(":")[2])
    uproxy = Uproxy(config, tmp_path / "orders", env=faults.env)
    with faults.failing("socket6", errno.EAFNOSUPPORT), uproxy:
        uproxy.wait_ready(lambda: ready("127.0.0.1", probes) == 200)
        port = free_port()
        config["inbound"].append({**config["inbound"][0], "name": "b", "listen": f"[::]:{port}"})
        uproxy.write_config(config)
        wait_until(lambda: "not reloaded" in uproxy.output, "the refusal to reload")
        assert f"[::]:{port} can't be opened: this kernel has no IPv6" in uproxy.output
        assert ready("127.0.0.1", probes) == 200
