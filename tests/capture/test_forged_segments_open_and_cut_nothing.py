"""Somebody on the network sends segments of no connection, or of another's: nobody is told."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import capture_forged
from tests.helpers.capture_talk import app
from tests.helpers.capture_world import HOST, HOST6, POD, POD6, World, run
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

PORT = 8080
LIVE, STRAY = 40123, 40124
FLAGS = ("A", "R", "RA", "SA", "FA", "AP")
BOTH_FAMILIES = pytest.mark.parametrize(("host", "pod"), [(HOST, POD), (HOST6, POD6)])

APPLICATION = f"""
import socket
s = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    c, _ = s.accept()
    print("accepted", flush=True)
    c.sendall(b"real\\n")
    c.close()
"""


def forge(world: World, *ends: str | int) -> None:
    """Have the host send one segment with each of the flags: SOURCE PORT TO PORT."""
    for flags in FLAGS:
        words = [sys.executable, capture_forged.__file__, flags, *map(str, ends)]
        run("ip", "netns", "exec", world.host, *words)


@contextlib.contextmanager
def application(world: World) -> Iterator[Path]:
    """Run the captured one; yield its log."""
    log = world.folder / "application.log"
    with Process(world.inside(world.pod, world.app, sys.executable, "-c", APPLICATION), log):
        wait_until(lambda: "ready" in log.read_text(), "the application to listen")
        yield log


@BOTH_FAMILIES
def test_strays_reach_no_application(either: World, host: str, pod: str) -> None:
    either.attach("--inbound", str(PORT))
    with application(either) as log:
        forge(either, host, STRAY, pod, PORT)
        with either.proxy():
            forge(either, host, STRAY, pod, PORT)
            seen = either.call(pod, PORT, f"source={STRAY}")
            assert seen.get("answer") != "real", seen
            assert either.call(pod, PORT)["answer"]["original"] == [pod, PORT]
            # the application answers whom it is to answer, and has answered nobody else
            assert either.run_app(either.pod, either.proxy_cgroup, pod, PORT)["answer"] == "real"
        assert log.read_text().split() == ["ready", "accepted"]


@BOTH_FAMILIES
def test_wrong_sequence_numbers_cut_no_callers_connection(
    either: World, host: str, pod: str
) -> None:
    either.attach("--inbound", str(PORT))
    outside = either.cgroup / ".."
    with (
        application(either) as log,
        either.proxy(),
        app(either, either.host, outside, pod, PORT, "hold", f"source={LIVE}") as client,
    ):
        seen = client.seen()
        assert seen["answer"]["door"] == "inbound"
        forge(either, seen["sockname"][0], LIVE, pod, PORT)
        client.say("still there")
        assert client.hear() == "still there"
        assert log.read_text().split() == ["ready"]


@BOTH_FAMILIES
def test_wrong_sequence_numbers_cut_no_connection_of_the_applications(
    either: World, host: str, pod: str
) -> None:
    either.attach()
    with (
        either.proxy(),
        app(either, either.pod, either.app, host, 80, "hold") as client,
    ):
        seen = client.seen()
        assert seen["answer"]["original"] == [host, 80]
        forge(either, host, 80, pod, seen["sockname"][1])
        client.say("still there")
        assert client.hear() == "still there"
