"""What comes into nft's text from outside is a cgroup's path, which ends where it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from uproxy.capture.nft_words import in_cgroup
from uproxy.errors import UproxyError

ROOT = Path("/sys/fs/cgroup")


@pytest.mark.parametrize(
    "name",
    [
        'x" return; } chain pwned { type filter hook input priority 0; policy drop; } #',
        "x\ny",
        "x\x1b[2J",
        "x\x7f",
        "x\udc80",
    ],
)
def test_a_name_that_would_end_the_word_is_refused(name: str) -> None:
    with pytest.raises(UproxyError, match="quotation mark or a character that can't be printed"):
        in_cgroup(ROOT / "user.slice" / name / "app", ROOT)


@pytest.mark.parametrize("name", ["a b", r"system-uproxy\x2dcapture.slice", "müßig", "a;b{c}#"])
def test_every_other_name_is_itself(name: str) -> None:
    expected = f'socket cgroupv2 level 2 "user.slice/{name}"'
    assert in_cgroup(ROOT / "user.slice" / name, ROOT) == expected


@pytest.mark.parametrize("path", ["/sys/fs/cgroup", "/mnt/cgroup/app"])
def test_what_nft_can_not_name_is_refused(path: str) -> None:
    root = Path("/mnt/cgroup") if "mnt" in path else ROOT
    with pytest.raises(UproxyError, match="must be below /sys/fs/cgroup, and not the root"):
        in_cgroup(Path(path), root)
