"""Runs the story once; it ends by itself or on a signal.

Rules: SIGINT, SIGTERM and SIGHUP end the story at any moment; the clean-up that follows isn't
interrupted by them, because it only takes a few seconds.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

from uproxy.demo import pods
from uproxy.demo.screen import Screen
from uproxy.demo.story import Story
from uproxy.demo.world import DemoWorld

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalHandler:
    """Handles the signals: each cancels the task that is watched."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first one received; None: none was."""
        self._task: asyncio.Task[None] | None = None  # set by watch
        for number in _SIGNALS:
            # nohup ignores SIGHUP, and so do we then
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    def watch(self, task: asyncio.Task[None]) -> None:
        """Cancel this task on a signal; at once if one has come already."""
        self._task = task
        if self.signal is not None:
            task.cancel()

    def _on_signal(self, number: signal.Signals) -> None:
        self.signal = self.signal or number
        if self._task is not None:
            self._task.cancel()


async def run_demo(screen: Screen, *, real: bool, once: bool, captures: bool = False) -> int:
    """Run the story and, unless `once`, wait for a signal; `real` and `captures` are the story's.
    Returns the exit code: 0, or 128 plus the number of a signal that came before the story's end.

    Raises:
        UproxyError: a step of the story failed, or one that is wanted can't be shown here.
    """
    if captures:
        pods.check()
    # signals cancel the task of the story only, so that the clean-up here is complete
    signals = SignalHandler()
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(DemoWorld())
        story = Story(world, screen, real=real, captures=captures)
        telling = asyncio.create_task(_tell(story, screen, once=once))
        signals.watch(telling)
        await asyncio.wait([telling])
        with screen.waiting("taking everything down"):
            await stack.aclose()
    if telling.cancelled() and signals.signal is not None:
        return 128 + signals.signal
    telling.result()
    screen.done("ended: programs, sockets and files are gone")
    return 0


async def _tell(story: Story, screen: Screen, *, once: bool) -> None:
    await story.tell()
    if not once:
        await _stay(story, screen)


async def _stay(story: Story, screen: Screen) -> None:
    screen.note("Ctrl-C ends it and leaves nothing behind")
    try:
        await story.stay()
    except asyncio.CancelledError:
        screen.title("")
