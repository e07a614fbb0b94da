"""A uProxy under attack, and checks of what each attack left behind.

`door` is a fixture: for each engine one inbound door for a whole file of attacks, in front of an
echo; `classic` is the same with TLS 1.2 allowed, `counted_door` with memory that can be counted to
the byte.  A test module says `door = hostile_account.door`.
`account` surrounds one attack and checks that it left exactly one line in the access log, grew only
the counters of its ending, each by one, and leaked no descriptor.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.endings import Line, ended, metric
from tests.helpers.hostile_client import HostileClient
from tests.helpers.in_use import counted, in_use
from tests.helpers.memory import steps
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
_WINDOW = 250
_STILL, _MOST_WINDOWS = 3, 30
"""Windows in a row in which memory must not grow, and how many there are until then: what is kept
for later, and what is bounded, is full after some thousand connections."""
_LEAK = 128
"""Bytes that each connection may leave behind: what OpenSSL has for one is 7 KiB and more."""


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


@pytest.fixture(scope="module", params=ENGINES)
def counted_door(
    request: pytest.FixtureRequest, folder: Path, file_world: FileWorld, echo_app: int
) -> Iterator[Inbound]:
    """As `door`, for `in_use` and `costs_no_memory`; without the access log, which remembers each
    kind of failure for ten seconds."""
    quiet = {"engine": request.param, "log": {"access": "none"}}
    plain = Inbound(folder, file_world.ours(ORDERS), echo_app, **quiet)
    with counted(plain) as uproxy:
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
    """Check that a client with a valid identity gets an answer, and the log says so."""
    with ended(uproxy, "closed") as lines:
        answers(uproxy, web)
    assert lines[0]["src.identity"] == WEB


def answers(uproxy: Inbound, web: Issued) -> None:
    """Check that a client with a valid identity gets an answer."""
    with HostileClient(uproxy.port, web) as client:
        assert client.handshake().send(b"hello").receive(5) == b"hello"
        client.tls.close()


def costs_no_memory(
    uproxy: Uproxy, attacks: Sequence[Callable[[], object]], window: int = _WINDOW
) -> None:
    """Check that the memory and descriptors of a `counted_door` stop growing while it is attacked.

    Each attack makes one connection, which ends by itself; `window`: how many are made between two
    looks at the memory.

    Raises:
        AssertionError: they don't, so each connection leaves something behind.
    """
    memory, descriptors = [_attacked(uproxy, attacks, window)], open_descriptors(uproxy)
    while len(memory) <= _STILL or max(steps(memory[-_STILL - 1 :])) >= _LEAK * window:
        memory.append(_attacked(uproxy, attacks, window))
        assert len(memory) <= _MOST_WINDOWS, f"{memory} bytes after each {window} connections"
    wait_until(lambda: open_descriptors(uproxy) == descriptors, f"{descriptors} descriptors")


def _attacked(uproxy: Uproxy, attacks: Sequence[Callable[[], object]], count: int) -> int:
    """Attack so many times, in turn; return the bytes in use when all connections have ended."""
    until = _endings(uproxy) + count
    for attack in itertools.islice(itertools.cycle(attacks), count):
        attack()
    wait_until(lambda: _endings(uproxy) == until, "all of them to end", timeout=30.0)
    return in_use(uproxy)


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


def _endings(uproxy: Uproxy) -> int:
    found = counts(uproxy)
    return sum(found[f"istio_tcp_connections_{how}_total"] for how in ("closed", "failed"))
