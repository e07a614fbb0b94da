"""Checks authorization rules for more than the types of their fields.

`policy` decides by the rules; here rules are refused that could never match, or that mean
something else than they seem to.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from uproxy.config.kinds import nearest
from uproxy.config.nodes import MapNode
from uproxy.config.records import Draft
from uproxy.model import Mistake

DIRECT = "direct"
"""The word in `via` for callers that connect without an L7 proxy."""
_IDENTITY_FIELDS = tuple(
    f"{prefix}{name}"
    for prefix in ("", "not_")
    for name in ("identities", "trust_domains", "namespaces", "service_accounts")
)


def check_rules(root: Draft) -> Iterator[Mistake]:
    """Check every rule, and that their names differ."""
    doors = frozenset(
        str(door.get("name") or door.get("listen"))
        for door in root.drafts("inbound")
        if door.get("name") or door.get("listen")
    )
    trusted = root.node.get("inbound_trust")
    ways = frozenset((DIRECT, *(trusted.keys if isinstance(trusted, MapNode) else ())))
    names: dict[str, str] = {}
    for rule in root.drafts("authorization"):
        name = rule.get("name") or rule.path
        if name in names:
            yield rule.wrong("name", f"{name} is already the name of {names[name]}")
        names.setdefault(name, rule.path)
        yield from _check_callers(rule, ways)
        target = rule.get("to")
        if isinstance(target, Draft):
            yield from _check_targets(target, doors)


def _check_callers(rule: Draft, ways: Set[str]) -> Iterator[Mistake]:
    """Refuse `from` fields that contradict each other, and an allow rule that names no callers."""
    callers = rule.get("from")
    if isinstance(callers, Draft):
        yield from _check_unauthenticated(callers)
        for key in ("via", "not_via"):
            yield from _check_via(callers, key, ways)
    if rule.get("action") != "allow":
        return
    if rule.lacks("from"):
        yield rule.wrong("from", "an allow must say whom it lets in; `from: any` is every identity")
    elif isinstance(callers, Draft) and not _has_positive_field(callers):
        reason = "an allow needs one field that is not a `not_` field, or `from: any`"
        yield rule.wrong("from", reason)


def _has_positive_field(callers: Draft) -> bool:
    """Return whether the rule has a field that says whom it lets in."""
    if any(not key.startswith("not_") for key in callers.node.keys if key != "unauthenticated"):
        return True
    # an invalid value of `unauthenticated` has been reported already
    return callers.has("unauthenticated") and callers.get("unauthenticated") is not False


def _check_unauthenticated(callers: Draft) -> Iterator[Mistake]:
    """Refuse identity fields beside `unauthenticated: true`."""
    if not callers.get("unauthenticated"):
        return
    for key in _IDENTITY_FIELDS:
        if callers.has(key):
            reason = "means nothing beside `unauthenticated: true`: such callers have no identity"
            yield callers.wrong(key, reason)


def _check_via(callers: Draft, key: str, ways: Set[str]) -> Iterator[Mistake]:
    """Refuse the names of L7 proxies that may not speak for callers."""
    for index, way in enumerate(callers.get(key) or ()):
        if way not in ways:
            reason = f"is neither `{DIRECT}` nor a key of `inbound_trust`"
            yield callers.wrong_item(key, index, reason, nearest(way, sorted(ways)))


def _check_targets(target: Draft, doors: Set[str]) -> Iterator[Mistake]:
    for key in ("inbound", "not_inbound"):
        for index, name in enumerate(target.get(key) or ()):
            if name not in doors:
                reason = "is no door: `inbound` has none with this name or listen address"
                yield target.wrong_item(key, index, reason, nearest(name, sorted(doors)))
