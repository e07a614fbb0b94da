"""What all sources of identity do: keep the snapshot, count, notify, and watch expiry.

It knows neither files nor agents; a source calls `_replace` with all it knows, and only
that.  Rules: a snapshot is replaced whole; equal content is no change; the generation moves
only with bundles or CRLs; an SVID that has expired is no SVID, whoever says otherwise, and is
one again when the clock is set back: a clock that was ahead must not cost an identity.
Everything runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType

from uproxy.identity.changes import trust_changes
from uproxy.identity.credentials import NO_JWT_BUNDLES, Credentials, Svid
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.jwt_bundles import JwtBundle

_log = logging.getLogger(__name__)

Clock = Callable[[], datetime]
"""The wall clock, UTC."""

_LONGEST_NAP_S = 60.0  # the loop's clock stands still in a suspended machine, validity doesn't
_EXPIRED_NAP_S = 1.0  # between looks at an expired SVID: the clock may have been wrong

_NO_BUNDLES: Mapping[str, Bundle] = MappingProxyType({})


class SourceBase:
    """The part of `credentials.IdentitySource` that is the same for all sources."""

    def __init__(self, name: str, waiting: str, *, clock: Clock) -> None:
        """`name` is the source's name in `status`; `waiting` is `Credentials.reason` until the
        first `_replace`."""
        self._name = name
        self._clock = clock
        self._current = Credentials(None, waiting, _NO_BUNDLES, 0)
        self._subscribers: list[Callable[[Credentials, Credentials], None]] = []
        self._rotations = 0
        self._given: Svid | None = None  # the last one, expired or not
        self._expiry: asyncio.TimerHandle | None = None  # the last one

    @property
    def current(self) -> Credentials:
        """The snapshot to use for a handshake that starts now."""
        return self._current

    @property
    def status(self) -> Mapping[str, object]:
        """Facts for /certs and the status page; never a key.  Sources add theirs in `_facts`."""
        current = self._current
        svid = current.svid
        return {
            "source": self._name,
            "state": "ready" if svid else "not_ready",
            "reason": current.reason,
            "spiffe_id": svid.spiffe_id if svid else None,
            "expires": svid.not_after.isoformat() if svid else None,
            "trust_domains": sorted(name for name, each in current.bundles.items() if each.roots),
            "generation": current.generation,
            "rotations": self._rotations,
            **self._facts(),
        }

    def subscribe(self, changed: Callable[[Credentials, Credentials], None]) -> None:
        """Call `changed(before, after)` on every replacement; it must not raise."""
        self._subscribers.append(changed)

    async def stop(self) -> None:
        """Stop watching expiry; a source stops its own watching first."""
        self._disarm()

    def _facts(self) -> Mapping[str, object]:
        """Return what a source adds to `status`."""
        return {}

    def _replace(
        self,
        svid: Svid | None,
        reason: str,
        bundles: Mapping[str, Bundle],
        jwt_bundles: Mapping[str, JwtBundle] = NO_JWT_BUNDLES,
    ) -> bool:
        """Put a new snapshot in force; return whether anything changed.

        `reason` says why there is no SVID; it is ignored when there is one.  An expired SVID
        counts as none, with a reason of its own.  Must be called on the event loop.
        """
        self._given = svid
        self._watch_expiry()
        if svid is not None and self._clock() > svid.not_after:
            reason, svid = expired_reason(svid), None
        before = self._current
        trust_changed = dict(bundles) != dict(before.bundles)
        jwt_changed = dict(jwt_bundles) != dict(before.jwt_bundles)
        svid_changed = not same_svid(svid, before.svid)
        reason = "" if svid else reason
        if not (trust_changed or jwt_changed or svid_changed or reason != before.reason):
            return False
        if svid and before.svid and svid_changed:
            self._rotations += 1
        self._current = Credentials(
            svid=svid if svid_changed else before.svid,
            reason=reason,
            bundles=MappingProxyType(dict(bundles)) if trust_changed else before.bundles,
            generation=before.generation + trust_changed,
            jwt_bundles=_with_known(jwt_bundles, before.jwt_bundles),
        )
        self._log_change(before)
        for changed in tuple(self._subscribers):
            changed(before, self._current)
        return True

    def _log_change(self, before: Credentials) -> None:
        svid = self._current.svid
        if svid is None and before.svid is not None:
            _log.warning("no identity any more: %s", self._current.reason)
        elif svid is not None and svid is not before.svid:
            _log.info("identity %s until %s", svid.spiffe_id, svid.not_after.isoformat())
        if self._current.generation != before.generation:
            trusted = sorted(name for name, each in self._current.bundles.items() if each.roots)
            _log.info("trusts %s", ", ".join(trusted) or "nobody")
            for line in trust_changes(before.bundles, self._current.bundles):
                _log.info("%s", line)
        for name in sorted({*before.jwt_bundles, *self._current.jwt_bundles}):
            if before.jwt_bundles.get(name) != (after := self._current.jwt_bundles.get(name)):
                _log.info("%s", _jwt_line(name, after))

    def _watch_expiry(self) -> None:
        self._disarm()
        if self._given is None:
            return
        left_s = (self._given.not_after - self._clock()).total_seconds()
        # notAfter itself is still valid (RFC 5280 §4.1.2.5): look just behind it
        nap_s = min(left_s + 0.001, _LONGEST_NAP_S) if left_s >= 0 else _EXPIRED_NAP_S
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(nap_s, self._look_at_expiry)

    def _look_at_expiry(self) -> None:
        current = self._current
        self._replace(self._given, current.reason, current.bundles, current.jwt_bundles)

    def _disarm(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()


def _with_known(
    bundles: Mapping[str, JwtBundle], known: Mapping[str, JwtBundle]
) -> Mapping[str, JwtBundle]:
    """Return `bundles`, in which those that are equal to `known` ones are the same objects: tokens
    that were verified by them needn't be again."""
    return MappingProxyType(
        {name: known[name] if known.get(name) == each else each for name, each in bundles.items()}
    )


def _jwt_line(name: str, bundle: JwtBundle | None) -> str:
    if bundle is None:
        return f"the JWT bundle of {name} is gone: none of its tokens is accepted"
    if bundle.problem:
        return bundle.problem
    usable = sum(each.key is not None for each in bundle.keys.values())
    return f"the JWT bundle of {name} has {usable} usable {'key' if usable == 1 else 'keys'}"


def same_svid(one: Svid | None, other: Svid | None) -> bool:
    """Return whether two SVIDs have equal content; equal leaves have equal keys."""
    if one is None or other is None:
        return one is other
    return (one.spiffe_id, one.chain, one.hint) == (other.spiffe_id, other.chain, other.hint)


def expired_reason(svid: Svid) -> str:
    """Return why an expired SVID is not used, in words."""
    return f"our SVID {svid.spiffe_id} expired at {svid.not_after.isoformat()}"
