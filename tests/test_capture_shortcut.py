"""Whether this kernel short-circuits as it should is tried before anything is attached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from uproxy.capture import places, rehearsal, shortcut
from uproxy.capture.kernel_types import SOURCE
from uproxy.capture.rehearsal import Flaw, RehearsalError
from uproxy.errors import UproxyError

needs_root = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading programs into the kernel needs root"),
    pytest.mark.skipif(not SOURCE.exists(), reason="this kernel doesn't tell its types"),
]


class TestInTheKernel:
    pytestmark = needs_root

    @pytest.fixture
    def here(self) -> places.Namespace:
        return places.find_namespace(str(os.getpid()))

    def test_this_kernel_passes_but_for_known_flaws(self, here: places.Namespace) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        shortcut.check(here, tuple(Flaw))
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_flaws_are_named_unless_all_are_accepted(
        self, here: places.Namespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rehearsal, "rehearse", lambda _: list(Flaw))
        shortcut.check(here, tuple(Flaw))
        with pytest.raises(UproxyError) as refused:
            shortcut.check(here, (Flaw.FIONREAD,))
        assert "EAGAIN" in str(refused.value)
        assert "FIONREAD tells" not in str(refused.value)
        assert str(refused.value).endswith("--short-circuit fionread,blocking")

    def test_another_failure_can_not_be_accepted(
        self, here: places.Namespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: Mapping[str, int]) -> list[Flaw]:
            raise RehearsalError("bytes are lost")

        monkeypatch.setattr(rehearsal, "rehearse", fail)
        with pytest.raises(UproxyError, match="bytes are lost; attach without it"):
            shortcut.check(here, tuple(Flaw))

    @pytest.mark.parametrize(
        ("lie", "said"),
        [
            ({"receiving": 244}, "nothing is short-circuited"),  # full, as it seems
            ({"read": 0}, "nothing is short-circuited"),
            ({"read": 16, "written": 16}, "what TCP still has arrives as something else"),
            ({"enabled": False}, "nothing is short-circuited"),
            # whatever stands there: as good as any room, or none at all
            ({"most": 16, "receiving": 4000}, "bytes that nobody reads|nothing is short-circuited"),
        ],
    )
    def test_being_wrong_about_the_kernel_is_noticed(
        self, lie: dict[str, Any], said: str, here: places.Namespace,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        from dataclasses import replace

        right = shortcut._this_kernel()
        monkeypatch.setattr(shortcut, "_this_kernel", lambda: replace(right, **lie))
        with pytest.raises(UproxyError, match=said):
            shortcut.check(here, tuple(Flaw))
