"""Checks of doors that capture brings connections to, and of the destinations that match these."""

from __future__ import annotations

from collections.abc import Iterator

from uproxy.config.records import Draft
from uproxy.config.settings import EVERYWHERE, Network
from uproxy.model import Mistake, UnixAddress


def is_captured(door: Draft) -> bool:
    """Return whether capture brings connections to a door."""
    return door.get("captured") is True


def check_capture(root: Draft) -> Iterator[Mistake]:
    """Yield every mistake about capture."""
    for door in root.drafts("outbound"):
        yield from _check_door(door)
    pathless = {}
    for name, destination in _named(root):
        if destination.has("match") or destination.has("addresses"):
            if not destination.has("addresses"):
                pathless[name] = destination.path
            yield from _check_match(destination)
        else:
            reason = "is missing; must be a list, each an address"
            yield destination.wrong("addresses", reason)
    for door in root.drafts("outbound"):
        if door.get("to") in pathless and not is_captured(door):
            reason = (
                f"has no addresses, so only captured connections know where to go there: "
                f"write them in {pathless[door.get('to')]}"
            )
            yield door.wrong("to", reason)
    yield from _refuse_equal_matches(root)


def _named(root: Draft) -> Iterator[tuple[str, Draft]]:
    found = root.get("destinations")
    yield from found.items() if found is not None else ()


def _check_door(door: Draft) -> Iterator[Mistake]:
    """Refuse a door that leads nowhere, or to two places, and one that no capture can reach."""
    unsure = door.has("captured") and door.get("captured") is None
    if not is_captured(door):
        if not door.has("to") and not unsure:
            reason = "is missing; must be a key of `destinations`, unless the door is for capture"
            yield door.wrong("to", f"{reason} (`captured: true`)")
        return
    if door.has("to"):
        reason = "means nothing with `captured: true`: the original destination picks one by its"
        yield door.wrong("to", f"{reason} `match`")
    if isinstance(door.get("listen"), UnixAddress):
        yield door.wrong("listen", "must be an IP address with `captured: true`")


def _check_match(destination: Draft) -> Iterator[Mistake]:
    match = destination.get("match")
    if isinstance(match, Draft) and not match.node.entries:
        reason = 'is empty; to match everything, write `addresses: ["0.0.0.0/0", "::/0"]`'
        yield destination.wrong("match", reason)


def _refuse_equal_matches(root: Draft) -> Iterator[Mistake]:
    """Refuse two destinations of which neither matches a connection more closely."""
    seen: dict[tuple[Network, int | None], str] = {}
    for destination in root.drafts("destinations"):
        match = destination.get("match")
        if not isinstance(match, Draft) or not match.node.entries:
            continue
        if any(match.has(key) and not match.get(key) for key in ("addresses", "ports")):
            continue
        for index, network in enumerate(match.get("addresses") or EVERYWHERE):
            for port in match.get("ports") or (None,):
                rival = seen.setdefault((network, port), destination.path)
                if rival != destination.path:
                    at = index if match.has("addresses") else None
                    key = "addresses" if match.has("addresses") else "ports"
                    where = f"{network}" if port is None else f"{network} at port {port}"
                    reason = f"{where} is what {rival} matches too, and neither more closely"
                    yield match.wrong_item(key, at, f"{reason}: write a longer prefix or a port")
                    break
