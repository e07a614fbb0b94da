"""uproxy.lean.classes: a class made lean does what the standard's would do."""

from __future__ import annotations

import dataclasses
import gc
import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from uproxy.lean.classes import lean_dataclasses

Decorator = Callable[..., Any]
OPTIONS: list[dict[str, bool]] = [
    {},
    {"frozen": True},
    {"frozen": True, "slots": True},
    {"slots": True},
    {"frozen": True, "eq": False},
    {"frozen": True, "repr": False},
    {"frozen": True, "order": True},
    {"unsafe_hash": True},
    {"frozen": True, "kw_only": True},
]


@pytest.fixture
def lean() -> Iterator[Decorator]:
    with lean_dataclasses():
        yield dataclasses.dataclass


STANDARD = dataclasses.dataclass


def point(dataclass: Decorator, options: dict[str, bool]) -> Any:
    class Point:
        x: int
        names: tuple[str, ...] = ()
        secret: str = dataclasses.field(default="", repr=False)
        note: list[object] = dataclasses.field(default_factory=list, compare=False)
        shade: int = dataclasses.field(default=0, hash=False)

    return dataclass(**options)(Point) if options else dataclass(Point)


def tried(action: Callable[..., object], *arguments: object) -> object:
    """What it gives, or the kind and text of its error."""
    try:
        return action(*arguments)
    except (TypeError, AttributeError) as error:
        return type(error), str(error)


def same_hash(left: object, right: object) -> bool:
    return hash(left) == hash(right)


def behavior(cls: Any) -> list[object]:
    one, same, other = (cls(x=1), cls(x=1, note=["?"]), cls(x=1, secret="s", shade=2))
    recursive = cls(x=2)
    recursive.note.append(recursive)
    values = (one, same, other)
    return [
        [repr(value).partition(" object at ")[0] for value in (*values, recursive)],
        [left == right for left in values for right in values],
        [left != right for left in values for right in values],
        [one == 1, one is None, one.__eq__(1)],
        [tried(same_hash, left, right) for left in values for right in values],
        [tried(operator.lt, left, right) for left in values for right in values],
        dataclasses.asdict(one),
        dataclasses.replace(one, x=5).x,
        cls.__match_args__,
        tried(setattr, one, "x", 3),
        tried(delattr, same, "names"),
        one.x,
        cls.__name__,
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_does_what_the_standard_does(lean: Decorator, options: dict[str, bool]) -> None:
    assert behavior(point(lean, options)) == behavior(point(STANDARD, options))


@pytest.mark.parametrize("dataclass", [STANDARD, None], ids=["standard", "lean"])
def test_what_a_class_defines_stays(lean: Decorator, dataclass: Decorator | None) -> None:
    @(dataclass or lean)(frozen=True, slots=True)
    class Named:
        name: str

        def __repr__(self) -> str:
            return f"<{self.name}>"

        def __eq__(self, other: object) -> bool:
            return str(other) == self.name

        def __hash__(self) -> int:
            return 7

    named: Any = Named
    assert (repr(named("a")), named("a") == "a", hash(named("a"))) == ("<a>", True, 7)


def test_a_class_without_fields_and_one_that_inherits_compare(lean: Decorator) -> None:
    @lean(frozen=True, slots=True)
    class Empty:
        pass

    @lean(frozen=True, slots=True)
    class Heir(Empty):
        extra: int

    heir: Any = Heir
    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())
    assert heir(1) == heir(1) != heir(2)
    assert Empty() != heir(1)
    assert repr(heir(1)).endswith("Heir(extra=1)")


def test_a_class_with_slots_has_no_double(lean: Decorator) -> None:
    @lean(frozen=True, slots=True)
    class OnlyOneOfThese:
        number: int

    gc.collect()
    assert [each.__name__ for each in object.__subclasses__()].count("OnlyOneOfThese") == 1


def test_afterwards_the_standard_is_back() -> None:
    with lean_dataclasses():
        assert dataclasses.dataclass is not STANDARD
    assert dataclasses.dataclass is STANDARD


def test_a_class_without_a_docstring_gets_its_name_without_asking_for_its_parameters(
    lean: Decorator,
) -> None:
    assert point(lean, {}).__doc__ == "Point"
