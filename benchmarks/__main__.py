"""`python -m benchmarks [NAME …]`: measures, stores the results, renders docs/benchmarks.md and
docs/architectures.md.

With `--only-print` nothing is stored; with `--only-render` nothing is measured.
"""

from __future__ import annotations

import argparse
import compileall
import dataclasses
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.benchmark import Benchmark
from benchmarks.harness.report import keep, render, render_summary, tables
from benchmarks.harness.rounds import run

_ROOT = Path(__file__).parents[1]
NAMES = ("requests", "handshakes", "bulk", "memory", "open", "fairness", "flood", "chains",
         "tunnels", "capture", "reload", "architectures")  # fmt: skip
"""In the order of the pages."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the named benchmarks, or all."""
    args = _arguments(argv)

    # as in an installed package: else compiling would count as the process's memory
    compileall.compile_dir(_ROOT / "uproxy", quiet=1)
    command = shlex.join(["python", "-m", "benchmarks", *(argv or sys.argv[1:])])
    for name in args.names or NAMES:
        benchmark = _find(name)
        if not args.only_render:
            changes = {"rounds": args.rounds, "seconds": args.seconds}
            given = {key: value for key, value in changes.items() if value is not None}
            result = run(dataclasses.replace(benchmark, **given), command)
            print(f"\n{benchmark.title}\n\n{tables(benchmark, result.rounds)}\n", flush=True)
            if args.only_print:
                continue
            keep(benchmark, result, _ROOT)
        render(benchmark, _ROOT)
        render_summary([_find(each) for each in NAMES], _ROOT)


def _find(name: str) -> Benchmark:
    benchmark: Benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    return benchmark


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, help="instead of the benchmark's own number")
    parser.add_argument("--seconds", type=float, help="of each measurement, likewise")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only-print", action="store_true", help="keep nothing")
    only.add_argument("--only-render", action="store_true", help="the page, from what is kept")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return args


if __name__ == "__main__":
    main()
