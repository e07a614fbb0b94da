"""`--include`, `--exclude`: the longest prefix, then the port; and each workload has its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.capture_world import HOST, HOST6, SECOND, SECOND6, World, existing


@pytest.mark.parametrize(
    ("options", "captured"),
    [
        ((), {(HOST, 80), (HOST, 81), (SECOND, 80), (HOST6, 80), (SECOND6, 80)}),
        (("--exclude", f"{HOST}/32,{SECOND6}"), {(SECOND, 80), (HOST6, 80)}),
        (("--exclude", "0.0.0.0/0", "--include", f"{HOST}/32"), {(HOST, 80), (HOST, 81)}),
        (("--include", "10.0.0.0/8", "--exclude", "10.99.0.0/24"), set()),
        (("--exclude", "10.0.0.0/8", "--include", "10.99.0.0/24,::/0,80"),
         {(HOST, 80), (SECOND, 80), (HOST6, 80), (SECOND6, 80)}),
        (("--exclude", "80"), {(HOST, 81)}),
        (("--include", "81-82"), {(HOST, 81)}),
    ],
)  # fmt: skip
def test_the_longest_prefix_and_the_port_must_agree(
    either: World, options: tuple[str, ...], captured: set[tuple[str, int]]
) -> None:
    either.attach(*options)
    tried = [(HOST, 80), (HOST, 81), (SECOND, 80), (HOST6, 80), (SECOND6, 80)]
    with either.proxy(), either.server(either.host, 80), either.server(either.host, 81):
        answers = {each: either.connect(*each)["answer"] for each in tried}
    assert {each for each, answer in answers.items() if answer != "real"} == captured


def test_each_workload_has_its_own_policy(either: World, tmp_path: Path) -> None:
    other = World(tmp_path, either.bpffs, either.mode)
    with existing(other):
        either.attach("--exclude", HOST)
        other.attach("--include", HOST)
        with either.proxy(), other.proxy():
            for world, outside in ((either, "real"), (other, "outbound")):
                with world.server(world.host, 80):
                    answer = world.connect(HOST, 80)["answer"]
                    assert outside == (answer if answer == "real" else answer["door"])
        other.detach()
        assert either.status()["state"] == "attached"


def test_a_proxy_inside_the_workloads_cgroup_is_not_captured(either: World) -> None:
    """As in a pod whose cgroup is captured as a whole, before its containers have one."""
    either.capture(
        "attach", "--cgroup", either.cgroup, "--proxy-cgroup", either.proxy_cgroup, "--netns",
        either.pod, "--bpffs", either.bpffs, "--mode", either.mode,
    )  # fmt: skip
    with either.proxy(), either.server(either.host, 80):
        assert either.connect(HOST, 80)["answer"]["door"] == "outbound"
        seen = either.run_app(either.pod, either.proxy_cgroup, HOST, 80)
        assert seen["answer"] == "real"
