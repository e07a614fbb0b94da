"""A program of others, which connects in its own ways: both families race, sources are bound."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.helpers.capture_world import ELSEWHERE, ELSEWHERE6, POD, POD6, World

ENOUGH_S = "1"
"""The proxy answers at once and then keeps the connection open, until curl has had enough."""
HAD_ENOUGH = 28


@pytest.mark.parametrize(
    ("options", "peers"),
    [
        (("-4",), {ELSEWHERE: POD}),
        (("-6",), {ELSEWHERE6: POD6}),
        ((), {ELSEWHERE: POD, ELSEWHERE6: POD6}),  # whichever is first
        (("--interface", POD, "--local-port", "41000-41010"), {ELSEWHERE: POD}),
        (("--tcp-fastopen", "-4"), {ELSEWHERE: POD}),
    ],
)
def test_curl_reaches_the_proxy_under_the_names_that_it_resolved(
    either: World, options: tuple[str, ...], peers: dict[str, str]
) -> None:
    either.attach()
    words = either.inside(
        either.pod, either.app, "curl", "-s", "--http0.9", "--max-time", ENOUGH_S,
        "--resolve", f"service.test:80:{ELSEWHERE},[{ELSEWHERE6}]",
        "-w", "\n%{remote_ip} %{local_ip}", *options, "http://service.test/",
    )  # fmt: skip
    with either.proxy():
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == HAD_ENOUGH, done.stderr
    first, *_, last = done.stdout.splitlines()
    remote, local = last.split()
    assert json.loads(first)["original"] == [remote, 80]
    assert (remote in peers, local) == (True, peers.get(remote))


def test_curl_is_refused_at_once_without_the_proxy(either: World) -> None:
    either.attach()
    words = either.inside(
        either.pod, either.app, "curl", "-sS", "--max-time", "10", f"http://{ELSEWHERE}/"
    )
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 7  # couldn't connect; 28 would be a timeout
