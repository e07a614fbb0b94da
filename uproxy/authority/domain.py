"""One trust domain over time: which CA signs, which SVIDs are valid, which are revoked.

No sockets and no clock: `tick(now)` does what is due, and `due()` says when to call it next.
Rules: an SVID is renewed after half its life; a new CA is published (both roots are in the
bundle) before it signs, and the old root stays in the bundle until the last SVID under it has
expired; a revoked identity gets no new SVID, and its old ones stay on their issuer's CRL until
they expire.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.authority.ca import BACKDATE, IssuedSvid, Revoked, Signer
from uproxy.authority.definition import CallingProcess, DomainDefinition, EntryDefinition
from uproxy.authority.jwt_keys import PUBLISH_FIRST, JwtKeys


@dataclass(frozen=True, slots=True)
class _Issue:
    """An SVID that was handed out and hasn't expired, and who signed it."""

    signer: Signer
    svid: IssuedSvid


@dataclass(frozen=True, slots=True)
class _RevocationList:
    signer: Signer
    revoked: tuple[Revoked, ...]
    der: bytes
    renew_at: datetime


class Domain:
    """One trust domain of the authority."""

    def __init__(self, definition: DomainDefinition, now: datetime) -> None:
        self.definition = definition
        self.jwt_keys = JwtKeys(definition.name, now, timedelta(seconds=definition.ca_ttl))
        self._active = self._new_signer(now)
        self._next: tuple[Signer, datetime] | None = None  # set between publishing and signing
        self._retired: list[Signer] = []
        self._current: dict[str, _Issue] = {}
        self._issues: list[_Issue] = []
        self._lists: list[_RevocationList] = []
        self._list_number = 0
        self.tick(now)

    @property
    def bundle(self) -> bytes:
        """All trust anchors now valid, as concatenated DER."""
        signers = [*self._retired, self._active, *(self._next or ())[:1]]
        return b"".join(signer.root.public_bytes(Encoding.DER) for signer in signers)

    @property
    def crls(self) -> tuple[bytes, ...]:
        """The current CRLs (DER), one for each CA; empty while nothing is revoked."""
        return tuple(one.der for one in self._lists)

    def svids_for(self, caller: CallingProcess) -> tuple[tuple[EntryDefinition, IssuedSvid], ...]:
        """Return (entry, SVID) of each identity this process may have, in the file's order."""
        found: dict[str, tuple[EntryDefinition, IssuedSvid]] = {}
        for entry in self.definition.entries:
            issue = self._current.get(entry.spiffe_id)
            if issue is not None and entry.selects(caller):
                found.setdefault(entry.spiffe_id, (entry, issue.svid))
        return tuple(found.values())

    def token_for(self, spiffe_id: str, audience: tuple[str, ...], now: datetime) -> str:
        """Return a new JWT-SVID of an identity that `svids_for` says the caller may have."""
        ttl = timedelta(seconds=self.definition.jwt_ttl)
        return self.jwt_keys.sign(spiffe_id, audience, now, ttl)

    def apply(self, definition: DomainDefinition, now: datetime) -> None:
        """Use a changed definition: rotate the CA, renew or revoke what it changes."""
        before, self.definition = self.definition, definition
        if (before.ca, before.intermediate) != (definition.ca, definition.intermediate):
            self.rotate_ca(now)
        if before.ttl != definition.ttl:
            self.renew(now)
        self.tick(now)

    def rotate_ca(self, now: datetime) -> None:
        """Publish a new CA and a new key for tokens that will sign after PUBLISH_FIRST.  Does
        nothing during a rotation."""
        self.jwt_keys.rotate(now)
        if self._next is None:
            self._next = (self._new_signer(now), now + PUBLISH_FIRST)

    def renew(self, now: datetime) -> None:
        """Replace every SVID by a new one now."""
        self._current.clear()
        self.tick(now)

    def tick(self, now: datetime) -> None:
        """Do everything that is due at `now`."""
        self._issues = [one for one in self._issues if one.svid.leaf.not_valid_after_utc > now]
        self.jwt_keys.tick(now)
        self._rotate_signers(now)
        self._issue(now)
        self._revoke(now)

    def due(self) -> datetime:
        """Return when `tick` must be called next."""
        times = [self.jwt_keys.due()]
        times += [_renewal(issue.svid) for issue in self._current.values()]
        times += [end for signer in self._retired if (end := self._last_expiry(signer))]
        times += [one.renew_at for one in self._lists]
        times.append(self._next[1] if self._next else self._active.half_life)
        return min(times)

    @property
    def _ttl(self) -> timedelta:
        return timedelta(seconds=self.definition.ttl)

    def _new_signer(self, now: datetime) -> Signer:
        definition = self.definition
        lifetime = timedelta(seconds=definition.ca_ttl)
        return Signer(definition.name, now, lifetime, with_intermediate=definition.intermediate)

    def _rotate_signers(self, now: datetime) -> None:
        """Start a rotation that is due, let the next CA sign once it has been published long
        enough, and drop retired CAs without valid SVIDs."""
        if self._next is None and now >= self._active.half_life:
            self.rotate_ca(now)
        # after a suspend the old CA may have expired: then there is no reason to wait
        if self._next is not None and (now >= self._next[1] or now >= self._active.not_after):
            self._retired.append(self._active)
            self._active, self._next = self._next[0], None
            self._current.clear()
        self._retired = [signer for signer in self._retired if self._last_expiry(signer)]

    def _issue(self, now: datetime) -> None:
        """Drop SVIDs no longer wanted or due for renewal, and issue those that are missing."""
        revoked = set(self.definition.revoke)
        wanted = {entry.spiffe_id for entry in self.definition.entries} - revoked
        self._current = {
            spiffe_id: issue for spiffe_id, issue in self._current.items()
            if spiffe_id in wanted and now < _renewal(issue.svid)
        }  # fmt: skip
        for spiffe_id in sorted(wanted - self._current.keys()):
            svid = self._active.issue(spiffe_id, now, self._ttl)
            self._current[spiffe_id] = _Issue(self._active, svid)
            self._issues.append(self._current[spiffe_id])

    def _revoke(self, now: datetime) -> None:
        """Bring the CRLs up to date; sign only those whose contents changed or that are due."""
        before = {one.signer: one for one in self._lists}
        known = {revoked.serial: revoked for one in self._lists for revoked in one.revoked}
        self._lists = []
        for signer in [*self._retired, self._active]:
            revoked = self._revoked_of(signer, known, now)
            if not revoked:
                continue
            last = before.get(signer)
            if last is None or last.revoked != revoked or last.renew_at <= now:
                last = self._sign_list(signer, revoked, now)
            self._lists.append(last)

    def _revoked_of(
        self, signer: Signer, known: dict[int, Revoked], now: datetime
    ) -> tuple[Revoked, ...]:
        """Return the revoked certificates among those this signer issued.

        `known` holds those already on a CRL, by serial number: they keep their revocation date.
        """
        found = []
        for issue in self._issues:
            leaf = issue.svid.leaf
            serial = leaf.serial_number
            if issue.signer is signer and (
                serial in known or issue.svid.spiffe_id in self.definition.revoke
            ):
                found.append(known.get(serial) or Revoked(serial, now, leaf.not_valid_after_utc))
        return tuple(found)

    def _sign_list(
        self, signer: Signer, revoked: tuple[Revoked, ...], now: datetime
    ) -> _RevocationList:
        """Sign a CRL with the next CRL number."""
        self._list_number += 1
        der = signer.revocation_list(revoked, self._list_number, now, self._ttl)
        return _RevocationList(signer, revoked, der, now + self._ttl / 2)

    def _last_expiry(self, signer: Signer) -> datetime | None:
        """Return when the last SVID of this signer expires; None: none is left."""
        ends = [one.svid.leaf.not_valid_after_utc for one in self._issues if one.signer is signer]
        return max(ends, default=None)


def _renewal(svid: IssuedSvid) -> datetime:
    """Return when an SVID is due for renewal: half its life after its issue."""
    start = svid.leaf.not_valid_before_utc + BACKDATE
    return start + (svid.leaf.not_valid_after_utc - start) / 2
