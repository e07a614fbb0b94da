"""Receives the JWT bundles of a Workload API on a stream of their own (FetchJWTBundles).

If the agent doesn't serve them, or not to us, the reason is logged and it is asked again; our X.509
identity doesn't depend on that.  Rules: a message replaces everything; one that can't be read is
discarded, and the stream stays; an end changes nothing: the last good bundles stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from uproxy.errors import MessageError
from uproxy.identity.credentials import NO_JWT_BUNDLES
from uproxy.identity.workload_api.endings import Backoff, explain_ending
from uproxy.identity.workload_api.grpc import Event, Message
from uproxy.identity.workload_api.stream import watch
from uproxy.model import Address
from uproxy.spiffe.jwt_bundles import JwtBundle
from uproxy.spiffe.jwt_update import parse_jwt_bundles_response
from uproxy.tasks import background

_LOG = logging.getLogger(__name__)


class JwtBundleWatch:
    """One FetchJWTBundles stream, opened again whenever it ends."""

    def __init__(
        self, address: Address, changed: Callable[[], None], jitter: Callable[[], float]
    ) -> None:
        """`changed` is called after each good message; `jitter` returns a number from 0 to 1."""
        self._address = address
        self._changed = changed
        self._backoff = Backoff(jitter)
        self._task: asyncio.Task[None] | None = None  # set by start
        self.bundles: Mapping[str, JwtBundle] = NO_JWT_BUNDLES
        """Those of the last good message."""
        self.error: str | None = "no JWT bundles from the agent yet"
        """Why there is no news; None while the stream lasts and its last message was good."""
        self.is_awaited = True
        """Whether the agent hasn't said yet whether it has any."""
        self.problems: tuple[str, ...] = ()
        """Whose tokens aren't believed because of the last good message, and why."""

    def start(self) -> None:
        """Begin to watch."""
        self._task = background(self._watch(), "JWT bundles")

    def cancel(self) -> None:
        """Stop watching; what came stays readable."""
        if self._task is not None:
            self._task.cancel()

    @property
    def facts(self) -> Mapping[str, object]:
        """What it adds to the source's `status`."""
        usable = (name for name, each in self.bundles.items() if each.is_usable)
        return {
            "jwt_trust_domains": sorted(usable),
            "jwt_error": self.error,
            "jwt_awaited": self.is_awaited,
            "jwt_distrusted": list(self.problems),
        }

    async def _watch(self) -> None:
        while True:
            delay_s = 0.0
            async with contextlib.aclosing(watch(self._address, "FetchJWTBundles")) as events:
                async for event in events:
                    delay_s = self._take(event)
            await asyncio.sleep(delay_s)

    def _take(self, event: Event) -> float:
        """Return the seconds to wait before the next stream if this one has ended."""
        if isinstance(event, Message):
            self._read(event.data)
            return 0.0
        # without a status it was the connection that ended
        self.is_awaited = self.is_awaited and event.status is None
        self._complain(explain_ending(event, "JWT bundles"))
        return self._backoff.delay(event, asyncio.get_running_loop().time())

    def _read(self, data: bytes) -> None:
        self.is_awaited = False
        try:
            update = parse_jwt_bundles_response(data)
        except MessageError as error:
            self._complain(f"the agent's message is discarded: {error}")
            return
        self._backoff.reset()
        self.error, self.bundles = None, update.bundles
        for problem in update.problems:
            if problem not in self.problems:
                _LOG.warning("%s", problem)
        self.problems = update.problems
        self._changed()

    def _complain(self, error: str) -> None:
        if error != self.error:
            _LOG.warning("JWT bundles: %s", error)
        self.error = error
