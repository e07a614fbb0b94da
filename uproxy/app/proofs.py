"""Proofs across L7 proxies: keeps our tokens for destinations behind one, and has the keys to check
callers' tokens where the configuration demands them.

What fetches tokens is only imported by a uProxy that needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from uproxy.app.identity import now
from uproxy.config import Settings
from uproxy.identity.credentials import IdentitySource

if TYPE_CHECKING:
    from uproxy.identity.tokens import Fetch, TokenKeeper, TokenStatus


@dataclass(frozen=True, slots=True)
class Awaited:
    """What an agent hasn't answered yet."""

    keys: bool = False
    """Those that callers' proofs are checked with."""
    tokens: frozenset[str] = frozenset()
    """The destinations for which we want one."""


class Proofs:
    """Follows the configuration in force."""

    def __init__(
        self, source: IdentitySource, changed: Callable[[Mapping[str, str]], None]
    ) -> None:
        """`changed(tokens)` is called with all tokens, by destination, whenever one changes."""
        self._source = source
        self._changed = changed
        self._keeper: TokenKeeper | None = None  # since a destination has been behind an L7 proxy

    def follow(self, settings: Settings) -> None:
        """Keep the tokens and keys that this configuration needs, and no others."""
        self._source.want_jwt_bundles(
            any(trusted.require_proof for trusted in settings.inbound_trust.values())
        )
        wanted = {
            name: each.identities
            for name, each in settings.destinations.items()
            if each.via is not None
        }
        if self._keeper is None and wanted:
            self._keeper = self._new_keeper(settings)
        if self._keeper is not None:
            self._keeper.follow(wanted)

    async def stop(self) -> None:
        """Fetch no more."""
        if self._keeper is not None:
            await self._keeper.stop()

    @property
    def status(self) -> Mapping[str, TokenStatus]:
        """By destination: what may be known of its token."""
        return {} if self._keeper is None else self._keeper.status

    @property
    def awaited(self) -> Awaited:
        """What the agent hasn't answered yet; what it hasn't got isn't waited for."""
        tokens = frozenset[str]() if self._keeper is None else self._keeper.awaited
        return Awaited(bool(self._source.status.get("jwt_awaited")), tokens)

    def _new_keeper(self, settings: Settings) -> TokenKeeper:
        from uproxy.identity.tokens import TokenKeeper

        return TokenKeeper(self._source, _fetch(settings), self._changed, clock=now, jitter=_jitter)


def _fetch(settings: Settings) -> Fetch:
    """Return how tokens are fetched from the configured source of identity."""
    from uproxy.identity.workload_api.framing import Status
    from uproxy.identity.workload_api.grpc import Ended
    from uproxy.identity.workload_api.jwt_fetch import NoTokenError, fetch_jwt_svid

    address = settings.identity.workload_api

    async def from_files(_audience: tuple[str, ...], _spiffe_id: str) -> NoReturn:
        words = "files have no JWT-SVIDs: use identity.workload_api"
        raise NoTokenError(words, Ended(words, Status.UNIMPLEMENTED))

    if settings.identity.files is not None or address is None:
        return from_files
    return lambda audience, spiffe_id: fetch_jwt_svid(address, audience, spiffe_id)


def _jitter() -> float:
    # not random's, which would be imported for nothing else
    return int.from_bytes(os.urandom(4), "big") / (1 << 32)
