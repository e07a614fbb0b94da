"""The functions of `inspect` that asyncio and uvloop call in a uProxy that runs as it should."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Final

COROUTINE: Final = 128
"""The flag of a code object that makes a coroutine."""


def iscoroutinefunction(value: object) -> bool:
    """Whether calling it makes a coroutine; methods and partials are what they wrap."""
    while True:
        if isinstance(value, types.MethodType):
            value = value.__func__
        elif isinstance(value, functools.partial):
            value = value.func
        else:
            break
    return isinstance(value, types.FunctionType) and bool(value.__code__.co_flags & COROUTINE)


def isfunction(value: object) -> bool:
    """Whether it was made by `def` or `lambda`."""
    return isinstance(value, types.FunctionType)


def isgenerator(value: object) -> bool:
    """Whether it was made by calling a function that yields."""
    return isinstance(value, types.GeneratorType)


KNOWN: Final[dict[str, Callable[[object], bool]]] = {
    each.__name__: each for each in (iscoroutinefunction, isfunction, isgenerator)
}
