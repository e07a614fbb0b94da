"""One performance of the story: it ends when it is told, or when somebody stops it.

Rules: SIGINT, SIGTERM and SIGHUP end the telling at any moment; what then takes everything
down is out of their reach, because it takes a second or two and is bounded.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

from uproxy.demo.screen import Screen
from uproxy.demo.story import Story
from uproxy.demo.world import World

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Takes the signals over; each cancels the task that is watched."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first that came."""
        self._task: asyncio.Task[None] | None = None  # set by watch
        for number in _SIGNALS:
            # ignored under nohup, and to stay so
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self._came, number)

    def watch(self, task: asyncio.Task[None]) -> None:
        """This is what a signal ends, from now on or already."""
        self._task = task
        if self.signal is not None:
            task.cancel()

    def _came(self, number: signal.Signals) -> None:
        self.signal = self.signal or number
        if self._task is not None:
            self._task.cancel()


async def perform(screen: Screen, *, real: bool, once: bool) -> int:
    """Tell the story; unless `once`, stay until somebody stops it.  Returns the exit code: 0,
    or 128 and the number of a signal that came before the story was told.

    Raises:
        UproxyError: something isn't as it should be.
    """
    # a signal reaches the telling only: what is taken down here is taken down
    interruption = Interruption()
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World())
        story = Story(world, screen, real=real)
        telling = asyncio.create_task(_tell(story, screen, once=once))
        interruption.watch(telling)
        await asyncio.wait([telling])
        with screen.waiting("taking everything down"):
            await stack.aclose()
    if telling.cancelled() and interruption.signal is not None:
        return 128 + interruption.signal
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
