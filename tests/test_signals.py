"""Signals are held back or ignored, in a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from uproxy.signals import HANDLED, IGNORED, start_without

ROOT = Path(__file__).parents[1]

_STARTING = """
import os, signal, sys
from uproxy import signals
signals.hold_back()
number = int(sys.argv[1])
os.kill(os.getpid(), number)
print("lives", flush=True)
signal.signal(number, lambda *_: print("handled", flush=True))
signals.let_through()
print("runs", flush=True)
"""


def started(number: signal.Signals) -> list[str]:
    argv = [sys.executable, "-c", _STARTING, str(int(number))]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("number", sorted(HANDLED))
def test_what_the_loop_handles_waits_until_it_can(number: signal.Signals) -> None:
    assert started(number) == ["lives", "handled", "runs"]


_AT_THE_FIRST_IMPORT = """
import os, sys

class Sender:
    def find_spec(self, *_):
        sys.meta_path.remove(self)
        os.kill(os.getpid(), number)

number = int(sys.argv.pop(1))
from uproxy.__main__ import main
sys.meta_path.insert(0, Sender())
sys.exit(main())
"""


@pytest.mark.parametrize("number", sorted(HANDLED | IGNORED))
def test_a_signal_before_anything_is_imported_ends_nothing(number: signal.Signals) -> None:
    assert not {"signal", "enum", "typing"} & imported_before_main()
    argv = [sys.executable, "-c", _AT_THE_FIRST_IMPORT, str(int(number)), "run"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, "required: --config" in done.stderr) == (2, True)


def imported_before_main() -> set[str]:
    """What importing the program's first module imports, in an interpreter with nothing else."""
    program = "import sys; sys.path[:0] = ['.']; import uproxy.__main__; print(*sys.modules)"
    argv = [sys.executable, "-S", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("number", sorted(IGNORED))
def test_what_nobody_handles_has_no_effect(number: signal.Signals) -> None:
    assert started(number) == ["lives", "runs"]


def test_a_thread_gets_none_of_what_the_loop_handles_and_who_starts_it_still_does() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    masks: list[set[int]] = []
    thread = threading.Thread(
        target=lambda: masks.append({*signal.pthread_sigmask(signal.SIG_BLOCK, ())})
    )
    start_without(thread)
    thread.join()
    assert masks == [{*before} | {*HANDLED}]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_where_no_thread_can_be_started_signals_still_come() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    ended = threading.Thread()
    ended.start()
    with pytest.raises(RuntimeError):
        start_without(ended)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
