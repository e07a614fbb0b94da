"""Runs the verbs of a connection, one after the other, in a task; keeps its state and deadline.

`connection` has the verbs, and says when which state is entered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

from uproxy.contract import Arrival, Door, Ending, Refusal, RefusedError
from uproxy.lifecycle import State, check_move
from uproxy.transport import failures
from uproxy.transport.python.deciding import Deciding, HasDoor
from uproxy.transport.python.side import End
from uproxy.transport.through import MAX_STRANDINGS

_log = logging.getLogger(__name__)

Step = Callable[[], Awaitable["Step | None"]]
"""A verb with its arguments; it returns the verb that follows, None after the last."""


class Steps(Deciding):
    """One connection, and the task in which it takes its steps."""

    def __init__(self, listener: HasDoor, door: Door, arrival: Arrival) -> None:
        super().__init__(listener, door, arrival)
        self.state = State.ACCEPTED
        self._accepted_at = time.monotonic()
        self._cut: Refusal | None = None  # why it ends, whatever is still tried
        self._interrupted_by: Refusal | None = None  # why its task was cancelled
        self._seconds = 0.0  # of the deadline; 0: none
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False

    async def on_accepted(self) -> Step:
        """The first verb."""
        raise NotImplementedError

    async def on_failed(self, why: Refusal) -> Step | None:
        """The verb that follows when another one has failed."""
        raise NotImplementedError

    def on_deadline(self) -> None:
        """The verb that is called when the deadline has passed."""
        raise NotImplementedError

    def on_cut(self, why: Refusal) -> None:
        """The verb that is called when the process ends the connection."""
        raise NotImplementedError

    def enter_state(self, state: State, seconds: float) -> None:
        """Enter a state, or stay in it with another deadline; nothing else sets either.

        Args:
            seconds: until `on_deadline`, since now, or while it relays since bytes moved last; 0:
                no deadline.

        Raises:
            ValueError: `lifecycle.MOVES` doesn't allow it: a defect.
        """
        if state is not self.state:
            check_move(self.state, state)
        self.state = state
        self._set_deadline(seconds)

    def _set_deadline(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._seconds, self._timer = seconds, None
        if seconds:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(loop.time() + seconds, self._on_timer)

    def _on_downstream_lost(self, error: OSError) -> None:
        """End a connection that downstream has reset before it was open; if upstream is connected
        already, pass on first what downstream had sent."""
        downstream = cast("End", self._downstream)
        if self.state is State.HANDSHAKING_UPSTREAM and downstream.has_unread():
            downstream.lose(error)
        else:
            self.on_cut(failures.broken(downstream.who, error))

    def _is_stranded(self) -> bool:
        """Whether upstream was lost with an L7 proxy, and it isn't cut, nor too often so."""
        is_lost = cast("End", self._upstream).is_stranded
        return is_lost and self._cut is None and self._strandings < MAX_STRANDINGS

    def _on_timer(self) -> None:
        """Call `on_deadline`; if bytes have moved meanwhile, only set the timer again."""
        if self._relay is None:
            self.on_deadline()
            return
        loop, due = asyncio.get_running_loop(), self._relay.last_moved() + self._seconds
        if loop.time() < due:
            self._timer = loop.call_at(due, self._on_timer)
        elif not self._relay.is_over:
            self.on_deadline()

    # The task that runs the verbs.

    def start(self, on_decided: Callable[[], None]) -> asyncio.Task[None]:
        """Begin; `on_decided` is called once, when it has been admitted or refused."""
        self._on_decided = on_decided
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._task

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that `start` has made."""
        return cast("asyncio.Task[None]", self._task)

    def close(self, refusal: Refusal) -> None:
        """End it now, as `contract.Connection` says."""
        self.on_cut(refusal)

    async def _run(self) -> None:
        """Run the verbs, from `on_accepted` to the last."""
        self._has_begun = True  # a task cancelled before its first step would never take it
        step: Step | None = self.on_accepted
        if self._cut is not None:
            step = partial(self.on_failed, self._cut)
        while step is not None:
            step = await self._take(step)

    async def _take(self, step: Step) -> Step | None:
        """Run a verb; return the one that follows, which is `on_failed` if it raises anything."""
        try:
            return await step()
        except RefusedError as no:
            why = no.refusal
        except asyncio.CancelledError:
            why = self._why_interrupted()
        except Exception:
            if self._cut is failures.DEFECT:
                raise  # ending it failed as well
            _log.exception("a defect ended connection %d (%s)", self.arrival.id, self.state)
            why = self._cut = self._cut or failures.DEFECT
        return partial(self.on_failed, self._cut or why)

    def _interrupt(self, why: Refusal) -> None:
        """Cancel what is awaited."""
        self._interrupted_by = why
        if self._task is not None:
            self._task.cancel()

    def _why_interrupted(self) -> Refusal:
        """Return the reason given to `_interrupt`; without one the whole process stops."""
        why, self._interrupted_by = self._interrupted_by, None
        if why is None:
            why = self._cut = self._cut or failures.STOPPED
        return why

    def _report_ending(self, ending: Ending) -> None:
        """Tell the door, or what its `opened` returned."""
        try:
            (self._on_closed or cast("Door", self._door).closed)(self, ending)
        except Exception:  # noqa: BLE001  the door's defect; the connection has ended anyway
            _log.exception("Door.closed failed for connection %d", self.arrival.id)
