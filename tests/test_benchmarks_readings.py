"""benchmarks.harness.processes: what the kernel says of a process."""

from __future__ import annotations

import os
import time

from benchmarks.harness import processes

STAT = (
    "42 (a) b) (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 9 20 0 3 0 100 1000 10 "
    "18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n"
)


def test_user_and_system_time_are_found_behind_any_name() -> None:
    assert processes._ticks(STAT) == 200


def test_cpu_time_of_a_process_grows_while_it_works() -> None:
    before, busy = processes.cpu_seconds([os.getpid()]), time.process_time()
    while time.process_time() < busy + 0.1:
        pass
    assert processes.cpu_seconds([os.getpid()]) - before >= 0.05


def test_no_process_has_used_no_time() -> None:
    assert processes.cpu_seconds([]) == 0.0
