"""Says what is wrong, since when, and whose turn it is: every cause once, and all in one line.

Pure: it looks at the rows of one moment.  Refusals have a table of their own, with their reasons;
here they are only counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from uproxy.model import Outcome
from uproxy.proxy.admin.causes import Headline, Kind, Level, Trouble
from uproxy.proxy.admin.facts import (
    Certificates,
    DenialRow,
    DestinationRow,
    DoorRow,
    EndpointRow,
)
from uproxy.proxy.admin.l7_rows import L7EndpointRow, L7ProxyRow
from uproxy.proxy.admin.overview import LostRow, Stale
from uproxy.proxy.admin.vitals import Readiness

LATELY: Final = timedelta(minutes=15)
"""How long a refusal counts as trouble."""

TURNS_SHOWN: Final = 5
"""How many of those who can end trouble the headline names."""

LOW: Final = 4
"""The certificate should have been renewed when one part in LOW of its life is left."""

_RUNNER: Final = "whoever runs this uProxy"


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that can be wrong, at one moment."""

    now: datetime
    readiness: Readiness
    liveness: tuple[str, ...]
    certificates: Certificates
    doors: tuple[DoorRow, ...]
    destinations: tuple[DestinationRow, ...]
    l7_proxies: tuple[L7ProxyRow, ...]
    denials: tuple[DenialRow, ...]
    stale: Stale | None
    lost: tuple[LostRow, ...] = ()


def find(moment: Moment) -> tuple[Trouble, ...]:
    """Return every cause of trouble but refusals, the worst first."""
    found = (
        *_of_process(moment),
        *_of_applications(moment.doors),
        *_of_destinations(moment),
        *_of_l7_proxies(moment.l7_proxies),
        *_of_notes(moment),
        *_of_certificate(moment),
    )
    return tuple(sorted(found, key=lambda trouble: trouble.level.rank))


def headline(moment: Moment, troubles: Iterable[Trouble]) -> Headline:
    """Return all trouble in one line."""
    wrong = [each for each in troubles if each.level is not Level.NOTE]
    refused = _refused(moment)
    counts = Counter(each.kind for each in wrong)
    counts.update({kind: len(rows) for kind, rows in refused.items()})
    more_of = {_kind(lost) for lost in moment.lost if moment.now - lost.at <= LATELY}
    words = [kind.words(counts[kind], or_more=kind in more_of) for kind in Kind if counts[kind]]
    words = words or ["nothing is wrong"]
    if moment.certificates.svid is not None and not counts.keys() & _ABOUT_CERTIFICATE:
        words.append("certificate fine")
    rows = [row for by_name in refused.values() for row in by_name.values()]
    begun = [*(each.since for each in wrong), *(row.since or row.at for row in rows)]
    refusers = (turn for row in rows for turn in _turns(row, moment.certificates))
    turns = tuple(dict.fromkeys((*(each.turn for each in wrong), *refusers)))
    more = len(turns) - TURNS_SHOWN
    return Headline(
        level=_worst([*(each.level for each in wrong), *([Level.WARN] if rows else [])]),
        words=", ".join(words),
        since=min((each for each in begun if each is not None), default=None),
        turn=(*turns[:TURNS_SHOWN], f"{more} more") if more > 0 else turns,
    )


_ABOUT_CERTIFICATE: Final = {Kind.IDENTITY, Kind.RENEWAL, Kind.CERTIFICATE}


def _worst(levels: Iterable[Level]) -> Level:
    return min(levels, key=lambda level: level.rank, default=Level.GOOD)


# What can be wrong.


def _of_process(moment: Moment) -> Iterator[Trouble]:
    """Yield why this uProxy isn't alive or ready."""
    since = moment.readiness.since
    for words in moment.liveness:
        yield Trouble(Kind.STUCK, Level.BAD, words, _since(words, since), f"{_RUNNER}: restart it")
    for words in moment.readiness.reasons:
        kind, level, turn = _reason(words, moment.certificates)
        yield Trouble(kind, level, words, _since(words, since), turn)


def _reason(words: str, certificates: Certificates) -> tuple[Kind, Level, str]:
    """Return what a reason for not being ready is about, how bad it is, and whose turn it is."""
    if words.startswith("starting"):
        return Kind.STARTING, Level.WARN, "nobody: it is starting"
    if words.startswith("draining"):
        return Kind.DRAINING, Level.WARN, "nobody: it was told to drain"
    if words.startswith("no identity"):
        return Kind.IDENTITY, Level.BAD, _issuer(certificates)
    return Kind.TRUST, Level.BAD, _issuer(certificates)


def _of_applications(doors: Iterable[DoorRow]) -> Iterator[Trouble]:
    """Yield each inbound door's application that can't be reached."""
    for door in doors:
        if door.direction == "inbound" and door.trouble is not None:
            words = f"the application of door {door.name} is down: {door.trouble}"
            turn = f"whoever runs the application at {door.to}"
            yield Trouble(Kind.APPLICATION, Level.BAD, words, door.trouble_since, turn)


def _of_destinations(moment: Moment) -> Iterator[Trouble]:
    """Yield names that can't be resolved, each destination that can't be reached, and failing
    addresses of the others."""
    for to in moment.destinations:
        yield from _of_names(to)
        failing = [each for each in to.endpoints if each.since is not None]
        if _is_down(to):
            begun, last = max(each.since for each in failing if each.since is not None), failing[-1]
            words, turn = f"destination {to.name} is down: {last.reason}", _whose(moment, to, last)
            yield Trouble(Kind.DESTINATION, Level.BAD, words, begun, turn)
            continue
        for each in failing:
            words, turn = f"an address of {to.name} fails: {each.reason}", _whose(moment, to, each)
            yield Trouble(Kind.ADDRESS, Level.WARN, words, each.since, turn)


def _is_down(to: DestinationRow) -> bool:
    return bool(to.endpoints) and all(each.since is not None for each in to.endpoints)


def _whose(moment: Moment, to: DestinationRow, failing: EndpointRow) -> str:
    """Return whose turn it is when an address of a destination fails: its runner's, unless the
    refusal with the same reason says more."""
    for row in moment.denials:
        if row.direction == "outbound" and (row.destination, row.reason) == (
            to.name,
            failing.reason,
        ):
            return " or ".join(_turns(row, moment.certificates))
    return f"whoever runs {to.name}"


def _of_names(to: DestinationRow) -> Iterator[Trouble]:
    # what was resolved before stays in use
    level = Level.WARN if to.endpoints else Level.BAD
    for each in to.unresolved:
        words = f"{each.name} can't be resolved: {each.reason} (destination {to.name})"
        yield Trouble(Kind.NAME, level, words, each.since, f"whoever gives {each.name} its address")


def _of_l7_proxies(proxies: Iterable[L7ProxyRow]) -> Iterator[Trouble]:
    """Yield each L7 proxy that can't be used, and failing addresses of the others."""
    for proxy in proxies:
        turn = f"whoever runs L7 proxy {proxy.name}"
        for name in proxy.unresolved:
            words = f"{name.name} can't be resolved: {name.reason} (L7 proxy {proxy.name})"
            level = Level.WARN if proxy.endpoints else Level.BAD
            turn_of_name = f"whoever gives {name.name} its address"
            yield Trouble(Kind.NAME, level, words, name.since, turn_of_name)
        failing = [each for each in proxy.endpoints if each.reason is not None]
        if proxy.endpoints and not proxy.usable:
            yield _down(proxy, failing, turn)
            continue
        for each in failing:
            words = f"an address of L7 proxy {proxy.name} fails: {each.reason}"
            yield Trouble(Kind.ADDRESS, Level.WARN, words, each.since, turn)


def _down(proxy: L7ProxyRow, failing: list[L7EndpointRow], turn: str) -> Trouble:
    why = failing[-1].reason if failing else "each of its addresses is draining"
    begun = [each.since for each in failing if each.since is not None]
    if proxy.tried_all_the_same:
        words = (
            f"no address of L7 proxy {proxy.name} passes its health check, so all are tried: {why}"
        )
        return Trouble(Kind.L7_PROXY, Level.WARN, words, None, f"{turn}, or has set its `health`")
    if proxy.when_unavailable == "bypass":
        words = f"connections go past L7 proxy {proxy.name}, without its policy: {why}"
    else:
        words = f"L7 proxy {proxy.name} can't be used: {why}"
    return Trouble(Kind.L7_PROXY, Level.BAD, words, max(begun, default=None), turn)


def _of_notes(moment: Moment) -> Iterator[Trouble]:
    """Yield what doesn't affect readiness."""
    since = moment.readiness.since
    stale = moment.stale
    if stale is not None:
        words = f"{stale.file} is not in force"
        turn = f"whoever wrote {stale.file.rpartition('/')[2]}"
        yield Trouble(Kind.CONFIGURATION, Level.WARN, words, stale.since, turn)
    for note in moment.readiness.notes:
        word, _, rest = note.partition(": ")
        if word != "config_stale":
            kind, level, turn = _note(word, moment.certificates)
            yield Trouble(kind, level, rest or note, _since(note, since), turn)


def _note(word: str, certificates: Certificates) -> tuple[Kind, Level, str]:
    """Return what a note is about, how bad it is, and whose turn it is."""
    match word:
        case "identity_stale":
            return Kind.RENEWAL, Level.WARN, _issuer(certificates)
        case "distrusted":
            return Kind.DISTRUSTED, Level.WARN, _issuer(certificates)
        case "jwt_bundles_stale" | "token_missing" | "token_stale":
            return Kind.OTHER, Level.WARN, _issuer(certificates)
        case "limits_near":
            return Kind.LIMIT, Level.WARN, _RUNNER
    return Kind.OTHER, Level.NOTE, _RUNNER


def _of_certificate(moment: Moment) -> Iterator[Trouble]:
    """Yield a certificate that should have been renewed long ago, unless a note says why."""
    svid = moment.certificates.svid
    if svid is None or any(note.startswith("identity_stale") for note in moment.readiness.notes):
        return
    due = svid.expires - (svid.expires - svid.not_before) / LOW
    if moment.now >= due:
        words = f"the certificate expires at {svid.expires:%H:%M:%S} UTC and hasn't been renewed"
        yield Trouble(Kind.CERTIFICATE, Level.WARN, words, due, _issuer(moment.certificates))


def _issuer(certificates: Certificates) -> str:
    """Return who gives us certificates."""
    source = certificates.source
    if source.get("source") == "files":
        return "whoever renews the identity's files"
    return f"the SPIFFE agent at {source.get('address', 'the Workload API')}"


def _since(words: str, since: Mapping[str, datetime]) -> datetime | None:
    return since.get(words.partition(": ")[0])


# Refusals.


def _refused(moment: Moment) -> dict[Kind, dict[str, DenialRow]]:
    """Return a denial of each caller and each destination of the last quarter of an hour, by what
    was refused.  Of several it is the one that began first."""
    found: dict[Kind, dict[str, DenialRow]] = {}
    down = {to.name for to in moment.destinations if _is_down(to)}
    for row in moment.denials:
        kind = _kind(row)
        told = row.direction == "outbound" and row.destination in down
        if kind is None or told or moment.now - row.at > LATELY:
            continue
        by_name, name = found.setdefault(kind, {}), _name(row)
        before = by_name.get(name)
        if before is None or (row.since or row.at) < (before.since or before.at):
            by_name[name] = row
    return found


def _kind(row: DenialRow | LostRow) -> Kind | None:
    """Return what a denial counts as; None: as nothing, since its cause is found elsewhere."""
    if row.outcome in _OF_OTHER_CAUSE:
        return None
    if row.outcome in (Outcome.PEER_REFUSED, Outcome.L7_REFUSED):
        return Kind.REFUSED_THERE
    if row.direction == "inbound":
        return Kind.CALLERS
    if row.outcome == Outcome.NO_DESTINATION:
        return Kind.NO_DESTINATION
    return Kind.HANDSHAKES if row.outcome == Outcome.HANDSHAKE_FAILED else Kind.PEERS


_OF_OTHER_CAUSE: Final = (
    Outcome.CONNECT_FAILED, Outcome.TIMED_OUT, Outcome.NO_IDENTITY, Outcome.L7_UNAVAILABLE,
)  # fmt: skip


def _name(row: DenialRow) -> str:
    """Return what distinguishes callers, or destinations."""
    if row.direction == "outbound":
        return row.destination or row.door
    return row.identity or row.source.rpartition(":")[0]


def _turns(row: DenialRow, certificates: Certificates) -> tuple[str, ...]:
    """Return who can end a refusal, each of them alone."""
    if row.outcome == Outcome.NO_DESTINATION:
        is_ours = row.direction == "outbound"
        return ("the application", "who writes the destinations here") if is_ours else (
            "the callers", "who writes the doors here")  # fmt: skip
    peer = f"whoever runs {_name(row)}" if row.direction == "outbound" else "the callers"
    ours = row.rule in _OUR_TRUST or row.reason.startswith("no root of ")
    if row.outcome == Outcome.PEER_UNTRUSTED and ours:
        return _issuer(certificates), peer
    if row.outcome == Outcome.PEER_UNEXPECTED:
        return peer, f"who writes the `identities` of {_name(row)} here"
    if row.outcome in (Outcome.DENIED, Outcome.POLICY_CHANGED) and row.direction == "inbound":
        return peer, "who writes the rules here"
    return (peer,)


_OUR_TRUST: Final = ("X5-17", "TB-5", "UP-3", "UP-4")
"""The rules that a peer breaks because of a bundle or a CRL that we lack, or can't use.  Where no
root signed its chain, our bundle may be the old one."""
