from __future__ import annotations

import resource

import pytest

from uproxy.cli.memory import LEAST, too_little


@pytest.mark.parametrize("limit", [resource.RLIM_INFINITY, LEAST])
def test_enough_address_space_is_no_error(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (limit, limit))
    assert too_little() is None


def test_too_little_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (LEAST - 1, LEAST))
    assert str(too_little()) == (
        "the address space is limited to 79 MiB: raise ulimit -v (LimitAS) to 80 MiB or more"
    )
