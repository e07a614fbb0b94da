"""What became of a caller's last attempts, of the answers of /status.json, in lines of text.

Pure.  The called side knows why it refused, the caller's side what it saw of that; with both, what
the caller's says is left out where the called one's list has the reason.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from uproxy.cli.pairing import Row, about, found_in, identity_of, leading
from uproxy.cli.status_lines import span
from uproxy.cli.status_text import Status
from uproxy.cli.suggestions import allow_rule, bundle_file, expected_identity
from uproxy.errors import SpiffeIdError
from uproxy.policy import OTHER_WAY
from uproxy.speaking import TRUST_RULE
from uproxy.spiffe.ids import SpiffeId

_NAMELESS = 3
"""How many refusals of callers without an identity are told; they may be others'."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The lines, and whether anything was refused."""

    lines: tuple[str, ...]
    refused: bool


def between(one: Status, other: Status, taken: Container[str] = ()) -> Explanation:
    """Explain the attempts between two uProxies, in either direction; `taken` are names that rules
    have already."""
    found = [_of_direction(one, other, taken), _of_direction(other, one, taken)]
    explained = [each for each in found if each is not None]
    if not explained:
        line = (
            f"{_process(one)} and {_process(other)} have no destination that leads to a door of "
            "the other and expects its identity: is it the right pair, and does nothing in between "
            "translate addresses?"
        )
        return Explanation((line,), True)
    lines = tuple(line for each in explained for line in each.lines)
    return Explanation(lines, any(each.refused for each in explained))


def _of_direction(caller: Status, called: Status, taken: Container[str]) -> Explanation | None:
    """Explain the attempts of one at the other; None: none of its destinations leads there, and
    none of its refusals is about the other."""
    mine = list(about(caller, called))
    if not mine and not leading(caller, called):
        return None
    who = f"{_name(caller)} -> {_name(called)}"
    there = list(_called_rows(called, identity_of(caller)))
    here = [row for row in mine if not there or not _is_echo(row)]
    lines: list[str] = []
    for row in there:
        lines += _explained(row, called, f"{who}, called's side", None, taken)
    for row in here:
        lines += _explained(row, caller, f"{who}, caller's side", identity_of(called), taken)
    if not lines:
        lines = [f"{who}: nothing was refused lately, {_open(called, caller)}"]
    return Explanation(tuple(lines), bool(there or here))


def of_caller(called: Status, spiffe_id: str, taken: Container[str] = ()) -> Explanation:
    """Explain the attempts of a SPIFFE ID at one uProxy; `taken` as for `between`."""
    rows = list(_called_rows(called, spiffe_id))
    lines = [
        line
        for row in rows
        for line in _explained(row, called, f"{spiffe_id} -> {_name(called)}", None, taken)
    ]
    if not rows:
        count = sum(1 for row in called["connections"]
                    if row["direction"] == "inbound" and row["identity"] == spiffe_id)  # fmt: skip
        lines.append(
            f"{spiffe_id} -> {_name(called)}: nothing was refused lately, {count} open; what its "
            f"rules say: uproxy check {called['process']['config']} --as {spiffe_id} --to DOOR"
        )
        lines += _perhaps(called)
    return Explanation(tuple(lines), bool(rows))


def _perhaps(called: Status) -> Iterator[str]:
    """Yield the last refusals of callers that showed no identity, which may be anybody's."""
    rows = [row for row in called["denials"] if row["direction"] == "inbound"
            and row["identity"] is None and row.get("unproven_identity") is None]  # fmt: skip
    for row in rows[:_NAMELESS]:
        yield from _explained(row, called, f"{row['source']}, perhaps this caller", None, ())


def _called_rows(called: Status, caller: str | None) -> Iterator[Row]:
    """Yield the called side's rows about a caller that has proved, or claimed, this identity."""
    for row in called["denials"]:
        names = (row["identity"], row.get("unproven_identity"))
        if row["direction"] != "inbound" or caller is None:
            continue
        if caller in names or _is_of_proxy(row, caller):
            yield row


def _is_of_proxy(row: Row, caller: str) -> bool:
    """Whether it says that an L7 proxy wasn't believed about the caller."""
    said = (word.rstrip(":,") for word in str(row["reason"]).split())
    return str(row["rule"]).startswith(TRUST_RULE) and caller in said


def _is_echo(row: Row) -> bool:
    """Whether a caller's row says no more than that the called side refused."""
    if str(row["reason"]).startswith("the peer answered the CONNECT with"):
        return True
    if row["outcome"] == "handshake_failed":
        return str(row["reason"]).startswith("the peer refused")
    if row["outcome"] == "l7_refused":
        return "reset before the first byte" in str(row["reason"])
    return bool(row["outcome"] == "peer_refused")


def _explained(
    row: Row, status: Status, who: str, found: str | None, taken: Container[str]
) -> list[str]:
    """Return a line about a row, and the YAML that would change it; `found`: the identity that the
    called side has, for a caller's row."""
    now = datetime.fromisoformat(status["now"])
    ago = span((now - datetime.fromisoformat(row["at"])).total_seconds())
    times = "" if row["count"] == 1 else f", {row['count']:,} times"
    rule = f" ({row['rule']})" if row["rule"] else ""
    lines = [f"{ago} ago{times}: {who}: {row['outcome'].replace('_', ' ')}: {row['reason']}{rule}"]
    yaml = _way_out(row, status, found, taken)
    if yaml is not None:
        loaded = datetime.fromisoformat(status["process"].get("loaded_at") or row["at"])
        since = span((now - loaded).total_seconds())
        is_old = loaded > datetime.fromisoformat(row["at"])
        unless = f", unless it came with what was loaded {since} ago" if is_old else ""
        lines.append(f"  add to {status['process']['config']}{unless}:")
        lines += [f"    {line}" for line in yaml.splitlines()]
    return lines


def _way_out(row: Row, status: Status, found: str | None, taken: Container[str]) -> str | None:
    """Return the YAML to add at the side that refused; None: no YAML changes it."""
    match row["outcome"]:
        case "denied" if OTHER_WAY in row["reason"]:
            return None
        case "denied" if row["rule"] is None and row["identity"] is not None:
            who, port, via = row["identity"], row.get("port"), row.get("via")
            return allow_rule(who, row["door"], taken, port, via)
        case "peer_untrusted" if row["rule"] == "X5-17" and _has_files(status):
            domain = _domain(row.get("unproven_identity"))
            return None if domain is None else bundle_file(domain)
        case "peer_unexpected" if found is not None and found_in(row) == found:
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


def _name(status: Status) -> str:
    """Return a uProxy's identity, or its name where it has none."""
    return identity_of(status) or f"{status['process']['name']} (no identity)"


def _process(status: Status) -> str:
    """Return a uProxy's own name and its identity: several may have the same one."""
    return f"{status['process']['name']} ({identity_of(status) or 'no identity'})"


def _open(called: Status, caller: Status) -> str:
    rows: Sequence[Row] = called["connections"]
    who = identity_of(caller)
    count = sum(1 for row in rows if row["direction"] == "inbound" and row["identity"] == who)
    return f"{count} open"
