"""What is done to the mesh while every caller asks for its service, and who is cut off by it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence

from benchmarks.harness.figures import Figures
from benchmarks.mesh import world
from benchmarks.mesh.http import answers
from benchmarks.mesh.world import PATIENCE_S, Suffering, World, asking, unreachable
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

_SETTLE_S = 2.0
_WATCHDOG_S = 30.0
"""How long a thread that is stuck may stay so: several times what the watchdog is told."""


def damage(running: World) -> Figures:
    """Replace, mistake, a module's faults, kill, loop: each with every caller asking meanwhile."""
    figures: dict[str, float] = {}
    if running.upgrade is not None:
        with asking(running) as seen:
            running.upgrade()
        figures = {"upgrade_hit": seen.hit, "upgrade_failed": sum(seen.failed)}
    if running.spoil is not None:
        figures["mistake_down"] = _down_after(running, running.spoil)
        figures["mistake_restarted"] = _down_after(running, lambda: _restart(running.spoilt))
        running.mend()
        _wait_until_served(running)
    for place in running.faulty_modules:
        figures |= _faults(running, place)
    figures["crash_down"] = _down_after(running, lambda: _kill(running.victim))
    if running.loop is not None:
        running.victim.start()
        figures["loop_down"] = _down_after(running, running.loop)
    return figures


def _down_after(running: World, disturb: Callable[[], None]) -> float:
    with asking(running):
        disturb()
        time.sleep(_SETTLE_S)
        return unreachable(running)


def _faults(running: World, place: str) -> dict[str, float]:
    with running.faulty_modules[place]() as processes:
        _wait_until_served(running)
        crash = _fault(running, processes, f"{place}_crash", "/crash", ends=False)
        loop = _fault(running, processes, f"{place}_loop", "/loop", ends=True)
    _wait_until_served(running)
    return {**crash, **loop}


def _fault(
    running: World, processes: Sequence[Process], name: str, path: str, *, ends: bool
) -> dict[str, float]:
    """Send the first service one request at which its module fails; `ends`: a watchdog ends the
    process, which is started again as a supervisor would."""
    host, port = running.doors[0]
    with asking(running) as seen:
        began = time.monotonic()
        assert not answers(host, port, "s0", PATIENCE_S, path), f"{path} did no harm"
        if ends:
            wait_until(lambda: _ended(processes), "a watchdog to end its process", _WATCHDOG_S)
        ended = _ended(processes)
        for each in ended:
            each.start()
        _wait_until_none_fails(seen)
    return {
        f"{name}_hit": seen.hit,
        f"{name}_failed": sum(seen.failed),
        f"{name}_ended": len(ended),
        f"{name}_s": max(seen.last_failure - began, 0.0),
    }


def _ended(processes: Sequence[Process]) -> list[Process]:
    return [each for each in processes if not each.running]


def _wait_until_none_fails(seen: Suffering) -> None:
    quiet_from = time.monotonic()

    def quiet() -> bool:
        return time.monotonic() - max(seen.last_failure, quiet_from) > _SETTLE_S

    wait_until(quiet, "no request to fail", 60.0)


def _wait_until_served(running: World) -> None:
    wait_until(lambda: unreachable(running) == 0, "everybody to be served again")


def _restart(processes: Sequence[Process]) -> None:
    for each in processes:
        world.restart(each)


def _kill(process: Process) -> None:
    process.stop(signal.SIGKILL)
