"""The parts of the benchmark `architectures` that are no measurement."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from benchmarks.architectures import _models
from benchmarks.mesh import envoys, micro, world
from benchmarks.mesh.workloads import CALLERS, PER_NODE, SERVICES, accounts
from uproxy.lab.mesh import FileWorld

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
    looped = yaml.safe_load(world._with_script(micro.routes(300)))
    [first, second, *_] = looped["resources"][0]["virtual_hosts"]
    assert "while true" in json.dumps(first)
    assert "while true" not in json.dumps(second)


def test_the_model_is_the_line_through_both_sizes() -> None:
    figures = _models((100.0, 10.0), (1090.0, 10.0))
    assert figures["workload_large"] == 1090 / PER_NODE
    assert figures["workload_modelled"] == pytest.approx((100 + 9990) / PER_NODE)
    assert figures["shared_modelled"] == 10
