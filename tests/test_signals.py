"""Signals are held back or ignored, in a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from uproxy.signals import HANDLED, IGNORED

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


@pytest.mark.parametrize("number", sorted(IGNORED))
def test_what_nobody_handles_has_no_effect(number: signal.Signals) -> None:
    assert started(number) == ["lives", "runs"]
