"""Holds what is attached while it is being changed, and puts it back if the change fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from uproxy.capture import bpf
from uproxy.capture.layout import word
from uproxy.capture.pins import LINK, MAP, Pins

_CHANGED_IN_PLACE: Final = f"{MAP}kernel"
"""The map with one value that isn't replaced by a new map, but written."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Something pinned, as it was."""

    descriptor: int
    program: int = -1
    """Of a link, a descriptor of the program that it attaches; -1: it is no link, or a dead one."""
    value: bytes | None = None
    """Of a map, what is written there in place."""


@contextlib.contextmanager
def put_back_on_error(pins: Pins) -> Iterator[None]:
    """If the `with` block fails, have the same pinned as before, and the same programs attached.

    Links that the block replaces by links to another cgroup end with it, and not before.
    """
    with contextlib.ExitStack() as stack:
        before = {
            name: _hold(name, descriptor, stack)
            for name in pins.names()
            if (descriptor := stack.enter_context(pins.open(name))) is not None
        }
        try:
            yield
        except BaseException:
            _put_back(pins, before)
            raise


def _hold(name: str, descriptor: int, stack: contextlib.ExitStack) -> _Held:
    if name == _CHANGED_IN_PLACE:
        value = bpf.lookup(descriptor, word(0), bpf.value_size(descriptor))
        return _Held(descriptor, value=value)
    if not name.startswith(LINK) or not (id_ := bpf.link_info(descriptor).program_id):
        return _Held(descriptor)
    program = bpf.open_program(id_)
    stack.callback(os.close, program)
    return _Held(descriptor, program)


def _put_back(pins: Pins, before: dict[str, _Held]) -> None:
    for name, held in before.items():
        if held.program >= 0:
            with contextlib.suppress(OSError):  # of a cgroup that has gone
                bpf.update_link(held.descriptor, held.program)
        if held.value is not None:
            bpf.update(held.descriptor, word(0), held.value)
        pins.put(name, held.descriptor)
    for name in set(pins.names()) - before.keys():
        pins.remove(name)
