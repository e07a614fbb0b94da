"""What became of a caller's last attempts, of the answers of /status.json, in lines of text.

Pure.  The called side knows why it refused, the caller's side what it saw of that; with both, what
the caller's says is left out where the called one's list has the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from uproxy.cli.status_lines import span
from uproxy.cli.status_text import Status
from uproxy.cli.suggestions import allow_rule, bundle_file, expected_identity
from uproxy.errors import SpiffeIdError
from uproxy.spiffe.ids import SpiffeId

Row = Mapping[str, Any]
"""A row of `denials`."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The lines, and whether anything was refused."""

    lines: tuple[str, ...]
    refused: bool


def between(one: Status, other: Status) -> Explanation:
    """Explain the attempts between two uProxies, in either direction."""
    lines: list[str] = []
    refused = False
    for caller, called in ((one, other), (other, one)):
        if not _leads_to(caller, called):
            continue
        who, whom = _name(caller), _name(called)
        there = list(_called_rows(called, _identity(caller)))
        here = [row for row in _caller_rows(caller, called) if not there or not _is_echo(row)]
        for row, status, other_id in (
            *((row, called, None) for row in there),
            *((row, caller, _identity(called)) for row in here),
        ):
            refused = True
            side = "called" if status is called else "caller"
            lines += _explained(row, status, f"{who} -> {whom}, {side}'s side", other_id)
        if not there and not here:
            lines.append(f"{who} -> {whom}: nothing was refused lately, {_open(called, caller)}")
    if not lines:
        lines.append(
            f"{_name(one)} and {_name(other)} have no destination that leads to a door of the "
            "other: is it the right pair, and does nothing in between translate addresses?"
        )
        refused = True
    return Explanation(tuple(lines), refused)


def of_caller(called: Status, spiffe_id: str) -> Explanation:
    """Explain the attempts of a SPIFFE ID at one uProxy."""
    rows = list(_called_rows(called, spiffe_id))
    lines = [
        line
        for row in rows
        for line in _explained(row, called, f"{spiffe_id} -> {_name(called)}", None)
    ]
    if not rows:
        count = sum(1 for row in called["connections"]
                    if row["direction"] == "inbound" and row["identity"] == spiffe_id)  # fmt: skip
        lines.append(
            f"{spiffe_id} -> {_name(called)}: nothing was refused lately, {count} open; what its "
            f"rules say: uproxy check {called['process']['config']} --as {spiffe_id} --to DOOR"
        )
    return Explanation(tuple(lines), bool(rows))


def _called_rows(called: Status, caller: str | None) -> Iterator[Row]:
    """Yield the called side's rows about a caller that has proved, or claimed, this identity."""
    for row in called["denials"]:
        names = (row["identity"], row.get("unproven_identity"))
        if row["direction"] == "inbound" and caller is not None and caller in names:
            yield row


def _caller_rows(caller: Status, called: Status) -> Iterator[Row]:
    """Yield the caller's rows about a destination that leads to a door of the called side."""
    names = set(_destinations(caller, called))
    for row in caller["denials"]:
        if row["direction"] == "outbound" and row["destination"] in names:
            yield row


def _is_echo(row: Row) -> bool:
    """Whether a caller's row says no more than that the called side refused."""
    if row["outcome"] == "handshake_failed":
        return str(row["reason"]).startswith("the peer refused")
    return bool(row["outcome"] == "peer_refused")


def _leads_to(caller: Status, called: Status) -> bool:
    return any(True for _ in _destinations(caller, called))


def _destinations(caller: Status, called: Status) -> Iterator[str]:
    """Yield the caller's destinations that have an endpoint at the port of a door of the called
    side, or a unix socket of it.  Hosts aren't compared: the same one has many addresses."""
    places = {_place(door["listen"]) for door in called["doors"] if door["direction"] == "inbound"}
    for destination in caller["destinations"]:
        ends = [each["address"] for each in destination["endpoints"]]
        ends += [each["name"] for each in destination.get("unresolved", ())]
        if any(_place(end) in places for end in ends):
            yield destination["name"]


def _place(address: str) -> str:
    return address if address.startswith("unix:") else address.rpartition(":")[2]


def _explained(row: Row, status: Status, who: str, found: str | None) -> list[str]:
    """Return a line about a row, and the YAML that would change it; `found`: the identity that the
    called side has, for a caller's row."""
    now = datetime.fromisoformat(status["now"])
    ago = span((now - datetime.fromisoformat(row["at"])).total_seconds())
    times = "" if row["count"] == 1 else f", {row['count']:,} times"
    rule = f" ({row['rule']})" if row["rule"] else ""
    lines = [f"{ago} ago{times}: {who}: {row['outcome'].replace('_', ' ')}: {row['reason']}{rule}"]
    yaml = _way_out(row, status, found)
    if yaml is not None:
        lines.append(f"  add to {status['process']['config']}:")
        lines += [f"    {line}" for line in yaml.splitlines()]
    return lines


def _way_out(row: Row, status: Status, found: str | None) -> str | None:
    """Return the YAML to add at the side that refused; None: no YAML changes it."""
    match row["outcome"]:
        case "denied" if row["rule"] is None and row["identity"] is not None:
            return allow_rule(row["identity"], row["door"])
        case "peer_untrusted" if row["rule"] == "X5-17" and _has_files(status):
            domain = _domain(row.get("unproven_identity"))
            return None if domain is None else bundle_file(domain)
        case "peer_unexpected" if found is not None and row["destination"] is not None:
            return expected_identity(row["destination"], found)
    return None


def _has_files(status: Status) -> bool:
    return bool(status["certificates"]["source"].get("source") == "files")


def _domain(text: str | None) -> str | None:
    """Return the trust domain of a claimed SPIFFE ID."""
    try:
        return None if text is None else SpiffeId.parse(text).trust_domain.name
    except SpiffeIdError:
        return None


def _identity(status: Status) -> str | None:
    svid = status["certificates"]["svid"]
    return None if svid is None else str(svid["spiffe_id"])


def _name(status: Status) -> str:
    """Return a uProxy's identity, or its name where it has none."""
    return _identity(status) or f"{status['process']['name']} (no identity)"


def _open(called: Status, caller: Status) -> str:
    mine: Sequence[Row] = called["connections"]
    count = sum(
        1 for row in mine if row["direction"] == "inbound" and row["identity"] == _identity(caller)
    )
    return f"{count} open"
