"""How long does a reload hold up the event loop, and with it new callers and probes?

Flow: a uProxy with 1,000 destinations, a door for each of 20 of them, and 1,000 rules is asked
for `/livez` without pause, over a new connection each time, while its file is replaced three
times by one with other rules and destinations.  What counts is the longest that an answer took
meanwhile; beside it stands the longest in as much time without a reload.

Not measured: changes of thousands of doors, which are sockets; a processor without a free core
for the thread that parses.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.proxies import PYTHON_ENGINE, UPROXY, ProxyKind
from uproxy.lab.mesh import ORDERS, FileWorld
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

_EACH = 1_000
_DOORS = 20
_RELOADS = 3
_DEADLINE_S = 120


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure the answers' times without and with reloads."""
    doors = [free_port() for _ in range(_DOORS)]
    engine = "python" if kind is PYTHON_ENGINE else "native"
    config = _config(stage.files, engine, doors, 0)
    with Uproxy(config, stage.folder / f"reload-{engine}") as uproxy:
        uproxy.wait_until_ready(_DEADLINE_S)
        held, reloads = list[float](), list[float]()
        for edition in range(1, _RELOADS + 1):
            # before, because this process would be slow to ask while it writes it
            uproxy.write_config(_config(stage.files, engine, doors, edition))
            with _asking(uproxy) as seconds:
                started = time.monotonic()
                _reload(uproxy, edition)
                reloads.append(time.monotonic() - started)
            held += seconds
        with _asking(uproxy) as usual:
            time.sleep(sum(reloads))
    return {
        "held": max(held) * 1e3,
        "usual": max(usual) * 1e3,
        "seconds": sum(reloads) / _RELOADS,
    }


def _config(files: FileWorld, engine: str, doors: list[int], edition: int) -> dict[str, Any]:
    """A configuration with other addresses and rules in each edition."""
    destinations = {
        f"service-{number}": {
            "addresses": [f"10.{edition}.{number // 250}.{number % 250 + 1}:5432"],
            "transport": "mtls",
            "identities": [f"{ORDERS}-{number}"],
        }
        for number in range(_EACH)
    }
    rules = [
        {
            "name": f"rule-{number}",
            "action": "allow",
            "from": {"identities": [f"spiffe://example.org/ns/shop/sa/caller-{edition}-{number}"]},
        }
        for number in range(_EACH)
    ]
    return {
        "engine": engine,
        "identity": files.ours(ORDERS),
        "outbound": [
            {"listen": f"127.0.0.1:{port}", "to": f"service-{number}"}
            for number, port in enumerate(doors)
        ],
        "destinations": destinations,
        "authorization": rules,
    }


def _reload(uproxy: Uproxy, count: int) -> None:
    uproxy.send(signal.SIGHUP)
    wait_until(
        lambda: uproxy.output.count("reloaded ") >= count, "the file to be reloaded", _DEADLINE_S
    )


@contextmanager
def _asking(uproxy: Uproxy) -> Iterator[list[float]]:
    """Ask for `/livez` in the block; yield a list that is filled with the answers' seconds."""
    ended = threading.Event()
    seconds: list[float] = []

    def ask() -> None:
        while not ended.is_set():
            started = time.monotonic()
            uproxy.status("/livez")
            seconds.append(time.monotonic() - started)
            time.sleep(0.001)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seconds
    finally:
        ended.set()
        thread.join()


_TABLE = f"{_EACH:,} destinations and {_EACH:,} rules, {_RELOADS} reloads"
BENCHMARK = Benchmark(
    name="reload",
    title="Reloading a large configuration",
    columns=(
        Column("held", "longest answer of `/livez`, ms", 1, _TABLE),
        Column("usual", "the same without a reload, ms", 1, _TABLE),
        Column("seconds", "seconds from the signal to the reload", 2, _TABLE),
    ),
    kinds=(UPROXY, PYTHON_ENGINE),
    measure=measure,
    charts=("held",),
    seconds=0,
    base=UPROXY,
    of_base="uProxy's",
)
