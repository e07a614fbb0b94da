"""Does uProxy as one file start as fast as the installed one, and hold as little memory?

`python -m benchmarks.standalone .cache/standalone/uproxy [PYTHON …]`, as root.  Each PYTHON is one
with the wheel installed; the one that this runs on is always compared.

Flow: an inbound uProxy with its identity from a Workload API is started, and is ready when
`/readyz` says so, which is asked every 10 ms.  It is scraped once and left alone for 2 s; then its
memory is read.  The first start of the file, which unpacks it, is measured with a cache folder
that is empty.  Every start is a fresh process; a round has each of them once, and every second
round goes backwards.

Not measured: the first start after a boot, when nothing is in the page cache.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from uproxy.lab.authorities import DevAuthority
from uproxy.lab.memory import Memory, memory
from uproxy.lab.mesh import ORDERS, AgentWorld, Inbound
from uproxy.lab.waiting import wait_until

_IDLE_S = 2.0
_KIB = 1024
FIRST, LATER = "one file, first start", "one file"


def _start(
    folder: Path, world: AgentWorld, command: list[str], cache: Path
) -> tuple[float, Memory]:
    """Start one; return the seconds until it was ready, and its memory when idle."""
    uproxy = Inbound(folder, world.ours(ORDERS), app=9)
    uproxy.argv[:3] = ["env", f"XDG_CACHE_HOME={cache}", *command]
    begun = time.monotonic()
    with uproxy:
        wait_until(lambda: uproxy.status("/readyz") == 200, "readiness", 60.0)
        ready_s = time.monotonic() - begun
        uproxy.request("/metrics")
        os.sync()  # a library's pages count as dirty until they are on disk
        time.sleep(_IDLE_S)
        return ready_s, memory(uproxy.pid)


def starts(
    folder: Path, commands: Mapping[str, list[str]], rounds: int
) -> dict[str, list[tuple[float, Memory]]]:
    """Start each command once in each round; return what `_start` says of each, in order."""
    found: dict[str, list[tuple[float, Memory]]] = defaultdict(list)
    with DevAuthority(folder, AgentWorld.domains()) as authority:
        world = AgentWorld(folder, authority)
        for number in range(rounds):
            for kind in commands if number % 2 else reversed(list(commands)):
                cache = folder / (f"cache-{number}" if kind == FIRST else "cache")
                cache.mkdir(exist_ok=True)
                found[kind].append(_start(folder, world, commands[kind], cache))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.standalone", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("python", nargs="*")
    parser.add_argument("--rounds", type=int, default=7)
    words = parser.parse_args()
    file = str(words.file.resolve())
    commands = {FIRST: [file], LATER: [file]}
    commands |= {each: [each, "-m", "uproxy"] for each in (sys.executable, *words.python)}
    with tempfile.TemporaryDirectory(prefix="standalone-") as name:
        found = starts(Path(name), commands, words.rounds)
    installed = median(seconds for seconds, _ in found[sys.executable])
    print(f"{'':40} ready, s   times installed   private KiB   RSS KiB")
    for kind, each in found.items():
        ready_s = median(seconds for seconds, _ in each)
        private = median(used.private_dirty for _, used in each) / _KIB
        rss = median(used.rss for _, used in each) / _KIB
        ratio = ready_s / installed
        print(f"{kind[-40:]:40} {ready_s:8.3f} {ratio:17.2f} {private:13,.0f} {rss:9,.0f}")


if __name__ == "__main__":
    main()
