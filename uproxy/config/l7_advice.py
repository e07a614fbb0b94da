"""Warnings about shared L7 proxies: those that are trusted further than need be, and those that
nobody is reached through."""

from __future__ import annotations

from collections.abc import Iterator

from uproxy.config.nodes import join
from uproxy.config.settings import InboundTrustSettings, L7ProxySettings, Settings
from uproxy.model import Mistake, Transport


def l7_warnings(settings: Settings) -> Iterator[Mistake]:
    """Warn of L7 proxies on the way out, then of those on the way in."""
    used = {each.via for each in settings.destinations.values()}
    for name, proxy in settings.l7_proxies.items():
        path = join("l7_proxies", name)
        if name not in used:
            yield Mistake(path, "no destination goes through it: write `via` there")
        yield from _on_the_way_out(proxy, path)
    yield from _unused_ends(settings)
    for name, trusted in settings.inbound_trust.items():
        yield from _on_the_way_in(trusted, join("inbound_trust", name), settings)


def _on_the_way_out(proxy: L7ProxySettings, path: str) -> Iterator[Mistake]:
    if proxy.when_unavailable == "bypass":
        reason = "while none of them can be used, connections go without their L7 policy"
        yield Mistake(join(path, "when_unavailable"), reason, "bypass")
    if all(endpoint.draining for endpoint in proxy.addresses):
        reason = "each of them is draining: none takes a new stream"
        yield Mistake(join(path, "addresses"), reason)


def _unused_ends(settings: Settings) -> Iterator[Mistake]:
    """Warn of an end of tunnels that nothing is dialled at, because an L7 proxy is between."""
    for name, to in settings.destinations.items():
        proxy = None if to.via is None else settings.l7_proxies[to.via]
        if proxy is None or proxy.when_unavailable == "bypass":
            continue
        for key, value in (("hbone_address", to.hbone_address), ("hbone_port", to.hbone_port)):
            if value is not None:
                reason = f"is not used: the L7 proxies of {proxy.name} dial, and aren't bypassed"
                yield Mistake(join(join("destinations", name), key), reason, str(value))


def _on_the_way_in(
    trusted: InboundTrustSettings, path: str, settings: Settings
) -> Iterator[Mistake]:
    if not trusted.require_proof:
        reason = (
            "isn't true: whoever holds the key of this L7 proxy may connect as any caller of "
            "`speaks_for`; true asks for the caller's own JWT-SVID"
        )
        yield Mistake(join(path, "require_proof"), reason)
    for index, pattern in enumerate(trusted.speaks_for):
        if pattern in trusted.identities:
            reason = "is the L7 proxy itself, which needs nobody to speak for it: remove it"
            yield Mistake(join(join(path, "speaks_for"), index), reason, pattern)
    if all(door.transport is not Transport.HBONE for door in settings.inbound):
        reason = "there is no inbound door with `transport: hbone`, where an L7 proxy could connect"
        yield Mistake(path, reason)
    allows = [rule for rule in settings.authorization if rule.action == "allow"]
    if settings.inbound and not any(trusted.name in rule.from_.via for rule in allows):
        reason = f"no allow rule lets callers in through it: write `via: [{trusted.name}]` in one"
        yield Mistake(path, reason)
