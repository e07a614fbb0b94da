"""Checks of shared L7 proxies: those that destinations are reached through, and those that may
speak for callers."""

from __future__ import annotations

from collections.abc import Iterator, Set

from uproxy.config.kinds import nearest
from uproxy.config.nodes import MapNode, join, mistake
from uproxy.config.records import Draft
from uproxy.config.rules import DIRECT
from uproxy.model import Mistake, TcpAddress, Transport
from uproxy.spiffe.ids import IdentityPattern


def check_l7(root: Draft) -> Iterator[Mistake]:
    """Yield every mistake about shared L7 proxies."""
    node = root.node.get("l7_proxies")
    known = frozenset(node.keys if isinstance(node, MapNode) else ())
    for destination in root.drafts("destinations"):
        if destination.has("via"):
            yield from _check_via(destination, known)
    for key in ("l7_proxies", "inbound_trust"):
        yield from _refuse_reserved_name(root, key)
    for proxy in root.drafts("l7_proxies"):
        yield from _refuse_repeated_addresses(proxy)
    yield from _refuse_repeated_identities(root)


def _check_via(destination: Draft, known: Set[str]) -> Iterator[Mistake]:
    """Refuse a destination that can't be reached through the L7 proxy that it names."""
    name, transport = destination.get("via"), destination.get("transport")
    if name is not None and name not in known:
        yield destination.wrong("via", "is no key of `l7_proxies`", nearest(name, sorted(known)))
    if transport not in (None, Transport.HBONE):
        reason = f"is for `transport: hbone`, and this is {transport}: L7 proxies end tunnels"
        yield destination.wrong("via", reason)
    for index, identity in enumerate(destination.get("identities") or ()):
        if not IdentityPattern.parse(identity).is_exact:
            reason = "has a wildcard: an L7 proxy (`via`) is told whole SPIFFE IDs; list them"
            yield destination.wrong_item("identities", index, reason)


def _refuse_reserved_name(root: Draft, key: str) -> Iterator[Mistake]:
    node = root.node.get(key)
    for entry in node.entries if isinstance(node, MapNode) else ():
        if entry.key == DIRECT:
            reason = f"the key {DIRECT} is reserved: rules call callers without an L7 proxy so"
            yield mistake(join(key, entry.key), entry.place, reason)


def _refuse_repeated_addresses(proxy: Draft) -> Iterator[Mistake]:
    seen: dict[TcpAddress, str] = {}
    for endpoint in proxy.drafts("addresses"):
        address = endpoint.get("address")
        if address in seen:
            reason = f"is the same as {seen[address]}"
            yield mistake(endpoint.path, endpoint.node.get("address") or endpoint.node, reason)
        elif address is not None:
            seen[address] = endpoint.path


def _refuse_repeated_identities(root: Draft) -> Iterator[Mistake]:
    """Refuse an identity in two entries of `inbound_trust`: which one speaks would be a guess."""
    seen: dict[str, str] = {}
    for trusted in root.drafts("inbound_trust"):
        for index, identity in enumerate(trusted.get("identities") or ()):
            if identity in seen:
                reason = f"is among the identities of {seen[identity]} too: rules name one of them"
                yield trusted.wrong_item("identities", index, reason)
            seen.setdefault(identity, trusted.path)
