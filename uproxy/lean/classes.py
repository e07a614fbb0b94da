"""Dataclasses that share their methods, as long as `lean_dataclasses` lasts.

The standard `dataclass` writes and compiles up to six methods for every class, and those that
refuse changes keep the class alive that was there before the one with slots took its place.  Here
only `__init__` is made so.  Rules: a class behaves as if the standard had made it, but
for the docstring of one that has none, which is its name; comparisons are shared by frozen classes
only, and what a class defines by itself stays.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import reprlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn


@contextlib.contextmanager
def lean_dataclasses() -> Iterator[None]:
    """What `from dataclasses import dataclass` gives in this block makes lean classes."""
    # not at the top: it imports modules for which there are stand-ins (imports.py)
    import dataclasses

    real = dataclasses.dataclass

    @functools.wraps(real)
    def dataclass(cls: type | None = None, /, **options: bool) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        return _make(real, cls, options)

    vars(dataclasses)["dataclass"] = dataclass
    try:
        yield
    finally:
        vars(dataclasses)["dataclass"] = real


def _make(real: Callable[..., type], cls: type, options: dict[str, bool]) -> type:
    shared = []
    if options.get("repr", True) and "__repr__" not in vars(cls):
        shared.append("repr")
    if options.get("frozen") and _compares_plainly(cls, options):
        shared.append("eq")
    if cls.__doc__ is None:
        cls.__doc__ = cls.__name__  # else the standard asks `inspect` to write the parameters here
    made: Any = real(cls, **{**options, **dict.fromkeys(shared, False)})
    if "repr" in shared:
        made.__repr__ = _repr
    if "eq" in shared:
        made.__eq__, made.__hash__ = _comparison(made)
    if options.get("frozen"):
        made.__setattr__, made.__delattr__ = _refuse_assignment, _refuse_deletion
    return made  # type: ignore[no-any-return]  # a class, to which methods were given


def _compares_plainly(cls: type, options: dict[str, bool]) -> bool:
    special = options.get("order") or options.get("unsafe_hash") or not options.get("eq", True)
    return not special and vars(cls).keys().isdisjoint(("__eq__", "__hash__"))


def _comparison(
    cls: Any,
) -> tuple[Callable[[object, object], Any], Callable[[object], int]]:
    from dataclasses import fields

    compared = _values(each.name for each in fields(cls) if each.compare)
    hashed = _values(
        each.name for each in fields(cls) if (each.compare if each.hash is None else each.hash)
    )

    def equal(self: object, other: object) -> Any:
        return compared(self) == compared(other) if type(other) is type(self) else NotImplemented

    return equal, lambda self: hash(hashed(self))


def _values(names: Iterable[str]) -> Callable[[object], object]:
    known = tuple(names)
    return operator.attrgetter(*known) if known else lambda _self: ()


@reprlib.recursive_repr()
def _repr(self: Any) -> str:
    from dataclasses import fields

    values = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{type(self).__qualname__}({', '.join(values)})"


def _refuse_assignment(_self: object, name: str, _value: object) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deletion(_self: object, name: str) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")
