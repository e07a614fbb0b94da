"""The functions that stand in for those of `inspect` answer as those do."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator

import pytest

from uproxy.lean.inspection import KNOWN


class Method:
    """Methods of both kinds."""

    async def waits(self) -> None: ...

    def plain(self) -> None: ...


async def waits() -> None: ...


def yields() -> Generator[None]:
    yield


VALUES = (
    waits, yields, yields(), len, lambda: None, Method, Method().waits, Method().plain,
    functools.partial(waits), functools.partial(functools.partial(Method().waits)),
    functools.partial(print), functools.partial, None, 3, Method.waits,
)  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_each_answers_as_the_one_it_stands_for(name: str) -> None:
    answers = [KNOWN[name](value) for value in VALUES]
    assert answers == [getattr(inspect, name)(value) for value in VALUES]
    assert len(set(answers)) == 2
