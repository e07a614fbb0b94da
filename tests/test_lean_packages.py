"""uproxy.lean.packages: submodules of a package whose own __init__ isn't run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from uproxy.lean.packages import package_not_run

NAME = "a_package_that_imports_too_much"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "__init__.py").write_text("ran = True\n")
    (folder / "part.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [each for each in sys.modules if each.startswith(NAME)]:
        del sys.modules[name]


def test_a_submodule_comes_without_its_package() -> None:
    with package_not_run(NAME):
        part = importlib.import_module(f"{NAME}.part")
        assert not hasattr(sys.modules[NAME], "ran")
    assert part.value == 7
    assert not [each for each in sys.modules if each.startswith(NAME)]


def test_afterwards_the_package_is_whole() -> None:
    with package_not_run(NAME):
        part = importlib.import_module(f"{NAME}.part")
    real = importlib.import_module(NAME)
    assert real.ran
    assert importlib.import_module(f"{NAME}.part") is real.part is not part


def test_a_package_that_was_there_before_is_used_as_it_is() -> None:
    real = importlib.import_module(NAME)
    with package_not_run(NAME):
        assert importlib.import_module(f"{NAME}.part") is real.part
    assert sys.modules[NAME] is real


def test_a_package_that_is_not_installed_is_named() -> None:
    words = "nothing_of_that_name isn't installed"
    with pytest.raises(ImportError, match=words), package_not_run("nothing_of_that_name"):
        pass


def test_an_error_inside_leaves_nothing_behind() -> None:
    with pytest.raises(ImportError), package_not_run(NAME):
        importlib.import_module(f"{NAME}.no_such_part")
    assert not [each for each in sys.modules if each.startswith(NAME)]
