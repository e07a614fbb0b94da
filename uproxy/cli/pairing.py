"""Which destinations, and which refusals, of one uProxy are about another one.

Pure: it compares answers of /status.json.  Hosts aren't compared, since the same one has many
addresses, and many workloads answer at the same port (15008): so who answered decides, and where
that isn't known, whom the destination expects, and at which port.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from uproxy.cli.status_text import Status
from uproxy.errors import SpiffeIdError
from uproxy.spiffe.ids import IdentityPattern, SpiffeId

Row = Mapping[str, Any]
"""A row of `denials`, or of `destinations`."""

_FOUND: Final = re.compile(r"wanted .*, found (spiffe://[A-Za-z0-9._/-]+)")
"""The reason of `peer_unexpected` at the destination itself; another begins with the L7 proxy."""


def identity_of(status: Status) -> str | None:
    """Return the SPIFFE ID of a uProxy; None: it has none."""
    svid = status["certificates"]["svid"]
    return None if svid is None else str(svid["spiffe_id"])


def leading(caller: Status, called: Status) -> frozenset[str]:
    """Return the names of the caller's destinations that lead to a door of the called side."""
    return frozenset(each["name"] for each in caller["destinations"] if _leads(each, called))


def about(caller: Status, called: Status) -> Iterator[Row]:
    """Yield the caller's rows about connections to the called side."""
    leads, who = leading(caller, called), identity_of(called)
    through = {each["name"] for each in caller["destinations"] if each.get("via") is not None}
    for row in caller["denials"]:
        if row["direction"] != "outbound" or row["destination"] is None:
            continue
        # through an L7 proxy it is the proxy that answers
        answered = set() if row["destination"] in through else set(_answered(row))
        if who in answered or (not answered and row["destination"] in leads):
            yield row


def found_in(row: Row) -> str | None:
    """Return the identity that a destination didn't expect; None: the reason names none."""
    match = _FOUND.match(str(row["reason"]))
    return None if match is None else match[1]


def _answered(row: Row) -> Iterator[str]:
    """Yield the SPIFFE IDs that somebody proved, or claimed, who answered."""
    for each in (row["identity"], row.get("unproven_identity"), found_in(row)):
        if each is not None:
            yield str(each)


def _leads(destination: Row, called: Status) -> bool:
    """Whether a destination expects the called side, and ends at the port, or the unix socket, of a
    door there.  Where connections are captured on either side the port says nothing: it is the
    application's."""
    expects, doors = _expects(destination, identity_of(called)), called["doors"]
    inbound = [door for door in doors if door["direction"] == "inbound"]
    captured = any(door.get("transport") == "captured" for door in inbound)
    if expects and (captured or destination.get("original")):
        return True
    places = {_place(door["listen"]) for door in inbound}
    return expects is not False and any(_place(end) in places for end in _ends(destination))


def _expects(destination: Row, who: str | None) -> bool | None:
    """Whether a destination expects an identity; None: that isn't known, or it expects none."""
    identities = destination["identities"]
    if who is None or not identities:
        return None
    try:
        spiffe_id = SpiffeId.parse(who)
        return any(IdentityPattern.parse(each).matches(spiffe_id) for each in identities)
    except SpiffeIdError:
        return False


def _ends(destination: Row) -> list[str]:
    """Return the addresses at which connections to a destination end."""
    if destination.get("tunnel_end") is not None:
        return [str(destination["tunnel_end"])]
    ends = [str(each["address"]) for each in destination["endpoints"]]
    return ends + [str(each["name"]) for each in destination.get("unresolved", ())]


def _place(address: str) -> str:
    return address if address.startswith("unix:") else address.rpartition(":")[2]
