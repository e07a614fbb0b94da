"""Renders the answer of /status.json as lines of text, for `uproxy status`.

Pure.  A `Line` has a kind, and the caller decides how the kind looks.  The answer has texts
chosen by peers, so every character that could move a terminal's cursor or reorder text is
replaced first (`printable`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from uproxy.model import Address

GAP = 2
"""Spaces between columns."""
NARROWEST = 8
"""Characters to which a column can be narrowed."""

Status = Mapping[str, Any]
"""The parsed answer of /status.json after `printable`."""


class LineKind(enum.Enum):
    """What a line is, for its style."""

    TITLE = enum.auto()
    HEADING = enum.auto()
    PLAIN = enum.auto()
    GOOD = enum.auto()
    NOTE = enum.auto()
    BAD = enum.auto()


@dataclass(frozen=True, slots=True)
class Line:
    """One line, without a newline."""

    text: str
    kind: LineKind = LineKind.PLAIN


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier answer, from which rates are computed."""

    status: Status
    seconds: float
    """Seconds between the earlier answer and the present one."""


def printable(value: Any) -> Any:
    """Return `value` with each unprintable character (control, text direction) replaced by
    U+FFFD."""
    if isinstance(value, str):
        return "".join(char if char.isprintable() else "\ufffd" for char in value)
    if isinstance(value, dict):
        return {printable(key): printable(member) for key, member in value.items()}
    if isinstance(value, list):
        return [printable(member) for member in value]
    return value


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
        *_top(status, now, asked),
        *_identity(status, now),
        *_section("DOORS", _doors(status), width),
        *_section("DESTINATIONS", _destinations(status), width),
        *_section(f"CONNECTIONS  {status['connections_total']} open",
                  _connections(status, earlier), width),
        *_section("REFUSED LATELY", _denials(status, now), width),
        *_outcomes(status),
    ]  # fmt: skip
    return [Line(_cut(line.text, width), line.kind) for line in lines]


def _top(status: Status, now: datetime, asked: Address | None) -> list[Line]:
    """Return the title, with the reasons for not being ready and the notes."""
    process, readiness = status["process"], status["readiness"]
    trouble = [*status["liveness"], *readiness["reasons"]]
    up = span((now - _time(process["started"])).total_seconds())
    version = process["versions"].get("uproxy", "")
    state = "not ready" if trouble else "ready"
    at = f", asked at {asked}" if asked else ""
    title = f"{process['name']}: {state}   up {up}, pid {process['pid']}, uproxy {version}{at}"
    return [
        Line(title, LineKind.BAD if trouble else LineKind.GOOD),
        *(Line(f"  {reason}", LineKind.BAD) for reason in trouble),
        *(Line(f"  {note}", LineKind.BAD) for note in readiness["notes"]),
    ]


def _identity(status: Status, now: datetime) -> list[Line]:
    """Return our SVID, its source, and the trusted domains."""
    certificates = status["certificates"]
    svid, source = certificates["svid"], certificates["source"]
    lines = [Line(""), Line("IDENTITY", LineKind.HEADING)]
    if svid is None:
        lines.append(Line(certificates["reason"] or "no identity yet", LineKind.BAD))
    else:
        left = (_time(svid["expires"]) - now).total_seconds()
        when = f"expires in {span(left)}" if left > 0 else "expired"
        lines.append(Line(svid["spiffe_id"], LineKind.TITLE))
        lines.append(Line(f"{when}, {source.get('rotations', 0)} rotations since the start"))
    state = str(source.get("state", "unknown")).replace("_", " ")
    lines.append(Line(f"from {source.get('source', 'unknown')}: {state}"))
    names = [f"{domain['name']}{' (our own)' if domain['own'] else ''}"
             for domain in certificates["trust_domains"]]  # fmt: skip
    lines.append(Line(f"trusts {', '.join(names) or 'nobody yet'}"))
    return lines


def _doors(status: Status) -> list[Sequence[str]]:
    return [
        (door["direction"], door["name"], f"{door['listen']} -> {door['to']}", door["transport"],
         _fate(door))
        for door in status["doors"]
    ]  # fmt: skip


def _fate(door: Mapping[str, Any]) -> str:
    """What of the door an operator should know, the worst alone."""
    if not door["open"]:
        return "closed to new connections"
    trouble = door.get("trouble")
    return f"{door['connections']} open" if trouble is None else f"down: {trouble}"


def _destinations(status: Status) -> list[Sequence[str]]:
    """Return a row for each endpoint."""
    rows: list[Sequence[str]] = []
    for destination in status["destinations"]:
        for endpoint in destination["endpoints"]:
            fate = f"{endpoint['connections']} open"
            if endpoint["passed_over"]:
                fate = f"passed over: {endpoint['reason'] or 'it failed'}"
            rows.append((destination["name"], endpoint["address"], destination["transport"], fate))
        unresolved = destination.get("unresolved", [])
        for each in unresolved:
            why = f"can't be resolved: {each['reason']}"
            rows.append((destination["name"], each["name"], destination["transport"], why))
        if not destination["endpoints"] and not unresolved:
            rows.append((destination["name"], "no address yet", destination["transport"], ""))
    return rows


def _connections(status: Status, earlier: Earlier | None) -> list[Sequence[str]]:
    """Return a row for each connection, with its rate since the earlier answer."""
    before = {row["id"]: row for row in earlier.status["connections"]} if earlier else {}
    rows: list[Sequence[str]] = []
    for row in status["connections"]:
        then = before.get(row["id"])
        received, sent = row["bytes_received"], row["bytes_sent"]
        rate = ""
        if then and earlier and earlier.seconds > 0:
            moved = received + sent - then["bytes_received"] - then["bytes_sent"]
            rate = f"{size(moved / earlier.seconds)}/s"
        rows.append((
            "in" if row["direction"] == "inbound" else "out",
            row["identity"] or "no identity",
            f"{row['source']} -> {row['endpoint'] or '...'}",
            row["state"].replace("_", " "),
            span(row["age"]),
            f"{size(received)} received",
            f"{size(sent)} sent",
            rate,
        ))  # fmt: skip
    return rows


def _denials(status: Status, now: datetime) -> list[Sequence[str]]:
    """Return a row for each denial."""
    return [
        (f"{span((now - _time(row['at'])).total_seconds())} ago", _denied(row),
         row["identity"] or _claimed(row), f"{row['source']} -> {row['door']}",
         f"{row['reason']} ({row['rule']})" if row["rule"] else row["reason"])
        for row in status["denials"]
    ]  # fmt: skip


def _claimed(row: Mapping[str, Any]) -> str:
    """Who somebody without a proven identity said to be."""
    serial = row.get("unproven_serial")
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


def _section(heading: str, rows: list[Sequence[str]], width: int | None) -> list[Line]:
    """Return a heading and the rows as a table."""
    lines = [Line(""), Line(heading, LineKind.HEADING)]
    if not rows:
        return [*lines, Line("none")]
    widths = _widths(rows, width)
    for row in rows:
        cells = (_cut(cell, room).ljust(room) for cell, room in zip(row, widths, strict=True))
        lines.append(Line((" " * GAP).join(cells).rstrip()))
    return lines


def _widths(rows: list[Sequence[str]], width: int | None) -> list[int]:
    """Return the widths of the columns; if they don't fit into `width`, narrow the widest ones."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    while width is not None and sum(widths) + GAP * (len(widths) - 1) > width:
        widest = widths.index(max(widths))
        if widths[widest] <= NARROWEST:
            break  # too narrow for a table: the line is cut
        widths[widest] -= 1
    return widths


def _cut(text: str, width: int | None) -> str:
    """Return `text` cut to `width` characters, a SPIFFE ID in its middle."""
    if width is None or len(text) <= width:
        return text
    if text.startswith("spiffe://") and width > NARROWEST:
        # keep the trust domain and the end of the path
        head = width // 2
        return f"{text[:head]}…{text[head + 1 - width :]}"
    return text[: width - 1] + "…" if width > 1 else text[:width]


def span(seconds: float) -> str:
    """Return seconds in the two largest units that fit."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """Return bytes in the largest unit that fits."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
