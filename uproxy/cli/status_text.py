"""Renders the answer of /status.json as lines of text, for `uproxy status`.

Pure.  What is wrong comes first, every cause once; the open connections come last.  The answer has
texts chosen by peers, so every character that could move a terminal's cursor or reorder text has to
be replaced before (`printable`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from uproxy.cli.status_lines import Line, LineKind, counted, cut, size, span, table, wrapped
from uproxy.model import Address

DENIALS_SHOWN = 15

Status = Mapping[str, Any]
"""The parsed answer of /status.json after `printable`."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier answer, from which rates are computed."""

    status: Status
    seconds: float
    """Seconds between the earlier answer and the present one."""


def is_ready(status: Status) -> bool:
    """Return whether the uProxy is ready, and all of its parts respond."""
    return not status["liveness"] and not status["readiness"]["reasons"]


def render(
    status: Status,
    width: int | None = None,
    earlier: Earlier | None = None,
    *,
    asked: Address | None = None,
) -> list[Line]:
    """Return all lines, cut to `width` characters; None: not cut.

    Args:
        earlier: the answer before, for rates.
        asked: the address that gave the answer, which is shown.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: `status` isn't what
            uProxy answers.
    """
    now = _time(status["now"])
    lines = [
        *_headline(status, now, width),
        _process(status, now, asked),
        *_troubles(status, now, width),
        *_denials(status, now, width),
        *table("DOORS", _doors(status, now), width),
        *table("DESTINATIONS", _destinations(status), width),
        *_l7_proxies(status, width),
        *_rates(status, width),
        *_identity(status, now),
        *_outcomes(status),
        *table(_connections_heading(status), _peers(status, earlier), width),
    ]
    return [Line(cut(line.text, width), line.kind) for line in lines]


_KINDS = {"bad": LineKind.BAD, "warn": LineKind.NOTE, "note": LineKind.PLAIN, "good": LineKind.GOOD}


def _headline(status: Status, now: datetime, width: int | None) -> list[Line]:
    """Return what is wrong, since when and whose turn it is: one line, or as many as it takes."""
    headline = status["headline"]
    state = "ready" if is_ready(status) else "not ready"
    since, turn = _lasting(headline["since"], now), "; ".join(headline["turn"])
    whose = f", turn: {turn}" if turn else ""
    text = f"{status['process']['name']}: {state}: {headline['words']}{since}{whose}"
    return wrapped(text, width, "  ", _KINDS[headline["level"]])


def _process(status: Status, now: datetime, asked: Address | None) -> Line:
    """Return which process it is, and where it was asked."""
    process = status["process"]
    up = span((now - _time(process["started"])).total_seconds())
    version = process["versions"].get("uproxy", "")
    at = f", asked at {asked}" if asked else ""
    return Line(f"up {up}, pid {process['pid']}, uproxy {version}, {process['config']}{at}")


def _troubles(status: Status, now: datetime, width: int | None) -> list[Line]:
    """Return every cause but refusals, each with since when and whose turn it is."""
    lines: list[Line] = []
    for trouble in status["troubles"]:
        kind, words = _KINDS[trouble["level"]], trouble["words"]
        if trouble["level"] != "note":
            words += f"{_lasting(trouble['since'], now)}, turn: {trouble['turn']}"
        lines += wrapped(f"- {words}", width, "  ", kind)
        if trouble["kind"] == "configuration":
            for mistake in _mistakes(status["stale"]):
                lines += wrapped(f"  - {mistake}", width, "    ", kind)
    more = status["troubles_total"] - len(status["troubles"])
    return [*lines, *([Line(f"- {more} more")] if more > 0 else [])]


def _mistakes(stale: Mapping[str, Any]) -> list[str]:
    """Return the mistakes of the file that isn't in force."""
    more = stale["mistakes_total"] - len(stale["mistakes"])
    return [*stale["mistakes"], *([f"and {more} more"] if more > 0 else [])]


def _lasting(since: str | None, now: datetime) -> str:
    """Return for how long, with a comma before it; empty if that is unknown."""
    return "" if since is None else f", for {span((now - _time(since)).total_seconds())}"


def _told(status: Status, reason: str | None) -> bool:
    """Return whether one of the causes at the top says this already."""
    return bool(reason) and any(str(reason) in each["words"] for each in status["troubles"])


def _identity(status: Status, now: datetime) -> list[Line]:
    """Return our SVID, its source, and the trusted domains."""
    certificates = status["certificates"]
    svid, source = certificates["svid"], certificates["source"]
    lines = [Line(""), Line("IDENTITY", LineKind.HEADING)]
    if svid is None:
        reason = certificates["reason"] or "none yet"
        lines.append(Line("none" if _told(status, reason) else reason, LineKind.BAD))
    else:
        left = (_time(svid["expires"]) - now).total_seconds()
        when = f"expires in {span(left)}" if left > 0 else "expired"
        rotations = source.get("rotations", 0)
        lines.append(Line(svid["spiffe_id"], LineKind.TITLE))
        lines.append(Line(f"{when}, {counted(rotations, 'rotation')} since the start"))
    state = str(source.get("state", "unknown")).replace("_", " ")
    lines.append(Line(f"from {source.get('source', 'unknown')}: {state}"))
    names = [f"{domain['name']}{' (our own)' if domain['own'] else ''}"
             for domain in certificates["trust_domains"]]  # fmt: skip
    lines.append(Line(f"trusts {', '.join(names) or 'nobody yet'}"))
    return lines


def _doors(status: Status, now: datetime) -> list[Sequence[str]]:
    return [
        (door["direction"], door["name"], f"{door['listen']} -> {door['to']}", door["transport"],
         _fate(status, door, now))
        for door in status["doors"]
    ]  # fmt: skip


def _fate(status: Status, door: Mapping[str, Any], now: datetime) -> str:
    """Return what of the door an operator should know, the worst alone."""
    if not door["open"]:
        return "closed to new connections"
    reason = door["trouble"]
    if reason is None:
        tunnels = f" in {counted(door['tunnels'], 'tunnel')}" if door.get("tunnels") else ""
        return f"{door['connections']:,} open{tunnels}"
    why = "" if _told(status, reason) else f": {reason}"
    return f"down{_lasting(door['trouble_since'], now)}{why}"


def _destinations(status: Status) -> list[Sequence[str]]:
    """Return a row for each endpoint."""
    rows: list[Sequence[str]] = []
    for destination in status["destinations"]:
        how, end = destination["transport"], destination.get("tunnel_end")
        if end is not None:
            how = f"{how} to {end}"
        if destination.get("via") is not None:
            how = f"{destination['transport']} via {destination['via']}"
        for endpoint in destination["endpoints"]:
            fate, reason = f"{endpoint['connections']:,} open", endpoint["reason"]
            if reason:
                why = "" if _told(status, reason) else f": {reason}"
                fate = f"{'passed over' if endpoint['passed_over'] else 'failed'}{why}"
            rows.append((destination["name"], endpoint["address"], how, fate))
        unresolved = destination["unresolved"]
        for each in unresolved:
            why = "" if _told(status, each["reason"]) else f": {each['reason']}"
            why = f"can't be resolved{why}"
            rows.append((destination["name"], each["name"], how, why))
        if not destination["endpoints"] and not unresolved:
            where = "original destinations" if destination.get("original") else "no address yet"
            rows.append((destination["name"], where, how, ""))
    return rows


def _l7_proxies(status: Status, width: int | None) -> list[Line]:
    """Return a row for each address of each L7 proxy; nothing where there is none."""
    rows: list[Sequence[str]] = []
    for proxy in status.get("l7_proxies", ()):
        to = ", ".join(each["name"] for each in proxy["destinations"]) or "nobody"
        for each in proxy["endpoints"]:
            fate, reason = f"{each['connections']:,} open", each["reason"]
            if each["draining"]:
                fate = f"draining, {fate}"
            if reason:
                why = "" if _told(status, reason) else f": {reason}"
                fate = f"{fate}, {'passed over' if each['passed_over'] else 'failed'}{why}"
            rows.append((proxy["name"], each["address"], f"for {to}", fate))
        if not proxy["endpoints"]:
            rows.append((proxy["name"], "no address yet", f"for {to}", ""))
    return table("L7 PROXIES", rows, width) if rows else []


def _rates(status: Status, width: int | None) -> list[Line]:
    """Return a small chart for each rate of the last quarter of an hour."""
    rates = status["rates"]
    if not rates["opened"]:
        return []
    lines = [Line(""), Line("THE LAST QUARTER OF AN HOUR", LineKind.HEADING)]
    for name, words, unit in _RATES:
        steps = rates[name]
        label = f"{words:<{_LABEL}}{unit(steps[-1]):>12}, at most {unit(max(steps)):<12}"
        room = len(steps) if width is None else max(0, width - len(label))
        lines.append(Line(f"{label}{_chart(steps[-room:] if room else [])}"))
    return lines


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 or rate == 0 else f"{rate:.{2 if rate < 1 else 1}f}/s"


_LABEL = 23
_RATES = (
    ("opened", "opened", _per_second),
    ("failed", "refused or not reached", _per_second),
    ("received", "received", lambda rate: f"{size(rate)}/s"),
    ("sent", "sent", lambda rate: f"{size(rate)}/s"),
)
_BARS = "▁▂▃▄▅▆▇█"


def _chart(steps: Sequence[float]) -> str:
    """Return a bar for each step; the highest is the most of them."""
    most = max(steps, default=0)
    top = len(_BARS) - 1
    # the quotient first: `7 * most / most` may be a little more than 7
    return "".join(_BARS[math.ceil(top * (step / most)) if most else 0] for step in steps)


def _connections_heading(status: Status) -> str:
    total = status["connections_total"]
    peers = f", {counted(status['peers_total'], 'peer')}" if total else ""
    return f"CONNECTIONS  {total:,} open{peers}"


def _peers(status: Status, earlier: Earlier | None) -> list[Sequence[str]]:
    """Return a row for each peer, with the rate since the earlier answer."""
    before = {_peer(row): row for row in earlier.status["peers"]} if earlier else {}
    rows: list[Sequence[str]] = []
    for row in status["peers"]:
        received, sent = row["bytes_received"], row["bytes_sent"]
        then, rate = before.get(_peer(row)), ""
        if then and earlier and earlier.seconds > 0:
            moved = received + sent - then["bytes_received"] - then["bytes_sent"]
            rate = f"{size(max(0, moved) / earlier.seconds)}/s"
        rows.append((
            "in" if row["direction"] == "inbound" else "out",
            row["identity"] or f"no identity, {row['host']}",
            row["destination"],
            f"{row['connections']:,} open",
            f"oldest {span(row['oldest'])}",
            f"{size(received)} received",
            f"{size(sent)} sent",
            rate,
        ))  # fmt: skip
    more = status["peers_total"] - len(rows)
    if more > 0:
        rows.append(("", f"{counted(more, 'more peer')}: /connections", *[""] * 6))
    return rows


def _peer(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells the rows of peers apart."""
    return row["direction"], row["identity"], row["host"], row["destination"]


def _denials(status: Status, now: datetime, width: int | None) -> list[Line]:
    """Return two lines for each of the newest denials: who, and why."""
    denials = status["denials"][:DENIALS_SHOWN]
    rows: list[Sequence[str]] = [
        (f"{span((now - _time(row['at'])).total_seconds())} ago", _denied(row),
         _proven(row) or _claimed(row), f"{row['source']} -> {row['door']}")
        for row in denials
    ]  # fmt: skip
    lines = table("REFUSED OR NOT REACHED LATELY", rows, width)
    if not denials:
        return lines
    shown = lines[: -len(denials)]
    for line, row in zip(lines[-len(denials) :], denials, strict=True):
        shown += [line, *wrapped(f"    {_why(status, row)}", width, "    ")]
    more = len(status["denials"]) - len(denials)
    return [*shown, *([Line(f"{more} more: --json has them")] if more else [])]


def _why(status: Status, row: Mapping[str, Any]) -> str:
    if _told(status, row["reason"]):
        return "as above"
    return f"{row['reason']} ({row['rule']})" if row["rule"] else str(row["reason"])


def _proven(row: Mapping[str, Any]) -> str | None:
    """Who was refused, and through which L7 proxy; None: nobody known."""
    via = row.get("via")
    return row["identity"] if via is None else f"{row['identity']} via {via}"


def _claimed(row: Mapping[str, Any]) -> str:
    """Who somebody without a proven identity said to be."""
    serial = row.get("unproven_serial")
    if serial is None and row["direction"] == "outbound":
        return f"to {row['destination'] or row['door']}"
    if serial is None:
        return "no identity"
    return f"{row['unproven_identity'] or 'no SPIFFE ID'}, not proven (serial {serial})"


def _denied(row: Mapping[str, Any]) -> str:
    """The outcome, and how often."""
    outcome: str = row["outcome"].replace("_", " ")
    return outcome if row["count"] == 1 else f"{outcome} {row['count']:,}x"


def _outcomes(status: Status) -> list[Line]:
    counts = sorted(status["outcomes"].items(), key=lambda item: -item[1])
    if not counts:
        return []
    words = "   ".join(f"{outcome.replace('_', ' ')} {count:,}" for outcome, count in counts)
    return [Line(""), Line("ENDED", LineKind.HEADING), Line(words)]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
