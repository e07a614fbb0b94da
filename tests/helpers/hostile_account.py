"""A uProxy under attack, and checks of what each attack left behind.

`door` is a fixture: for each engine one inbound door for a whole file of attacks, in front of an
echo; `classic` is the same with TLS 1.2 allowed.  A test module says `door = hostile_account.door`.
`account` surrounds one attack and checks that it left exactly one line in the access log, grew only
the counters of its ending, each by one, and leaked no descriptor.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.endings import Line, ended, metric
from tests.helpers.hostile_client import HostileClient
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, Inbound
from uproxy.lab.pki import Issued
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

ENGINES = ("native", "python")
FRONTEND = "/ns/web/sa/frontend"
"""The path of WEB, which the door admits."""

_REFUSED = {"istio_tcp_connections_failed_total": 1, "uproxy_handshake_failures_total": 1}
_SERVED = {
    "istio_tcp_connections_opened_total": 1,
    "istio_tcp_connections_closed_total": 1,
    "uproxy_handshakes_total": 1,
    "uproxy_authorization_decisions_total": 1,
}
_SLACK, _LEAK = 1 << 20, 512
"""Bytes that stay for an allocator's reasons, and that each connection may add to them: what
OpenSSL has for one is 7 KiB and more."""


@pytest.fixture(scope="module", params=ENGINES)
def door(
    request: pytest.FixtureRequest, folder: Path, file_world: FileWorld, echo_app: int
) -> Iterator[Inbound]:
    """A uProxy with the default settings: TLS 1.3 only."""
    with Inbound(folder, file_world.ours(ORDERS), echo_app, engine=request.param) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


@pytest.fixture(scope="module", params=ENGINES)
def classic(
    request: pytest.FixtureRequest, folder: Path, file_world: FileWorld, echo_app: int
) -> Iterator[Inbound]:
    """A uProxy that allows TLS 1.2."""
    keys = {"engine": request.param, "tls": {"min_version": "1.2"}}
    with Inbound(folder, file_world.ours(ORDERS), echo_app, **keys) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


@contextlib.contextmanager
def account(
    uproxy: Uproxy, outcome: str, *, rule: str | None = None, opened: bool = False
) -> Iterator[list[Line]]:
    """Check one connection that is made in the block and ends before the block does; the list
    gets its line.  `opened`: whether it was admitted first.

    Raises:
        AssertionError: the log, counters or descriptors are others.
    """
    descriptors = open_descriptors(uproxy)
    before = counts(uproxy)
    with ended(uproxy, outcome, rule=rule, opened=opened) as lines:
        yield lines
    moved = counts(uproxy)
    moved.subtract(before)
    steps = {name: count for name, count in moved.items() if count}
    assert steps == (_SERVED if opened else _REFUSED)
    wait_until(lambda: open_descriptors(uproxy) == descriptors, f"{descriptors} descriptors")


def serves(uproxy: Inbound, web: Issued) -> None:
    """Check that a client with a valid identity gets an answer."""
    with ended(uproxy, "closed") as lines, HostileClient(uproxy.port, web) as client:
        assert client.handshake().send(b"hello").receive(5) == b"hello"
        client.tls.close()
    assert lines[0]["src.identity"] == WEB


def costs_no_memory(uproxy: Uproxy, attack: Callable[[], None], times: int) -> None:
    """Check that memory and descriptors after `times` attacks are as after a quarter as many.

    `attack` makes connections that end by themselves.

    Raises:
        AssertionError: they aren't.
    """
    for _ in range(max(times // 4, 1)):  # what is made once, and what is bounded
        attack()
    _settle(uproxy)
    descriptors, before, resident = open_descriptors(uproxy), _endings(uproxy), _resident(uproxy)
    for _ in range(times):
        attack()
    _settle(uproxy)
    wait_until(lambda: open_descriptors(uproxy) == descriptors, f"{descriptors} descriptors")
    made = _endings(uproxy) - before
    assert made >= times
    grown = _resident(uproxy) - resident
    assert grown < _SLACK + made * _LEAK, f"{grown} bytes after {made} connections"


def counts(uproxy: Uproxy) -> Counter[str]:
    """Return uProxy's counters, except those of bytes, summed over their labels."""
    status, text = uproxy.request("/metrics")
    assert status == 200, text
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        if family.name.startswith(("istio_", "uproxy_")):
            for sample in family.samples:
                if sample.name.endswith("_total") and "_bytes_" not in sample.name:
                    found[sample.name] += int(sample.value)
    return found


def open_descriptors(uproxy: Uproxy) -> int:
    """Return how many descriptors the process has open."""
    return int(metric(uproxy, "process_open_fds"))


def _resident(uproxy: Uproxy) -> int:
    return int(metric(uproxy, "process_resident_memory_bytes"))


def _endings(uproxy: Uproxy) -> int:
    found = counts(uproxy)
    return sum(found[f"istio_tcp_connections_{how}_total"] for how in ("closed", "failed"))


def _settle(uproxy: Uproxy) -> None:
    """Wait until no connection is open and none has ended since the last check."""
    last = -1

    def quiet() -> bool:
        nonlocal last
        then, last = last, _endings(uproxy)
        return last == then and metric(uproxy, "uproxy_connections") == 0

    wait_until(quiet, "the last of them to end", timeout=30.0)
