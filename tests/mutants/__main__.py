"""Whether the tests notice small faults in the modules that decide.

    python -m tests.mutants [MODULE …]

Every module of `modules.HUNTED`, or those named, two at a time.  A mutant that no test notices
must be explained in accepted.toml, and everything explained there must have survived.  What was
said while hunting is in .cache/mutants/MODULE.log.  Beside it, in MODULE.json, is what was found:
a module isn't hunted in again while all files are as they were that its tests import.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.modules import HUNTED, files_of
from tests.mutants.mutations import mutants_of
from tests.mutants.remembered import BROKEN, SURVIVED, Memory, Tried

ROOT = Path(__file__).parents[2]
LOGS = ROOT / ".cache" / "mutants"
MEMORY = Memory(LOGS, ROOT)
AT_A_TIME = 2


def accepted(module: str) -> list[str]:
    """The mutants of a module that may survive."""
    tables = tomllib.loads((ROOT / "tests/mutants/accepted.toml").read_text())
    return [key for keys in tables.get(module, {}).values() for key in keys]


def source(module: str) -> Path:
    """The file of a module."""
    return ROOT / f"{module.replace('.', '/')}.py"


def keys(module: str) -> list[str]:
    """What the mutants of a module are called."""
    return [each.key for each in mutants_of(ast.parse(source(module).read_text()))]


def hunt(module: str) -> list[str]:
    """What is wrong with the tests of a module, a line for each fault."""
    if (known := MEMORY.find(module)) is not None:
        return judged(module, known, "as remembered")
    started = time.monotonic()
    command = [sys.executable, "-m", "tests.mutants.hunt", module, *files_of(module)]
    # property tests try the same examples each time, and keep none; see tests/conftest.py
    environment = {**os.environ, "UPROXY_EXAMPLES": "mutants"}
    log = LOGS / f"{module}.log"
    with log.open("w") as said:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=said, check=False
        )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    tried = [Tried(**line) for line in lines if "key" in line]
    wrong = judged(module, tried, f"{time.monotonic() - started:.0f} s")
    if done.returncode != 0 or sorted(each.key for each in tried) != sorted(keys(module)):
        wrong.append(f"the hunt in {module} was not finished: see {log.relative_to(ROOT)}")
        print(wrong[-1], flush=True)
    else:
        imported = [name for line in lines if "key" not in line for name in line["files"]]
        MEMORY.keep(module, imported, tried)
    return wrong


def judged(module: str, tried: Sequence[Tried], how_long: str) -> list[str]:
    """What is wrong with the tests of a module, after telling it."""
    survivors = {each.key: each.line for each in tried if each.status == SURVIVED}
    wrong = compare(module, survivors, accepted(module))
    # what can't be tried counts as a fault of the hunt
    wrong += [f"can't be tried: {each.key}" for each in tried if each.status == BROKEN]
    told = [f"{module}: {len(tried)} mutants, {len(survivors)} survived, {how_long}", *wrong]
    print("\n".join(told), flush=True)
    return wrong


def compare(module: str, survivors: dict[str, int], explained: list[str]) -> list[str]:
    """The survivors without an explanation, and the explanations without a survivor."""
    path = source(module).relative_to(ROOT)
    return [
        *(
            f"{path}:{line}: no test notices {key}"
            for key, line in survivors.items()
            if key not in explained
        ),
        *(
            f"{path}: a test notices what accepted.toml explains, or it is gone: {key}"
            for key in explained
            if key not in survivors
        ),
    ]


def main(modules: Sequence[str]) -> int:
    """Hunt in `modules`; 1: something is wrong."""
    LOGS.mkdir(parents=True, exist_ok=True)
    largest_first = sorted(modules or HUNTED, key=lambda module: -len(keys(module)))
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        wrong = [line for lines in pool.map(hunt, largest_first) for line in lines]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
