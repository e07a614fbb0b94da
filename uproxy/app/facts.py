"""Collects what the admin server shows from the parts of a running uProxy, as rows."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from uproxy.addresses import Addresses
from uproxy.app.identity import now
from uproxy.app.l7 import l7_rows
from uproxy.app.peers import by_peer
from uproxy.app.tables import (
    Down,
    ago,
    connection_row,
    denial_row,
    destination_row,
    door_rows,
    down_among,
    plain_settings,
    tunnel_row,
)
from uproxy.app.vitals import Vitals
from uproxy.destinations import L7, Key, Kind
from uproxy.metrics import history
from uproxy.model import Direction
from uproxy.proxy.admin import facts as rows
from uproxy.proxy.admin.certificates import describe
from uproxy.proxy.admin.l7_rows import L7ProxyRow
from uproxy.proxy.admin.overview import LostRow, PeerList, Rates, Stale
from uproxy.proxy.admin.row import UnresolvedRow

MISTAKES_SHOWN: Final = 20
"""How many mistakes of a configuration that isn't in force are shown."""


@dataclass(frozen=True, slots=True)
class Facts(Vitals):
    """Implements `proxy.admin.facts.AdminFacts`."""

    @classmethod
    def beside(cls, vitals: Vitals) -> Facts:
        """Return what tells the rest, of the same uProxy."""
        return cls(
            vitals.state,
            vitals.parts,
            vitals.versions,
            vitals.drain,
            vitals.quit,
            vitals.onsets,
        )

    def certificates(self) -> rows.Certificates:
        """Return our SVID and the bundles, without keys."""
        source, own = self.parts.source, self.parts.snapshot.own_trust_domain
        tokens = tuple(
            rows.TokenRow(name, each.audience, each.expires, each.error)
            for name, each in self.parts.proofs.status.items()
        )
        return replace(describe(source.current, source.status, own), tokens=tokens)

    def connections(self, limit: int) -> rows.ConnectionList:
        """Return the newest open connections, at most `limit` of them."""
        registry = self.parts.connections
        at = now()
        return rows.ConnectionList(
            total=len(registry),
            connections=tuple(connection_row(entry, at) for entry in registry.newest(limit)),
            tunnels_total=len(registry.tunnels),
            tunnels=tuple(tunnel_row(entry, at) for entry in registry.tunnels.newest(limit)),
        )

    def peers(self, limit: int) -> PeerList:
        """Return the open connections by peer, at most `limit` peers."""
        return by_peer(self.parts.connections, now(), limit)

    def rates(self) -> Rates:
        """Return how much happened per second, in the last quarter of an hour."""
        return Rates(history.STEP_S, *self.parts.history.rates())

    def stale(self) -> Stale | None:
        """Return why the configuration file's contents aren't in force; None: they are."""
        refused = self.state.stale
        if refused is None:
            return None
        mistakes = refused.mistakes
        return Stale(self.state.file, refused.since, mistakes[:MISTAKES_SHOWN], len(mistakes))

    def doors(self) -> tuple[rows.DoorRow, ...]:
        """Return the configured doors, open or not."""
        counts: dict[tuple[Direction, str], int] = {}
        for entry in self.parts.connections:
            key = entry.info.direction, entry.info.door
            counts[key] = counts.get(key, 0) + 1
        tunnels = Counter(entry.info.door for entry in self.parts.connections.tunnels)
        trouble = partial(self._trouble, self.parts.snapshot.addresses)
        listening = self.parts.doors.listening
        opaque = self.parts.doors.opaque
        return tuple(door_rows(self._settings, listening, counts, tunnels, trouble, opaque))

    def destinations(self) -> tuple[rows.DestinationRow, ...]:
        """Return the configured destinations with their endpoints."""
        return tuple(
            destination_row(each, self.parts.endpoints, self._unresolved(each.addresses))
            for each in self.parts.snapshot.destinations.values()
        )

    def l7_proxies(self) -> tuple[L7ProxyRow, ...]:
        """Return the configured L7 proxies with their addresses."""
        return l7_rows(self.parts.snapshot, self.parts.endpoints, self._unresolved)

    def denials(self) -> tuple[rows.DenialRow, ...]:
        """Return the last connections that were refused, cut, or couldn't be made."""
        return tuple(denial_row(denial) for denial in self.parts.connections.denials)

    def denials_lost(self) -> tuple[LostRow, ...]:
        """Return which kinds of them there were more of."""
        lost = self.parts.connections.denials_lost
        return tuple(
            LostRow(direction.value, outcome.value, at) for (direction, outcome), at in lost.items()
        )

    def outcomes(self) -> Mapping[str, int]:
        """Return how many connections have ended, by outcome."""
        return {each.value: count for each, count in self.parts.connections.outcomes.items()}

    def config_dump(self) -> Mapping[str, object]:
        """Return the settings in force; they hold paths and names, never secrets."""
        return {
            "settings": plain_settings(self._settings),
            "loaded_at": self.state.loaded_at,
            "stale": None if self.state.stale is None else str(self.state.stale),
        }

    def process(self) -> rows.ProcessFacts:
        """Return what this process runs."""
        return rows.ProcessFacts(
            name=self._settings.name,
            pid=os.getpid(),
            started=self.state.started_at,
            log_level=self.parts.log.level_word,
            config=self.state.file,
            versions=self.versions,
            loaded_at=self.state.loaded_at,
        )

    def _trouble(
        self, all_: Mapping[Key, Addresses], direction: Direction, name: str
    ) -> Down | None:
        """Return why a destination, or an inbound door's application, can't be reached, and since
        when; None: it can, or that wasn't tried."""
        down = self._down(all_, direction, name)
        if down is not None or direction is not Direction.OUTBOUND:
            return down
        via = self.parts.snapshot.destinations[name].via
        if via is None or via.may_bypass:
            return None
        return self._down(all_, L7, via.proxy.settings.name)

    def _down(self, all_: Mapping[Key, Addresses], kind: Kind, name: str) -> Down | None:
        """Return why the last attempt failed at each of some addresses, and since when; None: one
        was reached, or none was tried."""
        endpoints, addresses = self.parts.endpoints[kind, name], all_[kind, name]
        if addresses.is_open and kind is Direction.INBOUND:
            down = down_among(addresses, endpoints.tried_lately(time.monotonic()))
            return down or self._not_resolved(addresses)
        fates = endpoints.status(addresses, time.monotonic())
        if not fates:
            return self._not_resolved(addresses)
        # the last one that was reached says since when
        since, reason = min(((each.failing_s, each.reason) for each in fates), key=_seconds)
        return None if since is None or reason is None else Down(reason, ago(since))

    def _not_resolved(self, addresses: Addresses) -> Down | None:
        """Return which names can't be resolved, and why; None: there are none."""
        unresolved = self._unresolved(addresses)
        words = (f"{each.name} can't be resolved: {each.reason}" for each in unresolved)
        since = min((each.since for each in unresolved if each.since is not None), default=None)
        return Down("; ".join(words), since) if unresolved else None

    def _unresolved(self, addresses: Addresses) -> tuple[UnresolvedRow, ...]:
        resolver = self.parts.resolver
        return tuple(
            UnresolvedRow(str(name), reason, ago(resolver.failing_s(name) or 0.0))
            for name in addresses.names
            if (reason := resolver.why_failing(name)) is not None
        )


def _seconds(failing: tuple[float | None, str | None]) -> float:
    """Return for how many seconds an address has been failing; 0: it isn't."""
    return failing[0] or 0.0
