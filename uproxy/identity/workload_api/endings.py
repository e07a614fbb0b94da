"""What the end of a call to the Workload API means: in words, and when to call again.

No clock: `now` (seconds, any steady clock) is passed in.  Rules: an orderly end is followed by a
new call at once (WA-3), anything else by a jittered backoff that a good message resets (WE-11);
INVALID_ARGUMENT and UNIMPLEMENTED can't get better by asking again, so they are asked slowly
(WE-10, WE-13).
"""

from __future__ import annotations

from collections.abc import Callable

from uproxy.identity.workload_api.framing import Status
from uproxy.identity.workload_api.grpc import Ended

MIN_BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0
SLOW_RETRY_S = 60.0
HASTE_S = 1.0
"""An orderly end so soon after a reconnect at once is answered with backoff: no busy loop."""


class Backoff:
    """How long to wait before the next call."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        """`jitter` returns a random number from 0 to 1."""
        self._jitter = jitter
        self._failures = 0
        self._hurried_at = float("-inf")

    def reset(self) -> None:
        """A good message has come."""
        self._failures = 0

    def delay(self, ending: Ended, now: float) -> float:
        """Return the seconds to wait after this ending."""
        if ending.status in (Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED):
            return SLOW_RETRY_S * (1 + self._jitter()) / 2
        if ending.is_orderly and now - self._hurried_at >= HASTE_S:
            self._hurried_at = now
            return 0.0
        ceiling = min(MAX_BACKOFF_S, MIN_BACKOFF_S * (2 << min(self._failures, 16)))
        self._failures += 1
        return MIN_BACKOFF_S + (ceiling - MIN_BACKOFF_S) * self._jitter()


def explain_ending(ending: Ended, asked_for: str) -> str:
    """Say why a call ended, and what to look at; `asked_for` is what the endpoint was asked
    for."""
    text = f" ({ending.text})" if ending.text else ""
    match ending.status:
        case None:
            return ending.text
        case Status.OK:
            return "the agent ended the stream"
        case Status.PERMISSION_DENIED:
            return (
                f"the agent has no identity for this process{text}: "
                "is there an entry that selects it?"
            )
        case Status.INVALID_ARGUMENT:
            return f"the agent finds the request invalid{text}: is this its Workload API socket?"
        case Status.UNIMPLEMENTED:
            return f"the endpoint doesn't offer {asked_for}{text}: is it a SPIFFE Workload API?"
    return f"the agent answered with gRPC status {ending.status}{text}"
