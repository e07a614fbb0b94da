"""Captures whose record is lost, because somebody emptied /run say: found by what still acts.

Of eBPF there are the pins, with a copy of the record among them; of nft there is the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uproxy.capture import contents, ebpf, nft, record
from uproxy.capture.pins import Pins, pinned
from uproxy.capture.places import Namespace, enter_each, inside
from uproxy.capture.record import Mode, Record

REASON: Final = "it still acts, but its record is lost: detach it by --name, or attach again"
"""What is wrong with each of them, and what to do."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A capture whose record is lost."""

    name: str
    mode: Mode
    place: Path
    """Of eBPF the folder of its pins, of nft a way to the network namespace of its table."""
    record: Record | None = None
    """Of eBPF, unless the command was killed before it changed anything."""
    namespace: Namespace | None = None
    """Of nft."""


def find(folder: Path, bpffs: Path) -> list[Orphan]:
    """Return all of them.

    Raises:
        NotPermittedError: we may not look.
    """
    known = set(record.names(folder))
    return [each for each in (*_pinned(bpffs), *_tables()) if each.name not in known]


def detach(folder: Path, lost: Orphan, drain_s: float) -> None:
    """Undo one, as `control.detach` does with those that have a record."""
    if lost.namespace is not None:
        with inside(lost.namespace):
            nft.end(lost.name, drain_s)
    elif lost.record is not None:
        ebpf.detach(folder, lost.record, drain_s)
    else:
        Pins(lost.place.parent.parent, lost.name).clear()


def _pinned(bpffs: Path) -> Iterator[Orphan]:
    for place in pinned(bpffs):
        made = contents.read_record(Pins(bpffs, place.name))
        yield Orphan(place.name, Mode.EBPF, place, made)


def _tables() -> list[Orphan]:
    return [
        Orphan(name, Mode.NFT, namespace.path, namespace=namespace)
        for namespace in enter_each()
        for name in nft.captures()
    ]
