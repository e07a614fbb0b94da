"""What a Workload API message, an ending or the passing of time means: the client's judgment.

It has no socket, no task and no clock: events and `now` (seconds, any steady clock) come in,
what to hold and when to call again come out.  The rules:

- A message replaces everything; equal content changes nothing; one with a bad SVID is discarded
  and the stream stays (WA-4, WA-5, WA-7).  A bad bundle ends the trust in its domain.
- An end without a message about us (EOF, no socket, refused, UNAVAILABLE) changes nothing:
  what is held stays good until it expires.
- PERMISSION_DENIED at the end of a stream that had spoken is revocation, at once (WA-13).  As
  the first word of a new stream it may be a hiccup of attestation: revocation after
  `revocation_grace`, unless a message comes first.
- When to open the next stream is said in `endings`.
- Of several identities uProxy takes the one it is told to, never the first by chance; once
  it has one it stays with it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from uproxy.errors import MessageError
from uproxy.identity.credentials import Svid
from uproxy.identity.workload_api.endings import Backoff, explain_ending
from uproxy.identity.workload_api.framing import Status
from uproxy.identity.workload_api.grpc import Ended, Message
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.workload_update import OfferedSvid, WorkloadUpdate, parse_svid_response

_LISTED = 10  # identities named in a reason


class StreamState(enum.StrEnum):
    """Where the stream to the agent stands."""

    CONNECTING = "connecting"
    STREAMING = "streaming"
    RETRYING = "retrying"


@dataclass(frozen=True, slots=True)
class SvidChoice:
    """Which identity the configuration wants; neither: the only one offered."""

    spiffe_id: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What may be used now."""

    svid: Svid | None
    reason: str
    """Why there is no SVID; empty when there is one."""
    bundles: Mapping[str, Bundle]


@dataclass(slots=True)
class Counters:
    """Since the start."""

    reconnects: int = 0
    discarded_messages: int = 0
    revocations: int = 0


class Supervisor:
    """The state of one Workload API client."""

    def __init__(
        self, choice: SvidChoice, *, revocation_grace: float, jitter: Callable[[], float]
    ) -> None:
        self.held = Held(None, "no answer from the agent yet", {})
        self.state = StreamState.CONNECTING
        self.last_error: str | None = None
        self.problems: tuple[str, ...] = ()
        """The trust domains of the last good message that aren't trusted, and why."""
        self.counters = Counters()
        self.revoke_at: float | None = None
        """When `tick` must be called: the agent denies us and the grace ends."""
        self._choice = choice
        self._revocation_grace = revocation_grace
        self._backoff = Backoff(jitter)
        self._is_live = False  # this stream has spoken

    def connecting(self) -> None:
        """A new stream is being opened."""
        if self.state is StreamState.RETRYING:
            self.counters.reconnects += 1
        self.state = StreamState.CONNECTING

    def message(self, message: Message) -> None:
        """The agent has spoken."""
        self._is_live = True
        self.state = StreamState.STREAMING
        try:
            update = parse_svid_response(message.data)
        except MessageError as error:
            self.counters.discarded_messages += 1
            self._complain(f"the agent's message is discarded: {error}")
            return
        self._backoff.reset()
        self.revoke_at = None
        self._accept(update)

    def ended(self, ending: Ended, now: float) -> float:
        """The stream is over; returns the seconds until the next one may be opened."""
        was_live, self._is_live = self._is_live, False
        self.state = StreamState.RETRYING
        self._complain(explain_ending(ending, "X509-SVIDs"))
        if ending.status == Status.PERMISSION_DENIED and self.held.svid is not None:
            self._deny(was_live, now)
        return self._backoff.delay(ending, now)

    def tick(self, now: float) -> None:
        """Time has passed: revoke if the grace is over."""
        if self.revoke_at is not None and now >= self.revoke_at:
            self._revoke(f"revoked: {self.last_error}")

    def _deny(self, was_live: bool, now: float) -> None:
        if was_live or self._revocation_grace == 0:
            self._revoke(f"revoked: {self.last_error}")
        elif self.revoke_at is None:
            self.revoke_at = now + self._revocation_grace

    def _revoke(self, reason: str) -> None:
        self.revoke_at = None
        self.counters.revocations += 1
        self.held = replace(self.held, svid=None, reason=reason)

    def _complain(self, error: str) -> None:
        self.last_error = error
        if self.held.svid is None:
            self.held = replace(self.held, reason=error)

    def _accept(self, update: WorkloadUpdate) -> None:
        chosen, reason = _choose(update.svids, self._choice, self.held.svid)
        self.last_error, self.problems = None, update.problems
        if chosen is None:
            self.last_error = reason
            self.counters.revocations += self.held.svid is not None
        self.held = Held(chosen, reason, update.bundles)


def _choose(
    offered: tuple[OfferedSvid, ...], choice: SvidChoice, current: Svid | None
) -> tuple[Svid | None, str]:
    """The identity to use, or why none can be."""
    fitting = [svid for svid in offered if _fits(svid, choice)]
    if choice.hint is not None:
        del fitting[1:]  # hints are unique; of duplicates the first counts (WA-12)
    if current is not None:
        same = [svid for svid in fitting if str(svid.spiffe_id) == current.spiffe_id]
        fitting = same or fitting
    if len({svid.spiffe_id for svid in fitting}) == 1:
        best = _best(fitting, current)
        return Svid(str(best.spiffe_id), best.chain, best.key, best.hint), ""
    if fitting:
        return None, (
            f"the agent offers {len(offered)} identities ({_list(offered)}): "
            "choose one with identity.spiffe_id or identity.hint"
        )
    wanted = choice.spiffe_id or f"an identity with the hint {choice.hint!r}"
    return None, f"the agent doesn't offer {wanted}, only {_list(offered)}"


def _best(same_id: list[OfferedSvid], current: Svid | None) -> OfferedSvid:
    """An agent may offer one identity twice, in any order."""
    kept = [svid for svid in same_id if current is not None and svid.chain == current.chain]
    return max(kept or same_id, key=lambda svid: svid.chain[0].not_valid_after_utc)


def _fits(svid: OfferedSvid, choice: SvidChoice) -> bool:
    return choice.spiffe_id in (None, str(svid.spiffe_id)) and choice.hint in (None, svid.hint)


def _list(offered: tuple[OfferedSvid, ...]) -> str:
    names = [f"{svid.spiffe_id} (hint {svid.hint[:80]!r})" if svid.hint else str(svid.spiffe_id)
             for svid in offered[:_LISTED]]  # fmt: skip
    return ", ".join(names) + (", …" if len(offered) > _LISTED else "")
