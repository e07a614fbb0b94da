"""Where the proxy's cgroup is above both, what the workload listens at isn't its proxy's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.capture_world import HOST, IN, OUT, World
from uproxy.capture import control
from uproxy.capture.policy import Policy
from uproxy.errors import UsageError


def attach(world: World) -> None:
    """Attach with the proxy's cgroup that is the default: the parent of the workload's."""
    world.capture(
        "attach", "--cgroup", world.app, "--netns", world.pod, "--bpffs", world.bpffs,
        "--mode", world.mode, "--inbound", "8080",
    )  # fmt: skip


def test_not_if_it_listens_before_and_not_if_it_does_afterwards(either: World) -> None:
    world = either
    with world.server(world.pod, OUT, world.app):
        attach(world)
        assert world.status()["listeners"] == {"outbound": False, "inbound": False}
        assert world.connect(HOST, 8080)["error"] == "ECONNREFUSED"
        with world.server(world.pod, IN, world.app):
            assert world.status()["listeners"] == {"outbound": False, "inbound": False}
    with world.server(world.pod, OUT, world.app):
        assert world.connect(HOST, 8080)["error"] == "ECONNREFUSED"


def test_the_proxy_beside_it_is_found_before_and_afterwards(either: World) -> None:
    world = either
    with world.proxy():
        attach(world)
        assert world.connect(HOST, 8080)["answer"]["original"] == [HOST, 8080]
    assert world.connect(HOST, 8080)["error"] == "ECONNREFUSED"
    with world.proxy():
        assert world.connect(HOST, 8080)["answer"]["original"] == [HOST, 8080]


@pytest.mark.parametrize("mode", ["ebpf", "nft", "auto"])
def test_on_a_machine_the_proxys_cgroup_must_be_named(
    world: World, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "is_initial", lambda _: True)
    wanted = control.Request(str(world.app), world.pod, Policy(), mode=mode, bpffs=world.bpffs)
    with pytest.raises(UsageError, match="--proxy-cgroup is needed in the machine's own"):
        control.attach(wanted, tmp_path)
