"""An application that is captured, a destination with `via`: the shared Envoy is between them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.capture_world import HOST, OUT, World
from tests.helpers.shared import L7
from uproxy.lab.mesh import ORDERS, WEB
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def workload(world: World) -> Iterator[dict[str, Any]]:
    """Run tests/helpers/capture_l7.py on the host; yield what it says."""
    folder = world.folder / "there"
    folder.mkdir()
    words = [sys.executable, "-m", "tests.helpers.capture_l7", HOST, str(folder)]
    argv = ["ip", "netns", "exec", world.host, *words]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as there:
        assert there.stdin is not None
        assert there.stdout is not None
        yield json.loads(there.stdout.readline())
        there.stdin.close()


def caller(world: World, told: dict[str, Any], engine: str) -> Uproxy:
    config = {
        "engine": engine,
        "identity": told["caller"],
        "outbound": [{"listen": f"127.0.0.1:{OUT}", "captured": True}],
        "destinations": {
            "orders": {
                "match": {"addresses": [HOST], "ports": [told["app"]]},
                "transport": "hbone",
                "identities": [ORDERS],
                "via": "l7",
            }
        },
        "l7_proxies": {"l7": {"identities": [L7], "addresses": [f"{HOST}:{told['envoy']}"]}},
    }
    uproxy = Uproxy(config, world.folder / "caller")
    uproxy.argv = world.inside(world.pod, world.proxy_cgroup, *uproxy.argv)
    return uproxy


@pytest.mark.parametrize("engine", ["native", "python"])
def test_a_request_to_the_services_own_address_goes_through(either: World, engine: str) -> None:
    with workload(either) as told:
        url = f"http://{HOST}:{told['app']}/"
        curl = either.inside(either.pod, either.app, "curl", "-sS", "-m", "20", url)
        assert subprocess.run(curl, capture_output=True, check=False).returncode == 7
        either.attach()
        with caller(either, told, engine) as uproxy:
            uproxy.wait_ready(lambda: "started: " in uproxy.output)
            done = subprocess.run(curl, capture_output=True, text=True, check=False)
            assert json.loads(done.stdout)["app"] == "orders", (done, uproxy.output)
            wait_until(lambda: bool(uproxy.accesses), "the access log")
            [line] = uproxy.accesses
            assert (line["via"], line["src.identity"], line["dst.identity"]) == ("l7", WEB, L7)
            assert line["dst.addr"] == f"{HOST}:{told['envoy']}"
            assert line["dst.hbone_addr"] == f"{HOST}:{told['app']}"
