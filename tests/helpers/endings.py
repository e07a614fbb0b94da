"""Checks how connections ended, by the access log and the counters of a uProxy.

`ended` surrounds a piece of traffic and checks that exactly this many connections ended meanwhile,
each with the expected outcome, and that the counters grew by as much under the outcome's flag.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until
from uproxy.model import Outcome

Line = dict[str, Any]

_IN_HANDSHAKE = {"handshake_failed", "peer_untrusted", "peer_unexpected"}


def metric(uproxy: Uproxy, name: str, **labels: str) -> float:
    """Return the sum of the samples of `name` with these labels; 0 if there are none."""
    status, text = uproxy.request("/metrics")
    assert status == 200, text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def told(uproxy: Uproxy) -> str:
    """Return what `uproxy status` prints about a uProxy, its lines joined."""
    argv = [sys.executable, "-m", "uproxy", "status", "--admin", f"127.0.0.1:{uproxy.admin_port}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout, done.stderr
    return " ".join(done.stdout.split())


@contextlib.contextmanager
def ended(
    uproxy: Uproxy,
    outcome: str,
    *,
    rule: str | None = None,
    opened: bool | None = None,
    count: int = 1,
    timeout: float = 15.0,
) -> Iterator[list[Line]]:
    """On leaving the block, wait for `count` lines of the access log, put them into the list
    and check them.

    `opened`: whether the connections had been opened; by default those that ended as `closed`,
    `reset` or `peer_refused` had.  `rule` is checked unless they ended as `closed` or `reset`.

    Raises:
        AssertionError: there are other lines, or the counters don't agree with them.
    """
    was_open = outcome in ("closed", "reset", "peer_refused") if opened is None else opened
    flag = Outcome(outcome).flag
    state = "closed" if was_open else "failed"
    counter = f"istio_tcp_connections_{state}_total"
    before = metric(uproxy, counter, response_flags=flag)
    failures = _failures(uproxy, outcome)
    seen = len(uproxy.accesses)
    lines: list[Line] = []
    yield lines
    wait_until(
        lambda: len(uproxy.accesses) >= seen + count, f"{count} access lines", timeout=timeout
    )
    lines += uproxy.accesses[seen:]
    assert [line["outcome"] for line in lines] == [outcome] * count, lines
    if outcome not in ("closed", "reset"):
        assert {line["rule"] for line in lines} == {rule}, lines
    assert metric(uproxy, counter, response_flags=flag) == before + count
    if outcome in _IN_HANDSHAKE and not was_open:
        assert _failures(uproxy, outcome) == failures + count

    # a defect would be logged as an error, or as a traceback
    assert not [line for line in uproxy.lines if line.get("level") == "error" or "text" in line]


def only(lines: list[Line]) -> Line:
    """Return the line of a list that has exactly one."""
    (line,) = lines
    return line


def handshakes(uproxy: Uproxy, **labels: str) -> float:
    """Return how many handshakes have finished, by `version`, `group`, `cipher`."""
    return metric(uproxy, "uproxy_handshakes_total", **labels)


def _failures(uproxy: Uproxy, outcome: str) -> float:
    return metric(uproxy, "uproxy_handshake_failures_total", reason=outcome)
