"""The house keeps its own rules: sizes, names, pins, what lies at the top, what is imported."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Container, Iterable, Iterator
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions, requires
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.docs import PAGES
from tests.helpers.versions import pythons

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "uproxy").rglob("*.py"))

LONGEST_MODULE = 350
"""Lines.  A longer one has a second idea in it."""

TOP = {
    ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
    "benchmarks", "bpf_redirect", "certs", "constraints.txt", "deploy", "docs", "pyproject.toml",
    "setup.py", "tests", "uproxy",
}  # fmt: skip

NOT_THE_PROXY = {"__main__", "authority", "capture", "cli", "demo", "lab"}
"""Rooms that `uproxy run` has no need of, or that only find and load it."""

TESTED_ELSEWHERE = {
    "uproxy.capture": "test_whatever_happens_to_the_command_nothing_stays_half_done.py",
    "uproxy.transport.python": "test_transport_relay.py",
    "uproxy.transport.native": "test_transport_native.py",
}
"""Modules, or packages, whose tests are named after what they do together."""

NEVER_LOADED = {
    "concurrent.futures.process", "google.protobuf", "grpc", "http.client", "http.server",
    "jsonschema", "multiprocessing", "pydantic", "rich", "spiffe", "sqlite3", "unittest",
    "urllib.request", "uproxy.authority", "uproxy.capture", "uproxy.demo", "uproxy.lab", "wsgiref",
    "xml", "xmlrpc",
}  # fmt: skip
"""Not in the process at all: every workload would pay for them."""

NEVER_IMPORTED_BY_US = {"asyncio.subprocess", "email", "pickle", "ssl", "subprocess"}
"""asyncio, uvloop and cryptography load some of these, for which our own code has no use."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_proxy(name: str) -> bool:
    return not NOT_THE_PROXY & set(name.split(".")[1:2])


def has_code(path: Path) -> bool:
    """More than a docstring and constants."""
    body = ast.parse(path.read_text()).body
    return any(not isinstance(node, ast.Expr | ast.Assign) for node in body)


def imports(path: Path) -> Iterator[str]:
    """The modules a file names in import statements, and the names it takes from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return {canonicalize_name(name): version for name, version in (li.split("==") for li in lines)}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_one_idea_long_and_says_which(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "says nothing of what it is"


@functools.cache
def named_by_tests() -> tuple[set[str], set[str]]:
    """The names of all test files, and every module that one of them imports."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    return {path.name for path in files}, {name for path in files for name in imports(path)}


@pytest.mark.parametrize(
    "module", [name_of(path) for path in MODULES if has_code(path) and path.name != "__main__.py"]
)
def test_a_module_has_a_test_that_names_it(module: str) -> None:
    files, imported = named_by_tests()
    parts = module.split(".")
    packages = [".".join(parts[:count]) for count in range(2, len(parts) + 1)]
    wanted = {f"test_{'_'.join(package.split('.')[1:])}.py" for package in packages}
    wanted |= {TESTED_ELSEWHERE[name] for name in packages if name in TESTED_ELSEWHERE}
    assert module in imported or wanted & files, f"none of {sorted(wanted)}"


def needed(path: Path, known: Container[str]) -> Iterator[str]:
    """The modules of ours that a file imports; of a package from which it takes a module, that."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module in known:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else node.module for name in names)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Those imported for their types alone count too: who needs whom must have an order."""
    known = {name_of(path): path for path in MODULES}
    graph = {name: set(needed(path, known)) for name, path in known.items()}
    tuple(TopologicalSorter(graph).static_order())  # or a CycleError, which has the circle


@pytest.mark.parametrize("room", ["benchmarks", "uproxy"])
def test_nothing_but_tests_needs_the_tests(room: str) -> None:
    """What others need too is in uproxy/lab."""
    files = (ROOT / room).rglob("*.py")
    assert [
        path for path in files if any(each.startswith("tests.") for each in imports(path))
    ] == []


def test_the_proxy_loads_nothing_that_it_has_no_use_for() -> None:
    proxy = [name for name in map(name_of, MODULES) if is_proxy(name)]
    program = f"import {', '.join(proxy)}, sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert NEVER_LOADED & set(done.stdout.split()) == set()


@pytest.mark.parametrize("path", [path for path in MODULES if is_proxy(name_of(path))], ids=name_of)
def test_the_proxys_own_code_does_without_them(path: Path) -> None:
    assert (NEVER_LOADED | NEVER_IMPORTED_BY_US) & set(imports(path)) == set()


def test_only_what_belongs_there_lies_at_the_top() -> None:
    assert {name.split("/")[0] for name in tracked()} <= TOP


def test_no_file_knows_one_machine() -> None:
    private = re.compile(
        rb"/(?:wor[k]|roo[t]|hom[e])/|\.\./share[d]|index[-]url|-----BEGIN \w* ?PRIV"
    )
    mentions = {
        name: found.group().decode()
        for name in tracked()
        if (found := private.search((ROOT / name).read_bytes()))
    }
    assert mentions == {}


def test_constraints_are_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), line


def required(*lists: list[str]) -> dict[str, Requirement]:
    """The requirements in those lists, by name."""
    found = (Requirement(each) for several in lists for each in several)
    return {canonicalize_name(each.name): each for each in found}


def test_the_library_that_openssl_is_reached_in_is_pinned_exactly() -> None:
    document = project()["project"]
    exact = required(document["dependencies"], document["optional-dependencies"]["demo"])
    for name in ("cryptography", "pyopenssl"):
        assert str(exact[name].specifier) == f"=={pins()[name]}"


def test_the_versions_of_python_are_the_same_wherever_they_are_named() -> None:
    oldest, newest = pythons()[0], pythons()[-1]
    assert project()["project"]["requires-python"] == f">={oldest}"
    assert project()["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    made = re.findall(r"unit-tests (3\.\d+)", (ROOT / "Makefile").read_text())
    assert [oldest, *made] == pythons()  # the oldest is what `make test` runs on
    pages = "\n".join(page.read_text() for page in PAGES)
    assert not re.findall(r"Python 3\.\d+ or (?:newer|later)", pages)
    ranges = re.findall(r"Python (3\.\d+) to (3\.\d+)", pages)
    assert set(ranges) == {(oldest, newest)}


def distributions(paths: Iterable[Path]) -> set[str]:
    """The packages of others that those files import, by the names that pip knows them under."""
    tops = {name.partition(".")[0] for path in paths for name in imports(path)}
    found = packages_distributions()
    return {canonicalize_name(each) for top in tops - {"uproxy"} for each in found.get(top, ())}


def test_what_pip_installs_is_what_the_program_imports() -> None:
    """What demonstration and lab import besides is in extras, and for the tests in `dev`."""
    document = project()
    needed = [path for path in MODULES if set(name_of(path).split(".")[1:2]) & {"demo", "lab"}]
    core = distributions(set(MODULES) - set(needed))
    assert core == required(document["project"]["dependencies"]).keys()
    extras = document["project"]["optional-dependencies"]
    beside = distributions(path for path in needed if "software" not in path.parts) - core
    assert beside == required(*extras.values()).keys()
    assert beside <= required(document["dependency-groups"]["dev"]).keys()


def test_every_dependency_is_pinned_and_allowed() -> None:
    document = project()
    wanted = [
        *document["project"]["dependencies"],
        *chain(*document["project"]["optional-dependencies"].values()),
        *document["dependency-groups"]["dev"],
        *document["build-system"]["requires"],
    ]
    for requirement in map(Requirement, wanted):
        pinned = pins().get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned), requirement


def test_every_dependency_of_a_dependency_is_pinned() -> None:
    document = project()
    todo = [*document["project"]["dependencies"], *document["dependency-groups"]["dev"]]
    seen: set[str] = set()
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        todo += requires(name) or []
    assert seen - pins().keys() == set()
