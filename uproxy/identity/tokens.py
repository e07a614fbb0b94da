"""Keeps a JWT-SVID for each destination that wants one, so that it is at hand when it is needed.

Tokens with the same audience are fetched once.  Rules: a token is fetched ahead and again at half
its life; a failure is followed by a jittered backoff, and the last good token stays until it
expires; one that names another identity or audience than asked for is no token; nobody else ever
sees a token's text: not the log, not the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from uproxy.errors import UntrustedError
from uproxy.identity.credentials import Credentials, IdentitySource
from uproxy.identity.source import Clock
from uproxy.identity.workload_api.endings import Backoff
from uproxy.identity.workload_api.framing import Status
from uproxy.identity.workload_api.grpc import Ended
from uproxy.identity.workload_api.jwt_fetch import NoTokenError
from uproxy.model import Alert
from uproxy.spiffe.jwt_svids import read_jwt_svid
from uproxy.tasks import background

_LOG = logging.getLogger(__name__)

AT_A_TIME = 4
"""How many tokens are fetched at once: each fetch has a connection of its own to the agent."""
SHORTEST_REST_S = 1.0
"""The least time between a good token and the next fetch, however short the token's life."""
_LONGEST_NAP_S = 60.0  # the loop's clock stands still in a suspended machine, validity doesn't

Audience = tuple[str, ...]
Fetch = Callable[[Audience, str], Awaitable[str]]
"""Returns a token of an identity for an audience; raises NoTokenError."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token that may be used until it expires."""

    text: str = field(repr=False)
    spiffe_id: str
    expires: datetime
    rest_s: float
    """Seconds from its arrival until it should be replaced."""


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """What is shown about a destination's token, which isn't shown itself."""

    audience: Audience
    expires: datetime | None
    """None: there is none."""
    error: str | None
    """Why there is none, or no newer one; None: the last fetch gave one."""


def read_token(text: str, audience: Audience, spiffe_id: str, now: datetime) -> Token:
    """Check what an agent gave us.

    Raises:
        UntrustedError: it isn't a token of ours for this audience; says why.
    """
    svid = read_jwt_svid(text, now).svid
    if svid.spiffe_id != spiffe_id or not set(audience) <= set(svid.audience):
        words = f"it is of {svid.spiffe_id} for {', '.join(svid.audience[:3])}"
        raise UntrustedError("JW-6", words, Alert.CERTIFICATE_UNKNOWN)
    left = svid.expires - now
    return Token(text, spiffe_id, svid.expires, max(left.total_seconds() / 2, SHORTEST_REST_S))


class TokenKeeper:
    """The tokens of all destinations."""

    def __init__(
        self,
        source: IdentitySource,
        fetch: Fetch,
        changed: Callable[[Mapping[str, str]], None],
        *,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        """`changed(tokens)` is called with all tokens, by destination, whenever one has changed;
        `jitter` returns a random number from 0 to 1."""
        self.clock = clock
        self.jitter = jitter
        self._fetch = fetch
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._source = source
        self._changed = changed
        self._wanted: Mapping[str, Audience] = {}
        self._kept: dict[Audience, _Kept] = {}
        source.subscribe(self._identity_changed)

    @property
    def tokens(self) -> Mapping[str, str]:
        """By destination; one without a token is left out."""
        found = {name: self._kept[audience].token for name, audience in self._wanted.items()}
        return {name: token.text for name, token in found.items() if token is not None}

    @property
    def status(self) -> Mapping[str, TokenStatus]:
        """What may be known of each destination's token."""
        return {
            name: TokenStatus(
                audience,
                None if (token := self._kept[audience].token) is None else token.expires,
                self._kept[audience].error,
            )
            for name, audience in self._wanted.items()
        }

    @property
    def spiffe_id(self) -> str | None:
        """Whose tokens to fetch; None: we have no identity."""
        svid = self._source.current.svid
        return None if svid is None else svid.spiffe_id

    async def fetch(self, audience: Audience, spiffe_id: str) -> str:
        """Fetch a token, after others if there are many; errors are those of `Fetch`."""
        async with self._slots:
            return await self._fetch(audience, spiffe_id)

    @property
    def awaited(self) -> frozenset[str]:
        """The destinations of which the agent hasn't said yet whether it has a token for them."""
        return frozenset(
            name for name, audience in self._wanted.items() if self._kept[audience].is_awaited
        )

    def follow(self, wanted: Mapping[str, Audience]) -> None:
        """Keep tokens for these audiences, by destination, and no others."""
        before, self._wanted = self.tokens, dict(wanted)
        for audience in self._kept.keys() - set(wanted.values()):
            self._kept.pop(audience).cancel()
        for audience in dict.fromkeys(wanted.values()):
            if audience not in self._kept:
                self._kept[audience] = _Kept(self, audience)
        if self.tokens != before:
            self.publish()

    async def stop(self) -> None:
        """Fetch no more; the tokens stay readable."""
        tasks = [kept.cancel() for kept in self._kept.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def publish(self) -> None:
        """Tell `changed` of a new set."""
        self._changed(self.tokens)

    def names_of(self, audience: Audience) -> str:
        """Return the destinations with this audience, for words."""
        return ", ".join(name for name, wanted in self._wanted.items() if wanted == audience)

    def _identity_changed(self, before: Credentials, after: Credentials) -> None:
        ours = [None if each.svid is None else each.svid.spiffe_id for each in (before, after)]
        if ours[0] != ours[1]:
            for kept in self._kept.values():
                kept.woken.set()


class _Kept:
    """The token for one audience, and the task that keeps it."""

    def __init__(self, keeper: TokenKeeper, audience: Audience) -> None:
        self.token: Token | None = None
        self.error: str | None = "not fetched yet"
        self.is_awaited = True
        self.woken = asyncio.Event()  # our identity has changed
        self._keeper = keeper
        self._audience = audience
        self._backoff = Backoff(keeper.jitter)
        self._task = background(self._keep(), f"token for {audience[0]}")

    def cancel(self) -> asyncio.Task[None]:
        """Fetch no more; return the task, which ends."""
        self._task.cancel()
        return self._task

    async def _keep(self) -> None:
        while True:
            self.woken.clear()
            spiffe_id = self._keeper.spiffe_id
            if self.token is not None and spiffe_id not in (None, self.token.spiffe_id):
                self._replace(None)
            if spiffe_id is None:
                self.error = "there is no identity to fetch it with"
                await self._rest(float("inf"))
            else:
                await self._rest(await self._fetch(spiffe_id))

    async def _fetch(self, spiffe_id: str) -> float:
        """Return the seconds until the next fetch."""
        keeper = self._keeper
        try:
            text = await keeper.fetch(self._audience, spiffe_id)
            token = read_token(text, self._audience, spiffe_id, keeper.clock())
        except NoTokenError as error:
            return self._failed(str(error), error.ending)
        except UntrustedError as error:
            words = f"the agent's token can't be used: {error}"
            return self._failed(words, Ended(words, Status.UNKNOWN))
        if keeper.spiffe_id != spiffe_id:
            return 0.0  # it is that of our last identity
        self._backoff.reset()
        self.error = None
        self._replace(token)
        return token.rest_s

    def _failed(self, error: str, ending: Ended) -> float:
        # without a status it was the connection that ended
        self.is_awaited = self.is_awaited and ending.status is None
        if error != self.error:
            names = self._keeper.names_of(self._audience)
            kind = "newer JWT-SVID" if self.token else "JWT-SVID"
            _LOG.warning("no %s for %s: %s", kind, names, error)
        self.error = error
        return self._backoff.delay(ending, asyncio.get_running_loop().time())

    async def _rest(self, seconds: float) -> None:
        """Wait so long, less if our identity changes; drop the token when it expires."""
        loop, clock = asyncio.get_running_loop(), self._keeper.clock
        started, until = clock(), loop.time() + seconds
        while not self.woken.is_set():
            now = clock()
            if self.token is not None and now >= self.token.expires:
                self._replace(None)
            # the machine may have slept
            left_s = min(until - loop.time(), seconds - (now - started).total_seconds())
            if left_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, self._until_expiry(now), _LONGEST_NAP_S)):
                    await self.woken.wait()

    def _until_expiry(self, now: datetime) -> float:
        if self.token is None:
            return _LONGEST_NAP_S
        # just behind it: the loop may call a little early
        return (self.token.expires - now + timedelta(milliseconds=1)).total_seconds()

    def _replace(self, token: Token | None) -> None:
        self.is_awaited = False
        if token is None:
            names = self._keeper.names_of(self._audience)
            _LOG.warning("the JWT-SVID for %s can't be used any more", names)
        self.token = token
        self._keeper.publish()
