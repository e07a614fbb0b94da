"""One module's hunt: makes each of its mutants live, and runs the tests that could notice it.

    python -m tests.mutants.hunt MODULE TEST_FILE …

It prints a line of JSON for each mutant, and one for the files that the tests imported.

The tests are collected once; then each mutant has a process of its own, forked from there.  In
it the mutated function's code is exchanged, and the tests run that reached the function when
nothing was changed, quickest first, until one fails.  What isn't in a function is executed at
import, so for such a mutant a fork made before the module was imported imports it mutated and
runs all the tests.  A hang is noticed too.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType

import hypothesis  # noqa: F401  before the first fork, as all that costs time to import
import pytest
import uvloop  # noqa: F401
from cryptography import x509  # noqa: F401

from tests.mutants.mutations import Mutant, mutants_of
from tests.mutants.remembered import BROKEN, NOTICED, SURVIVED

ROOT = Path(__file__).parents[2]
_RESULTS = 100
"""The descriptor that results are written to."""
_LEAST_TIME_S = 5.0
_TIMES_AS_LONG = 10.0
"""A mutant's tests may take so many times as long as without it, and _LEAST_TIME_S anyway; the time
in which they have no processor doesn't count."""


@dataclass
class Reached:
    """Which functions of the module a test reaches, by their outermost function's name."""

    seconds: float = 0.0
    scopes: set[str] = field(default_factory=set)


def main(module: str, files: Sequence[str]) -> int:
    """Print what becomes of each mutant of `module`."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    tree = ast.parse(path.read_text(), str(path))
    mutants = mutants_of(tree)
    later: list[Mutant] = [each for each in mutants if not each.in_function]
    hunter = _Hunter(path, tree, [each for each in mutants if each.in_function], later)
    started = time.monotonic()
    if (status := _in_child(lambda: _unchanged(files), 600.0)) != SURVIVED:
        print(f"the tests of {module} fail without any mutant ({status})", file=sys.stderr)
        return 1
    limit_s = max(_LEAST_TIME_S, _TIMES_AS_LONG * (time.monotonic() - started))
    # apart, so that this process goes on without the module imported
    read, write = os.pipe()
    if (status := _in_child(lambda: _collected(hunter, files, write), 7200.0)) != SURVIVED:
        print(f"the hunt in {module} failed ({status})", file=sys.stderr)
        return 1
    os.close(write)
    with os.fdopen(read) as numbers:
        later += [hunter.mutants[int(number)] for number in numbers.read().split()]
    for each in later:
        _say(each, _in_child(lambda each=each: _imported(module, path, tree, each, files), limit_s))  # type: ignore[misc]
    return 0


def _say(mutant: Mutant, status: int) -> None:
    _tell({"key": mutant.key, "line": mutant.line, "status": status})


def _tell(found: Mapping[str, object]) -> None:
    os.write(_RESULTS, json.dumps(found).encode() + b"\n")


def _in_child(do: Callable[[], int], limit_s: float) -> int:
    """What `do` returns in a process of its own; NOTICED if that takes too long, or dies."""
    pid = os.fork()
    if pid == 0:
        status = BROKEN
        try:
            os.setsid()
            status = do()
        except BaseException:  # noqa: BLE001  told, and the status says it
            traceback.print_exc()
        finally:
            os._exit(status)
    if not _ends_within(pid, limit_s):
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return NOTICED if code < 0 else code


def _ends_within(pid: int, limit_s: float) -> bool:
    """Whether a process ends in time, without the time in which it had no processor: on a busy
    machine no mutant counts as noticed because of that."""
    descriptor, started = os.pidfd_open(pid), time.monotonic()
    ended: list[int] = []
    while not ended and (left_s := started + limit_s + _starved_s(pid) - time.monotonic()) > 0:
        ended = select.select([descriptor], [], [], left_s)[0]
    os.close(descriptor)
    return bool(ended)


def _clock() -> float:
    """Seconds, without those in which this process had no processor."""
    return time.monotonic() - _starved_s(os.getpid())


def _starved_s(pid: int) -> float:
    """For how long a process was ready to run and had no processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def _pytest(files: Sequence[str], *plugins: object) -> int:
    # a hang is noticed here, where it is known how long there was no processor
    options = ["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", "--timeout=0"]
    # to write down how a mutant's test fails takes longer than to find out that it does
    options += ["--tb=line", "--assert=plain"]
    # hypothesis is imported already
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*options, *files], plugins=plugins))


def _all_pass(files: Sequence[str]) -> int:
    match _pytest(files):
        case pytest.ExitCode.OK:
            return SURVIVED
        case pytest.ExitCode.INTERNAL_ERROR:  # pytest's, which no test has noticed
            return BROKEN
    return NOTICED


def _unchanged(files: Sequence[str]) -> int:
    """Run all the tests without a mutant, and tell what they imported of this project."""
    status = _all_pass(files)
    imported = (getattr(each, "__file__", None) for each in tuple(sys.modules.values()))
    paths = {Path(each) for each in imported if each}
    ours = {str(each.relative_to(ROOT)) for each in paths if each.is_relative_to(ROOT)}
    _tell({"files": sorted(each for each in ours if not each.startswith("."))})
    return status


def _imported(
    module: str, path: Path, tree: ast.Module, mutant: Mutant, files: Sequence[str]
) -> int:
    mutant.apply()
    sys.meta_path.insert(0, _Finder(module, path, tree))
    return _all_pass(files)


def _collected(hunter: _Hunter, files: Sequence[str], left: int) -> int:
    status = _pytest(files, hunter)
    os.write(left, " ".join(map(str, hunter.left)).encode())
    return SURVIVED if status == 0 else status


class _Finder(MetaPathFinder):
    """Finds one module, as a changed syntax tree."""

    def __init__(self, module: str, path: Path, tree: ast.Module) -> None:
        self._module, self._path, self._tree = module, path, tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of the mutated module, or None for every other."""
        if fullname != self._module:
            return None
        loader = _Loader(fullname, str(self._path), self._tree)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, tree: ast.Module) -> None:
        super().__init__(fullname, path)
        self._tree = tree

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._tree, self.path, "exec")


class _Hunter:
    """A plugin that takes the place of pytest's own loop over the tests."""

    def __init__(
        self, path: Path, tree: ast.Module, mutants: list[Mutant], later: list[Mutant]
    ) -> None:
        self.mutants = mutants
        self.left: list[int] = []
        """The places in `mutants` of those that no exchange of code makes live."""
        self._path, self._tree, self._later = str(path), tree, later
        self._reports: list[pytest.TestReport] = []

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember what failed."""
        if report.failed:
            self._reports.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Put every mutant to the test."""
        reached = self._reached(session.items)
        live = self._live_functions()
        for number, mutant in enumerate(self.mutants):
            items = [item for item in session.items if mutant.scope in reached[item.nodeid].scopes]
            items.sort(key=lambda item: reached[item.nodeid].seconds)
            if not items or mutant.scope not in live:
                self.left.append(number)
                continue
            usual_s = sum(reached[item.nodeid].seconds for item in items)
            limit_s = max(_LEAST_TIME_S, _TIMES_AS_LONG * usual_s)
            functions = live[mutant.scope]
            status = _in_child(lambda m=mutant, f=functions, i=items: self._try(m, f, i), limit_s)  # type: ignore[misc]
            if status == BROKEN:
                self.left.append(number)
            else:
                _say(mutant, status)
        return True

    def _try(self, mutant: Mutant, live: list[FunctionType], items: list[pytest.Item]) -> int:
        mutant.apply()
        codes = dict(_codes(compile(self._tree, self._path, "exec")))
        for function in live:
            if function.__code__.co_freevars != codes[mutant.scope].co_freevars:
                return BROKEN  # it needs other variables of what is around it now
            function.__code__ = codes[mutant.scope]
        return NOTICED if self._run(items) else SURVIVED

    def _run(self, items: list[pytest.Item]) -> bool:
        """Whether one of the tests fails."""
        for at, item in enumerate(items):
            after = items[at + 1] if at + 1 < len(items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if self._reports:
                return True
        return False

    def _reached(self, items: list[pytest.Item]) -> dict[str, Reached]:
        """What each test reaches when nothing is changed; told by a process of its own."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            with os.fdopen(write, "w") as out:
                json.dump(self._watched(items), out)
                out.flush()
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as found:
            told = json.load(found)
        os.waitpid(pid, 0)
        return {key: Reached(seconds, set(scopes)) for key, (seconds, scopes) in told.items()}

    def _watched(self, items: list[pytest.Item]) -> dict[str, tuple[float, list[str]]]:
        found = {}
        for at, item in enumerate(items):
            scopes: set[str] = set()

            def watch(frame: FrameType, event: str, _: object, scopes: set[str] = scopes) -> None:
                code = frame.f_code
                if event == "call" and code.co_filename == self._path:
                    scopes.add(_outermost(code.co_qualname))

            started = _clock()
            threading.setprofile(watch)
            sys.setprofile(watch)
            after = items[at + 1] if at + 1 < len(items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            sys.setprofile(None)
            found[item.nodeid] = (_clock() - started, sorted(scopes))
        return found

    def _live_functions(self) -> dict[str, list[FunctionType]]:
        """The functions of the module's own level and of its classes, by qualified name."""
        found: dict[str, list[FunctionType]] = {}
        for each in gc.get_objects():
            if type(each) is FunctionType and each.__code__.co_filename == self._path:
                found.setdefault(each.__code__.co_qualname, []).append(each)
        return found


def _codes(code: CodeType) -> list[tuple[str, CodeType]]:
    """Every function's and class's code in `code`."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return [pair for each in inner for pair in ((each.co_qualname, each), *_codes(each))]


def _outermost(name: str) -> str:
    return name.partition(".<locals>")[0]


if __name__ == "__main__":
    # what pytest says goes with the errors, in every child too
    os.dup2(1, _RESULTS)
    os.dup2(2, 1)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
