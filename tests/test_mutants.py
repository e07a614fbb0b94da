"""The small faults that `make mutants` makes, and what it may accept; the hunt takes minutes."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests.mutants.__main__ import ROOT, accepted, compare, keys, source
from tests.mutants.hunt import _ends_within
from tests.mutants.modules import HUNTED, files_of
from tests.mutants.mutations import mutants_of
from tests.mutants.remembered import NOTICED, SURVIVED, Memory, Tried


def changed(text: str) -> list[str]:
    """The source after each of its mutants."""
    found = []
    for number in range(len(mutants_of(ast.parse(text)))):
        tree = ast.parse(text)
        mutants_of(tree)[number].apply()
        compile(ast.fix_missing_locations(tree), "mutant", "exec")
        found.append(ast.unparse(tree))
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = a < b", {"x = a <= b"}),
        ("x = a is b", {"x = a is not b"}),
        ("x = a and b", {"x = a", "x = b"}),
        ("x = a or b or c", {"x = b or c", "x = a or c", "x = a or b"}),
        ("x = not a", {"x = a"}),
        ("x = 5", {"x = 6", "x = 4"}),
        ("x = True", {"x = False"}),
        ("x = 'word'", {"x = 'wordX'"}),
        ("x = (a, b)", {"x = (b,)", "x = (a,)"}),
        ("x = {a: b}", {"x = {}"}),
        ("x = {*a, b}", {"x = {b}", "x = {*a}"}),
        ("x = a if b else c", {"x = a", "x = c"}),
        ("x = min(a)", {"x = max(a)"}),
        ("x = sorted(a, key=b)", {"x = list(a)", "x = sorted(a)"}),
        ("x = f(a, b=c)", {"x = f(a)"}),
        ("x = a | f()", {"x = a", "x = f()"}),
        ("x = Outcome.DENIED", {"x = None"}),
        ("x = [a for a in b if c]", {"x = [a for a in b]"}),
        ("f(a)", {"pass"}),
        ("raise f", {"pass"}),
        ("a.b = c", {"pass"}),
        (
            "def f(a=1):\n    return a.b",
            {
                "def f(a=1):\n    return None",
                "def f(a=2):\n    return a.b",
                "def f(a=0):\n    return a.b",
            },
        ),
        (
            "def f():\n    return a < b",
            {
                "def f():\n    return True",
                "def f():\n    return False",
                "def f():\n    return a <= b",
            },
        ),
        ("if a:\n    b = c", {"if True:\n    b = c", "if False:\n    b = c"}),
        ("for a in b:\n    c = a", {"for a in ():\n    c = a"}),
        (
            "try:\n    a = b\nexcept C:\n    a = c",
            {"try:\n    a = b\nexcept C:\n    raise"},
        ),
    ],
)
def test_each_fault_is_one_change_that_can_be_compiled(before: str, after: set[str]) -> None:
    assert set(changed(before)) == after


@pytest.mark.parametrize(
    "text",
    [
        "x = 'words for people'", "x = f'{a < b}'", "'''A docstring'''", "import a",
        "def f(a: int | None) -> dict[str, int]: ...", "T = TypeVar('T')", "A = First | Second",
        "x = cast('int', y)", "@cache(size=1)\nclass A(metaclass=b):\n    c: int",
    ],
)  # fmt: skip
def test_what_decides_nothing_is_left_alone(text: str) -> None:
    assert changed(text) == []


def test_equal_faults_of_one_function_have_names_of_their_own() -> None:
    text = "class A:\n    def f(self):\n        g(1)\n        g(1)"
    names = [each.key for each in mutants_of(ast.parse(text))]
    assert len(set(names)) == len(names) == 6
    assert "A.f: g(1) => pass (2)" in names


@pytest.mark.parametrize("module", HUNTED)
def test_what_is_accepted_can_be_made_and_its_tests_are_there(module: str) -> None:
    assert set(accepted(module)) <= set(keys(module))
    assert [name for name in files_of(module) if not (ROOT / name).is_file()] == []


def test_a_survivor_needs_a_reason_and_a_reason_a_survivor() -> None:
    module = "uproxy.policy.rules"
    path = source(module).relative_to(ROOT)
    assert compare(module, {"f: a => b": 7}, ["f: a => b"]) == []
    assert compare(module, {"f: a => b": 7}, []) == [f"{path}:7: no test notices f: a => b"]
    assert compare(module, {}, ["f: a => b"])[0].endswith("or it is gone: f: a => b")


def test_what_was_found_holds_until_a_file_changes_that_its_tests_import(tmp_path: Path) -> None:
    module, imported = "uproxy.policy.rules", tmp_path / "imported.py"
    imported.write_text("A = 1")
    memory, tried = Memory(tmp_path, tmp_path), [Tried("a", 1, NOTICED), Tried("b", 2, SURVIVED)]
    assert memory.find(module) is None
    memory.keep(module, ["imported.py"], tried)
    assert memory.find(module) == tried
    assert memory.find("uproxy.policy.parties") is None
    (tmp_path / "other.py").touch()
    assert memory.find(module) == tried
    imported.write_text("A = 2")
    assert memory.find(module) is None
    imported.unlink()
    assert memory.find(module) is None


def test_what_was_found_is_for_the_tests_and_packages_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, memory = "uproxy.policy.rules", Memory(tmp_path, tmp_path)
    memory.keep(module, [], [])
    assert memory.find(module) == []
    with monkeypatch.context() as patch:
        patch.setattr("tests.mutants.remembered.files_of", lambda _module: ["tests/fewer.py"])
        assert memory.find(module) is None
    (tmp_path / "constraints.txt").touch()
    assert memory.find(module) is None


def test_a_process_that_has_no_processor_is_given_time_and_one_that_hangs_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["/bin/sleep", "0.2"]) as slow:
        monkeypatch.setattr("tests.mutants.hunt._starved_s", lambda _pid: 60.0)
        assert _ends_within(slow.pid, 0.0)
    monkeypatch.undo()
    with subprocess.Popen(["/bin/sleep", "60"]) as hung:
        assert not _ends_within(hung.pid, 0.0)
        hung.kill()
