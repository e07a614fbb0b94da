"""What does `uproxy capture attach --short-circuit` save, and what does it cost?  As root:
`python -m benchmarks.shortcut`.

Flow: a captured application in a network namespace → A (captured there, mutual TLS out) → B and the
application that answers, in another namespace, joined by a link.  A round measures each load with
and without, by turns, which `attach` again changes while A runs; connections are new.  The figures
are CPU time of the application and of A together (what is short-circuited is between them), the
rate, and how many of the writes took the short way; of `--rounds` rounds the median of with against
without, and the least and the most.

Not measured: the engine in Python, IPv6, several applications at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import yaml

from benchmarks.harness.compiled import compiled
from benchmarks.harness.processes import cpu_seconds
from uproxy.capture import contents
from uproxy.capture.layout import Stat
from uproxy.capture.pins import MAP, Pins
from uproxy.capture.rehearsal import Flaw
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, allowing
from uproxy.lab.pods import HOST, OUT, Pod, existing, run
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

_DOOR, _APPLICATION = 9443, 9080
_SHORT = ("--short-circuit", ",".join(Flaw))
_WARM_S = "0.3"
_LOADS: dict[str, tuple[str, ...]] = {
    "requests of 64 B, answers of 1 KiB, 1 connection": ("ask", "1", "64", "1024"),
    "requests of 64 B, answers of 1 KiB, 16 connections": ("ask", "16", "64", "1024"),
    "requests of 16 KiB, answers of 1 KiB, 16 connections": ("ask", "16", "16384", "1024"),
    "requests of 64 B, answers of 64 KiB, 16 connections": ("ask", "16", "64", "65536"),
    "an upload, written in pieces of 4 KiB": ("push", "4096"),
    "an upload, written in pieces of 64 KiB": ("push", "65536"),
}


@dataclass(frozen=True, slots=True)
class _Run:
    rate: float
    """Requests, or GB, a second."""
    cost: float
    """CPU µs of the application and of A for a request, or CPU s for a GB."""
    short: float
    """The part of the application's writes that took the short way."""


class _Stage:
    """Everything that runs."""

    def __init__(self, world: Pod, proxy: int) -> None:
        self.world = world
        self.proxy = proxy

    def attach(self, *, is_short: bool) -> None:
        self.world.attach(*(_SHORT if is_short else ()))

    def measure(self, load: tuple[str, ...], seconds: float) -> _Run:
        self._run(load, _WARM_S)
        writes, before = self._writes(), cpu_seconds([self.proxy])
        found = self._run(load, str(seconds))
        spent = cpu_seconds([self.proxy]) - before + found["cpu_us"] / 1e6
        handed, left = (now - was for now, was in zip(self._writes(), writes, strict=True))
        done, unit = (found["done"], 1e6) if load[0] == "ask" else (found["done"] / 1e9, 1)
        part = handed / (handed + left) if handed + left else 0.0
        return _Run(done / found["seconds"], spent / done * unit, part)

    def _run(self, load: tuple[str, ...], seconds: str) -> dict[str, float]:
        words: tuple[str | Path, ...] = (
            compiled("captured"),
            load[0],
            HOST,
            str(_DOOR),
            *load[1:],
            seconds,
        )
        argv = self.world.inside(self.world.pod, self.world.app, *words)
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    def _writes(self) -> tuple[int, int]:
        with Pins(self.world.bpffs, self.world.name).open(f"{MAP}stats") as map_:
            assert map_ is not None
            stats = contents.read_stats(map_)
        return stats[Stat.HANDED_OVER], stats[Stat.LEFT_TO_TCP]


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[_Stage]:
    bpffs = folder / "bpffs"
    bpffs.mkdir()
    run("mount", "-t", "bpf", "bpf", bpffs)
    try:
        with contextlib.ExitStack() as stack:
            world = stack.enter_context(existing(Pod(folder, bpffs)))
            files = FileWorld(folder)
            host, anywhere = world.host, world.cgroup / ".."
            b = {
                "identity": files.ours(ORDERS),
                "inbound": [{"name": "in", "listen": f"{HOST}:{_DOOR}", "transport": "mtls",
                             "to": f"127.0.0.1:{_APPLICATION}"}],
                "authorization": [allowing(WEB)],
            }  # fmt: skip
            a = {
                "identity": files.ours(WEB),
                "outbound": [{"listen": f"127.0.0.1:{OUT}", "captured": True}],
                "destinations": {"host": {"match": {"addresses": [f"{HOST}/32"]},
                                          "transport": "mtls", "identities": [ORDERS]}},
            }  # fmt: skip
            served: list[str | Path] = [compiled("captured"), "serve", str(_APPLICATION)]
            _start(stack, world.inside(host, anywhere, *served), folder / "served.log", "ready")
            for name, config in ("b", b), ("a", a):
                where = (host, anywhere) if name == "b" else (world.pod, world.proxy_cgroup)
                path = folder / f"{name}.yaml"
                path.write_text(yaml.safe_dump({**config, "admin": None}))
                argv = world.inside(*where, sys.executable, "-m", "uproxy", "run", "--config", path)
                last = _start(stack, argv, folder / f"{name}.log", "started: ")
            yield _Stage(world, last.pid)
    finally:
        run("umount", bpffs)


def _start(stack: contextlib.ExitStack, argv: list[str], log: Path, words: str) -> Process:
    process = stack.enter_context(Process(argv, log))
    wait_until(lambda: words in log.read_text(), f"{log.stem} to run")
    return process


def _compared(runs: list[tuple[_Run, _Run]]) -> str:
    """Return the cells of a row: with, without, and with against without."""
    cells = []
    for key in ("cost", "rate"):
        pairs = [(getattr(short, key), getattr(plain, key)) for short, plain in runs]
        ratios = sorted(short / plain for short, plain in pairs)
        shown = [f"{median(column):,.4g}" for column in zip(*pairs, strict=True)]
        cells += [*shown, f"**{median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"]
    return " | ".join([*cells, f"{median(short.short for short, _ in runs):.0%}"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shortcut", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _staged(Path(folder)) as stage:
        runs: dict[str, list[tuple[_Run, _Run]]] = {name: [] for name in _LOADS}
        for number in range(args.rounds):
            measured: dict[bool, dict[str, _Run]] = {}
            for is_short in (True, False) if number % 2 else (False, True):
                stage.attach(is_short=is_short)
                measured[is_short] = {
                    name: stage.measure(load, args.seconds) for name, load in _LOADS.items()
                }
            for name in _LOADS:
                runs[name].append((measured[True][name], measured[False][name]))
    print("| load | CPU with | without | ratio | rate with | without | ratio | short |")
    print("|---|---|---|---|---|---|---|---|")
    for name, pairs in runs.items():
        print(f"| {name} | {_compared(pairs)} |")


if __name__ == "__main__":
    main()
