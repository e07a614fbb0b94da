"""The identity source that watches a SPIFFE Workload API for as long as uProxy runs.

Only a shell: `stream` has the socket, `supervisor` the judgment, `SourceBase` the snapshot
and its expiry.  Rules: starting needs no agent; while the stream is idle nothing wakes up;
whatever the supervisor holds is put in force before anything else is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from uproxy.errors import NoIdentityError
from uproxy.identity.credentials import NO_JWT_BUNDLES, Credentials, IdentitySource
from uproxy.identity.source import Clock, SourceBase
from uproxy.identity.workload_api.grpc import Event, Message
from uproxy.identity.workload_api.stream import watch
from uproxy.identity.workload_api.supervisor import Supervisor, SvidChoice
from uproxy.model import Address
from uproxy.tasks import background

if TYPE_CHECKING:
    from uproxy.identity.workload_api.jwt_watch import JwtBundleWatch

_LOG = logging.getLogger(__name__)


class WorkloadApiSource(SourceBase):
    """`credentials.IdentitySource` out of a Workload API endpoint."""

    def __init__(
        self,
        address: Address,
        *,
        spiffe_id: str | None,
        hint: str | None,
        revocation_grace: float,
        clock: Clock,
    ) -> None:
        """`spiffe_id` (canonical) or `hint` say which identity to take of several;
        `revocation_grace` is in seconds."""
        super().__init__("workload_api", f"no answer yet from {address}", clock=clock)
        self._address = address
        self._supervisor = Supervisor(
            SvidChoice(spiffe_id, hint), revocation_grace=revocation_grace, jitter=_jitter
        )
        self._task: asyncio.Task[None] | None = None  # set by start
        self._grace: asyncio.TimerHandle | None = None  # set while a denial may be a hiccup
        self._reported: str | None = None
        self._told: tuple[str, ...] = ()  # problems that the log knows
        self._wants_jwt = False
        self._jwt: JwtBundleWatch | None = None  # while JWT bundles are wanted, once started

    async def start(self) -> None:
        """Begin to watch; returns at once, an identity may come later."""
        self._task = background(self._watch(), "workload-api")
        self.want_jwt_bundles(self._wants_jwt)

    def want_jwt_bundles(self, wanted: bool) -> None:
        """Begin to watch JWT bundles too, or stop it and forget them."""
        self._wants_jwt = wanted
        if self._task is None:
            return
        if wanted and self._jwt is None:
            # imported here to save memory
            from uproxy.identity.workload_api.jwt_watch import JwtBundleWatch

            self._jwt = JwtBundleWatch(self._address, self._publish, _jitter)
            self._jwt.start()
        elif not wanted and self._jwt is not None:
            self._jwt.cancel()
            self._jwt = None
            self._publish()

    async def stop(self) -> None:
        """Stop watching; what is held stays readable."""
        if self._jwt is not None:
            self._jwt.cancel()
        if self._task is not None:
            self._task.cancel()
            # its cancellation is awaited, not raised: ours, if it comes meanwhile, is
            await asyncio.wait([self._task])
        if self._grace is not None:
            self._grace.cancel()
        await super().stop()

    def _facts(self) -> Mapping[str, object]:
        supervisor = self._supervisor
        return {
            "address": str(self._address),
            "stream": supervisor.state.value,
            "last_error": supervisor.last_error,
            "distrusted": list(supervisor.problems),
            "reconnects": supervisor.counters.reconnects,
            "discarded_messages": supervisor.counters.discarded_messages,
            "revocations": supervisor.counters.revocations,
            **({} if self._jwt is None else self._jwt.facts),
        }

    async def _watch(self) -> None:
        while True:
            self._supervisor.connecting()
            delay_s = 0.0
            async with contextlib.aclosing(watch(self._address)) as events:
                async for event in events:
                    delay_s = self._take(event)
            await asyncio.sleep(delay_s)

    def _take(self, event: Event) -> float:
        """Give an event of the stream to the supervisor; return the seconds to wait before the next
        stream if this one has ended."""
        supervisor, delay_s = self._supervisor, 0.0
        if isinstance(event, Message):
            supervisor.message(event)
        else:
            delay_s = supervisor.ended(event, self._now())
        self._watch_grace()
        self._publish()
        return delay_s

    def _watch_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if (at := self._supervisor.revoke_at) is not None:
            self._grace = asyncio.get_running_loop().call_at(at, self._end_grace)

    def _end_grace(self) -> None:
        # the loop may call a little early, by its clock's resolution
        self._supervisor.tick(max(self._now(), self._supervisor.revoke_at or 0.0))
        self._publish()

    def _publish(self) -> None:
        held = self._supervisor.held
        jwt_bundles = NO_JWT_BUNDLES if self._jwt is None else self._jwt.bundles
        self._replace(held.svid, held.reason, held.bundles, jwt_bundles)
        error = self._supervisor.last_error
        if error is not None and error != self._reported:
            _LOG.warning("%s", error)
        self._reported = error
        for problem in self._supervisor.problems:
            if problem not in self._told:
                _LOG.warning("%s", problem)
        self._told = self._supervisor.problems

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _jitter() -> float:
    # not random's, which would be imported for nothing else
    return int.from_bytes(os.urandom(4), "big") / (1 << 32)


async def fetch_once(source: IdentitySource, timeout_s: float) -> Credentials:
    """Start `source`, wait for an identity, stop it again.

    Raises:
        NoIdentityError: none came within `timeout_s` seconds; says why.
    """
    came = asyncio.Event()
    source.subscribe(lambda _, after: came.set() if after.svid else None)
    await source.start()
    try:
        async with asyncio.timeout(timeout_s):
            await came.wait()
    except TimeoutError:
        reason = source.current.reason
        raise NoIdentityError(f"no identity within {timeout_s:g} s: {reason}") from None
    finally:
        await source.stop()
    return source.current
