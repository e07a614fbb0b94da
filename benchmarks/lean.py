"""What does each trick of `uproxy/lean` save?  `python -m benchmarks.lean`, as root.

Flow: an inbound uProxy with its identity from a Workload API is started, scraped once, and left
alone for 2 s; then its private memory and RSS are read.  Once with all tricks, once with none, and
once without each of them: what that one holds more is what the trick saves.  Every start is a
fresh process; a round has each of them once, and every second round goes backwards.

Not measured: the time that a trick saves or costs.
"""

from __future__ import annotations

import argparse
import compileall
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from uproxy.lab.authorities import DevAuthority
from uproxy.lab.memory import Memory, memory
from uproxy.lab.mesh import ORDERS, AgentWorld, Inbound
from uproxy.lean.imports import stand_ins

_IDLE_S = 2.0
_KIB = 1024
_ALL, _NONE = "all tricks", "no trick"
_OTHERS = ("dataclasses", "typing", "prometheus_client", "yaml")
_TRICKS = (*(name for name, _ in stand_ins()), *_OTHERS)

_WITHOUT = """\
import contextlib, sys
from uproxy.lean import imports, packages

missing, stand_ins, package_not_run = sys.argv.pop(1), imports.stand_ins, packages.package_not_run

def used(name):
    return missing not in (name, "no trick")

imports.stand_ins = lambda: [each for each in stand_ins() if used(each[0])]
packages.package_not_run = lambda name: (
    package_not_run(name) if used(name) else contextlib.nullcontext())
if not used("dataclasses"):
    imports.lean_dataclasses = contextlib.nullcontext
if not used("typing"):
    imports.forward_references_not_compiled = contextlib.nullcontext

from uproxy.cli import main
sys.exit(main())
"""
"""`uproxy` without the trick that its first argument names."""


def _idle(folder: Path, world: AgentWorld, missing: str) -> Memory:
    uproxy = Inbound(folder, world.ours(ORDERS), app=9)
    uproxy.argv[1:3] = ["-c", _WITHOUT, missing]
    with uproxy:
        uproxy.wait_until_ready()
        uproxy.request("/metrics")
        os.sync()  # a library's pages count as dirty until they are on disk
        time.sleep(_IDLE_S)
        return memory(uproxy.pid)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lean", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    # as an installed package has them: compiling in the process would count as its memory
    compileall.compile_dir(Path(__file__).parents[1] / "uproxy", quiet=1)
    held: dict[str, list[Memory]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="lean-") as name:
        folder = Path(name)
        with DevAuthority(folder, AgentWorld.domains()) as authority:
            world = AgentWorld(folder, authority)
            for number in range(rounds):
                order = (_ALL, *_TRICKS, _NONE)
                for missing in order if number % 2 else reversed(order):
                    held[missing].append(_idle(folder, world, missing))
    print(_table(held))


def _table(held: dict[str, list[Memory]]) -> str:
    base = held[_ALL]
    lines = [f"{'without':55} private KiB more (of rounds)       RSS KiB more"]
    lines += [_row(missing, held[missing], base) for missing in (*_TRICKS, _NONE)]
    lines.append(f"with all: {median(each.private_dirty for each in base) / _KIB:.0f} KiB private")
    return "\n".join(lines)


def _row(missing: str, without: list[Memory], base: list[Memory]) -> str:
    pairs = list(zip(without, base, strict=True))
    private = [(other.private_dirty - one.private_dirty) / _KIB for other, one in pairs]
    rss = [(other.rss - one.rss) / _KIB for other, one in pairs]
    extent = f"({min(private):.0f} to {max(private):.0f})"
    return f"{missing:55} {median(private):8.0f} {extent:20} {median(rss):12.0f}"


if __name__ == "__main__":
    main()
