"""The parts of the benchmark `architectures` that are no measurement."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from benchmarks.architectures import _models, compared
from benchmarks.harness.markdown import TIMES
from benchmarks.mesh import damage, envoys, micro, policy, world
from benchmarks.mesh.workloads import CALLERS, PER_NODE, SERVICES, accounts
from uproxy.lab.mesh import FileWorld
from uproxy.lab.processes import Process
from uproxy.lab.software.shared_envoy import FAULTS, SHIPPED, build_wasm

GROUPS = (envoys.sidecars, envoys.for_accounts, envoys.for_node)


def test_a_node_has_eight_workloads_of_four_accounts_and_each_an_address() -> None:
    for node in CALLERS, SERVICES:
        assert len(node) == PER_NODE
        assert {name: len(each) for name, each in accounts(node).items()} == {
            f"{'ab'[node[0].node]}{number}": 2 for number in range(4)
        }
    assert len({each.host for each in (*CALLERS, *SERVICES)}) == 2 * PER_NODE


def test_an_envoy_has_every_service_once_for_each_of_its_accounts(tmp_path: Path) -> None:
    clusters = {}
    for group in GROUPS:
        folder = tmp_path / group.__name__
        folder.mkdir()
        made = group(folder, FileWorld(folder), CALLERS, 20)
        configs = [json.loads(Path(each.argv[each.argv.index("-c") + 1]).read_text())
                   for each in made]  # fmt: skip
        clusters[group.__name__] = [len(each["static_resources"]["clusters"]) for each in configs]
    assert clusters == {
        "sidecars": [1 + 20] * 8,
        "for_accounts": [2 + 20] * 4,
        "for_node": [8 + 4 * 20],
    }


@pytest.mark.parametrize("group", GROUPS)
def test_envoy_takes_the_configuration(group: world._Group, tmp_path: Path) -> None:
    one, *_ = group(tmp_path, FileWorld(tmp_path), SERVICES, 10)
    argv = [*map(str, one.argv), "--mode", "validate"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_shared_envoy_has_a_policy_for_each_service_of_the_mesh() -> None:
    [routes] = yaml.safe_load(micro.routes(300))["resources"]
    domains = [domain for host in routes["virtual_hosts"] for domain in host["domains"]]
    assert len(domains) == len(set(domains)) == 300
    assert domains[0] == f"{SERVICES[0].host}:8080"
    looped = yaml.safe_load(policy.with_script(micro.routes(300)))
    [first, second, *_] = looped["resources"][0]["virtual_hosts"]
    assert "while true" in json.dumps(first)
    assert "while true" not in json.dumps(second)


def test_only_the_first_service_has_the_module_with_faults_in_the_shared_envoy() -> None:
    plain = micro.routes(20)
    [inside] = yaml.safe_load(policy.with_module(plain))["resources"]
    hosts = inside["virtual_hosts"]
    used = [route["route"]["cluster"] for host in hosts for route in host["routes"]]
    clusters = (SHIPPED / "capabilities" / "wasm" / "clusters.yaml").read_text()
    [own] = yaml.safe_load(clusters)["resources"]
    assert used == [own["name"], *["destination"] * 19]
    [apart] = yaml.safe_load(policy.with_question(plain))["resources"]
    asked = [host["name"] for host in apart["virtual_hosts"] if "ext_authz" in json.dumps(host)]
    assert asked == ["s0"]


@pytest.mark.parametrize("group", GROUPS)
def test_only_the_first_service_has_the_module_with_faults_in_an_envoy(
    group: world._Group, tmp_path: Path
) -> None:
    one, *_ = group(tmp_path, FileWorld(tmp_path), SERVICES, 10)
    module = tmp_path / policy.MODULE
    build_wasm(FAULTS, module)
    one.config.write_text(envoys.with_module(one.config.read_text(), SERVICES[0], module))
    argv = [*map(str, one.argv), "--mode", "validate"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    listeners = json.loads(one.config.read_text())["static_resources"]["listeners"]
    having = [each["name"] for each in listeners if str(module) in json.dumps(each)]
    assert having == [f"in-{SERVICES[0].host}"]


class Faulty(BaseHTTPRequestHandler):
    """Answers like a service's application; a request for /crash or /loop has s0 fail for a while,
    and one for /loop ends a process."""

    fails_until = 0.0
    process: Process

    def do_GET(self) -> None:
        if self.path != "/":
            Faulty.fails_until = time.monotonic() + 0.3
        if self.path == "/loop":
            Faulty.process.stop(signal.SIGABRT)
        failing = self.headers["Host"] == "s0" and time.monotonic() < Faulty.fails_until
        self.send_response(503 if failing else 200)
        self.send_header("Content-Length", "1024")
        self.end_headers()
        self.wfile.write(b"x" * 1024)

    def log_message(self, *_: object) -> None:
        """Keep the test's output short."""


@pytest.fixture
def door() -> Iterator[tuple[str, int]]:
    """Where a faulty application listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as server:
        threading.Thread(target=server.serve_forever).start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()


def _mesh(*doors: tuple[str, int]) -> world.World:
    return world.World(((), ()), (), doors, None, None, None, lambda: None, faulty_modules={})


@pytest.mark.parametrize(("path", "ends"), [("/crash", False), ("/loop", True)])
def test_what_a_module_does_is_counted_until_nobody_suffers(
    path: str, ends: bool, door: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "_SETTLE_S", 0.2)
    with Process(["sleep", "60"], tmp_path / "log") as process:
        monkeypatch.setattr(Faulty, "process", process, raising=False)
        found = damage._fault(_mesh(door, door), [process], "module", path, ends=ends)
        assert process.running
    assert found["module_hit"] == 1
    assert found["module_failed"] >= 1
    assert found["module_ended"] == ends
    assert 0 < found["module_s"] < 5


def test_a_module_that_does_no_harm_is_not_measured(door: tuple[str, int]) -> None:
    with pytest.raises(AssertionError, match="/ did no harm"):
        damage._fault(_mesh(door), [], "module", "/", ends=False)


def test_the_model_is_the_line_through_both_sizes() -> None:
    figures = _models((100.0, 10.0), (1090.0, 10.0))
    assert figures["workload_large"] == 1090 / PER_NODE
    assert figures["workload_modelled"] == pytest.approx((100 + 9990) / PER_NODE)
    assert figures["shared_modelled"] == 10
    assert figures["growth"] == 10.9


def test_what_is_said_of_the_figures_follows_from_them() -> None:
    envoy = {"cpu": 160.0, "p50": 200.0, "node_small": 120.0, "node_large": 700.0}
    ours = {"cpu": 16.0, "p50": 25.0, "node_small": 150.0, "node_large": 150.0}
    through = {"cpu": 150.0, "p50": 210.0}
    said = compared([{"envoy": envoy, "uproxy": ours, "uproxy-l7": through}])
    more, _, less = said.partition(". It costs as much or less in: ")
    assert f"with L7 on, added latency (p50) ({TIMES}1.05)" in more
    assert f"memory of a node, 10 services in the mesh ({TIMES}1.25)" in more
    assert f"with L7 on, CPU time per request ({TIMES}0.94)" in less
    assert f"memory of a node, 1,000 services ({TIMES}0.21)" in less
    assert said.count(TIMES) == 6


def test_a_uproxy_can_be_told_of_every_service_of_the_mesh(tmp_path: Path) -> None:
    for known in (len(SERVICES), 300):
        folder = tmp_path / str(known)
        folder.mkdir()
        one, *_ = micro.callers(folder, FileWorld(folder), [], known)
        done = subprocess.run(
            [sys.executable, "-m", "uproxy", "check", one.config_file],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = yaml.safe_load(one.config_file.read_text())["destinations"]
        assert len(told) == known
        addresses = {address for each in told.values() for address in each["addresses"]}
        assert len(addresses) == known


def test_a_mistake_in_the_routes_is_one_and_can_be_mended(tmp_path: Path) -> None:
    one, *_ = envoys.sidecars(tmp_path, FileWorld(tmp_path), CALLERS, 20)
    file = tmp_path / f"routes-{one.workloads[0].host}" / f"{one.workloads[0].account}.json"
    before = file.read_text()
    one.spoil()
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(file.read_text())
    one.route(one.workloads[0].account)
    assert file.read_text() == before
