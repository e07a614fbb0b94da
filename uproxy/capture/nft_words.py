"""The words of nft's language that the chains of our table have in common.

Pure.  Nothing that somebody else has chosen comes into nft's text but the path of a cgroup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from uproxy.errors import UproxyError

FLAGS: Final = "tcp flags & (fin | syn | rst | ack)"
BEGINNING: Final = f"{FLAGS} == syn"
"""Matches the first segment of a connection."""

_ROOT: Final = Path("/sys/fs/cgroup")
"""The mount point below which nft looks for cgroups."""


def chain(name: str, rules: Iterable[str], place: str = "") -> Iterator[str]:
    """Yield the lines of a chain; with a `place` the kernel calls it there."""
    yield f"chain {name} {{"
    if place:
        yield f"{place}; policy accept;"
    yield from rules
    yield "}"


def filter_chain(name: str, hook: str, rules: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a chain that sees every packet at a hook."""
    return chain(name, rules, f"type filter hook {hook} priority 0")


def ports(numbers: Iterable[int]) -> str:
    """Return a set of ports."""
    return f"{{ {', '.join(map(str, sorted(numbers)))} }}"


def in_cgroup(path: Path, cgroup_root: Path) -> str:
    """Return what matches packets whose socket was made in a cgroup or below it.

    Raises:
        UproxyError: nft can't name the cgroup.
    """
    level = len(path.relative_to(cgroup_root).parts)
    if not level or not path.is_relative_to(_ROOT):
        raise UproxyError(
            f"nft can't name the cgroup {path}: it must be below {_ROOT}, and not the root"
        )
    name = str(path.relative_to(_ROOT))
    # whoever may make a cgroup chooses its name, which would end here and go on as rules
    if '"' in name or not name.isprintable():
        raise UproxyError(
            f"nft can't name the cgroup {str(path)!r}: it has a quotation mark or a character that "
            "can't be printed: give it another name, or use --mode ebpf"
        )
    return f'socket cgroupv2 level {level} "{name}"'
