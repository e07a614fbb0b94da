"""What benchmarks read from others: wrk's figures, and the kernel's of a process."""

from __future__ import annotations

import json
import os
import time

import pytest

from benchmarks.harness import processes, wrk

STAT = (
    "42 (a) b) (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 9 20 0 3 0 100 1000 10 "
    "18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n"
)
ROLLUP = (
    "5600-7ff0 ---p 00000000 00:00 0    [rollup]\n"
    "Rss:               45056 kB\nPss:               26011 kB\nPss_Dirty:   9 kB\n"
    "Private_Clean:      1234 kB\nPrivate_Dirty:     24504 kB\nSwap:   0 kB\n"
)


def said(**figures: int) -> str:
    whole = {"requests": 1000, "duration_us": 2_000_000, "bytes": 1_024_000, "errors": 0,
             "p50_us": 400, "p99_us": 900}  # fmt: skip
    return "Running 2s test\n  500.00 requests/sec\n" + json.dumps(whole | figures) + "\n"


def test_wrks_figures_are_read_from_the_last_line() -> None:
    load = wrk.read(said())
    assert load == wrk.Load(1000, 2.0, 400, 900)
    assert load.rate == 500.0


def test_answers_under_way_at_the_end_are_no_error() -> None:
    assert wrk.read(said(bytes=1_024_000 + 16 * 1024)).requests == 1000


@pytest.mark.parametrize(
    "figures", [{"errors": 1}, {"requests": 0}, {"bytes": 1_023_999}, {"bytes": 2_000_000}]
)
def test_a_run_with_a_failed_or_foreign_answer_is_refused(figures: dict[str, int]) -> None:
    with pytest.raises(RuntimeError, match=r"errors in|bytes in"):
        wrk.read(said(**figures))


def test_user_and_system_time_are_found_behind_any_name() -> None:
    assert processes._ticks(STAT) == 200


def test_cpu_time_of_a_process_grows_while_it_works() -> None:
    before, busy = processes.cpu_seconds([os.getpid()]), time.process_time()
    while time.process_time() < busy + 0.1:
        pass
    assert processes.cpu_seconds([os.getpid()]) - before >= 0.05


def test_no_process_has_used_no_time() -> None:
    assert processes.cpu_seconds([]) == 0.0


def test_memory_is_read_in_bytes() -> None:
    assert processes._rollup(ROLLUP) == processes.Memory(
        rss=45056 * 1024, pss=26011 * 1024, private_dirty=24504 * 1024
    )


def test_our_own_memory_adds_up() -> None:
    ours = processes.memory(os.getpid())
    assert 0 < ours.private_dirty <= ours.pss <= ours.rss
