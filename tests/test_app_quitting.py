"""SIGTERM and SIGINT end what is waited for, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from uproxy.signals import QUITTING

_RUN = """
import asyncio, os, signal, sys
from uproxy import signals
from uproxy.app.quitting import unless_told_to_quit

async def work():
    if sys.argv[2] == "raise":
        raise ValueError("bad")
    if sys.argv[2] == "end":
        return "ended"
    if sys.argv[2] == "wait":
        os.kill(os.getpid(), number)
    try:
        await asyncio.sleep(60)
    finally:
        print("cancelled")

async def main():
    try:
        print(await unless_told_to_quit(work()))
    except ValueError as error:
        print(error)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    print(signals.HANDLED <= blocked)

signals.hold_back()
number = int(sys.argv[1])
if sys.argv[2] == "earlier":
    os.kill(os.getpid(), number)
import uvloop
uvloop.run(main()) if sys.argv[3] == "uvloop" else asyncio.run(main())
"""


def said(how: str, number: signal.Signals = signal.SIGTERM, loop: str = "uvloop") -> list[str]:
    argv = [sys.executable, "-c", _RUN, str(int(number)), how, loop]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("number", sorted(QUITTING))
def test_a_signal_ends_the_work_and_whatever_comes_later_is_held_back_again(
    number: signal.Signals, loop: str
) -> None:
    assert said("wait", number, loop) == ["cancelled", "None", "True"]


@pytest.mark.parametrize("number", sorted(QUITTING))
def test_a_signal_that_was_held_back_until_now_counts(number: signal.Signals) -> None:
    assert said("earlier", number) == ["cancelled", "None", "True"]


def test_without_a_signal_the_work_ends_as_it_does() -> None:
    assert said("end") == ["ended", "True"]
    assert said("raise") == ["bad", "True"]
