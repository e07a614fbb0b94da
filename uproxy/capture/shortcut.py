"""Short-circuiting: what a captured workload writes skips TCP on its way to the proxy.

Rules: it is tried before anything is changed, and attach fails where this kernel gets it wrong;
whatever isn't short-circuited goes through TCP, so that being late with anything harms nobody; the
maps stay until the capture is detached, because removing one would lose bytes that wait in it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from uproxy.capture import bpf, hooks, programs, rehearsal
from uproxy.capture.hooks import Target
from uproxy.capture.kernel_types import TypesError, of_this_kernel
from uproxy.capture.layout import Kernel, word
from uproxy.capture.pins import LINK, MAP, Pins
from uproxy.capture.places import Namespace, inside
from uproxy.capture.record import Wanted
from uproxy.errors import UproxyError

_KERNEL: Final = "kernel"
_KEPT: Final = (_KERNEL, "senders", "receivers")
"""Maps that programs attached later go on with: connections are in them."""
_MEETING: Final = ("meet_workload", "meet_proxy")
"""The program `meet`, by whose cgroup it is attached to."""


def check(namespace: Namespace, accepted: Collection[str]) -> None:
    """Make sure that this kernel does it right, but for flaws that are accepted, by doing it
    between two sockets of our own.

    Raises:
        UproxyError: it doesn't, or can't at all.
    """
    fails = f"--short-circuit: this kernel ({os.uname().release}) fails the self-test"
    with _loaded({}) as loaded, inside(namespace):
        try:
            flaws = rehearsal.rehearse(loaded.maps)
        except rehearsal.RehearsalError as error:
            raise UproxyError(f"{fails}: {error}; attach without it") from None
    if unbearable := [each for each in flaws if each not in accepted]:
        raise UproxyError(
            f"{fails}: {' and '.join(each.words for each in unbearable)}; attach without it, or, "
            f"if the workload can bear that, with --short-circuit {','.join(flaws)}"
        )


def attach(wanted: Wanted, shared: Mapping[str, int], pins: Pins) -> None:
    """Attach the programs, or put them in their predecessors' places; or end it, if it isn't
    wanted.  `shared`: the maps of the capture."""
    if wanted.short_circuit is None:
        _end(pins)
        return
    with contextlib.ExitStack() as stack:
        kept = {name: stack.enter_context(pins.open(f"{MAP}{name}")) for name in _KEPT}
        reused = {name: each for name, each in kept.items() if each is not None}
        loaded = stack.enter_context(_loaded({**shared, **reused}))
        for name in _KEPT:
            pins.put(f"{MAP}{name}", loaded.maps[name])
        program = loaded.programs["meet"], _attach_type("meet")
        wanted_at = targets(wanted)
        for name in _MEETING:
            if name in wanted_at:
                hooks.attach(name, program, wanted_at[name], pins)
            else:
                pins.remove(f"{LINK}{name}")


def _end(pins: Pins) -> None:
    """Leave everything to TCP, what is open too."""
    for name in _MEETING:
        pins.remove(f"{LINK}{name}")
    with pins.open(f"{MAP}{_KERNEL}") as map_:
        if map_ is not None:
            bpf.update(map_, word(0), Kernel(False, 0, 0, 0, 0, 0, 0).pack())


def targets(wanted: Wanted) -> dict[str, Target]:
    """Return what `meet` is attached to: each of the two cgroups that isn't inside the other one,
    because a program sees what is below its cgroup too."""
    if wanted.short_circuit is None:
        return {}
    found = {}
    if not wanted.cgroup.is_relative_to(wanted.proxy_cgroup):
        found["meet_workload"] = Target(wanted.cgroup, wanted.cgroup_id)
    if not wanted.proxy_cgroup.is_relative_to(wanted.cgroup):
        found["meet_proxy"] = Target(wanted.proxy_cgroup, wanted.proxy_cgroup_id)
    return found


@contextlib.contextmanager
def _loaded(reused: Mapping[str, int]) -> Iterator[programs.Loaded]:
    """Load the programs, tell them of this kernel, and attach the one that belongs to a map."""
    try:
        kernel = _this_kernel()
    except TypesError as error:
        raise UproxyError(f"--short-circuit: {error}; attach without it") from None
    with programs.loaded(reused, programs.shortcut_object()) as loaded:
        bpf.update(loaded.maps[_KERNEL], word(0), kernel.pack())
        bpf.attach_to_map(loaded.programs["carry"], loaded.maps["senders"], _attach_type("carry"))
        yield loaded


def _attach_type(name: str) -> int:
    return programs.attach_type(programs.shortcut_object(), name)


def _this_kernel() -> Kernel:
    types = of_this_kernel()
    return Kernel(
        enabled=True,
        chosen=types.offset("sk_msg", "sk_redir"),
        receiving=types.offset("sock", "sk_backlog"),
        most=types.offset("sock", "sk_rcvbuf"),
        layered=types.offset("inet_connection_sock", "icsk_ulp_ops"),
        read=types.offset("tcp_sock", "copied_seq"),
        written=types.offset("tcp_sock", "write_seq"),
    )
