"""Attaches each program to where it belongs, or puts it in its predecessor's place."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uproxy.capture import bpf, programs
from uproxy.capture.pins import LINK, Pins
from uproxy.capture.places import follow_namespace, opened
from uproxy.capture.record import Wanted
from uproxy.errors import NotPermittedError, UproxyError, in_words

CAPTURING: Final = ("connect4", "connect6")
"""The programs that send connections to the proxy: attached last, detached first."""
ORDER: Final = ("guard", "disown", "listen", "lookup", *CAPTURING)
"""In which programs are attached."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a program is attached to: a cgroup or a network namespace."""

    path: Path
    id: int


def targets(wanted: Wanted) -> dict[str, Target]:
    """Return what each program is attached to, as far as it is there."""
    found = {
        name: Target(wanted.cgroup, wanted.cgroup_id) for name in ("guard", "disown", *CAPTURING)
    }
    found["listen"] = Target(wanted.proxy_cgroup, wanted.proxy_cgroup_id)
    namespace = follow_namespace(wanted.namespace)
    if namespace is not None:
        found["lookup"] = Target(namespace.path, namespace.inode)
    return found


def attach_all(wanted: Wanted, descriptors: Mapping[str, int], pins: Pins) -> None:
    """Attach and pin every program.

    Raises:
        UproxyError: somebody else's program is in the way.
    """
    places = targets(wanted)
    for name in ORDER:
        kind = programs.attach_type(programs.capture_object(), name)
        attach(name, (descriptors[name], kind), places[name], pins)


def attach(name: str, program: tuple[int, int], target: Target, pins: Pins) -> None:
    """Attach and pin one program, given as its descriptor and its attach type.

    Raises:
        UproxyError: somebody else's program is in the way.
    """
    with pins.open(f"{LINK}{name}") as link:
        # of a cgroup that was removed and made again the link leads nowhere
        if link is not None and bpf.link_info(link).target == target.id:
            bpf.update_link(link, program[0])
            return
    with opened(target.path) as descriptor:
        try:
            made = bpf.create_link(program[0], descriptor, program[1])
        except OSError as error:
            raise _refusal(name, target, error) from None
    try:
        pins.put(f"{LINK}{name}", made)
    finally:
        os.close(made)


def _refusal(name: str, target: Target, error: OSError) -> UproxyError:
    """Return the error that says why a program couldn't be attached.  That we may attach programs
    in general is known, because they were loaded."""
    if error.errno == errno.EPERM:
        return NotPermittedError(
            f"{target.path}: {name} can't be attached: CAP_NET_ADMIN is missing, or somebody "
            "else's program is attached there, or above, for itself alone (bpftool cgroup tree)"
        )
    if error.errno in (errno.EEXIST, errno.EBUSY, errno.E2BIG):
        return UproxyError(
            f"{target.path}: {name} can't be attached beside somebody else's programs "
            f"({in_words(error)}): see bpftool net, bpftool cgroup tree"
        )
    return UproxyError(f"{target.path}: {name} can't be attached: {in_words(error)}")
