"""Which processes an entry means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from uproxy.authority.definition import CallingProcess, EntryDefinition

ME = CallingProcess(pid=1, uid=1000, gid=100, path="/usr/bin/app")
ID = "spiffe://example.org/a"


@pytest.mark.parametrize(
    "fields", [{"uid": 1000}, {"gid": 100}, {"path": "/usr/bin/app"}, {"uid": 1000, "gid": 100}]
)
def test_what_is_given_must_fit_and_the_rest_may_be_anything(fields: dict[str, Any]) -> None:
    entry = EntryDefinition(ID, **fields)

    assert entry.selects(ME)
    others: dict[str, Any] = {"uid": 7, "gid": 7, "path": "/bin/sh"}
    for name in fields:
        other: CallingProcess = replace(ME, **{name: others[name]})
        assert not entry.selects(other)


def test_root_is_a_user_like_any_other() -> None:
    entry = EntryDefinition(ID, uid=0)

    assert entry.selects(replace(ME, uid=0))
    assert not entry.selects(ME)


def test_a_program_the_kernel_does_not_tell_fits_no_path() -> None:
    assert not EntryDefinition(ID, path="/usr/bin/app").selects(replace(ME, path=None))
