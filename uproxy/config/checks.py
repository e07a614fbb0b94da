"""Checks that need more than one setting.

Each check uses only values that are valid by themselves, so that one error in the file gives
one mistake.  Authorization rules are checked in `rules`, listen addresses in `listeners`, tunnels
in `tunnel_checks`, L7 proxies in `l7_checks`, capture in `capture_checks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from uproxy.config.capture_checks import check_capture, is_captured
from uproxy.config.kinds import nearest
from uproxy.config.l7_checks import check_l7
from uproxy.config.leaves import CIPHERS_12, CIPHERS_13
from uproxy.config.listeners import beyond_loopback, check_listeners
from uproxy.config.nodes import MapNode
from uproxy.config.records import Draft
from uproxy.config.rules import check_rules
from uproxy.config.tunnel_checks import check_tunnels
from uproxy.model import Mistake, SystemdAddress, TcpAddress, Timeouts, Transport, UnixAddress


def check(root: Draft) -> Iterator[Mistake]:
    """Yield every mistake that needs more than one setting to see."""
    yield from _check_identity(root)
    yield from _check_doors(root)
    yield from _check_admin(root)
    yield from _check_destinations(root)
    yield from check_tunnels(root)
    yield from check_capture(root)
    yield from check_l7(root)
    yield from _check_tls(root)
    yield from _check_timeouts(root)
    yield from check_rules(root)
    yield from check_listeners(root)


def _check_identity(root: Draft) -> Iterator[Mistake]:
    """Refuse an identity without exactly one source, or with two ways to choose it."""
    identity = root.get("identity")
    if identity is None:
        if root.lacks("identity"):
            yield root.wrong("identity", _NO_SOURCE)
        return
    api, files = identity.has("workload_api"), identity.has("files")
    if api and files:
        yield identity.wrong("files", "stands beside workload_api; there is exactly one source")
    if identity.lacks("workload_api") and identity.lacks("files"):
        yield root.wrong("identity", _NO_SOURCE)
    if identity.has("spiffe_id") and identity.has("hint"):
        yield identity.wrong("hint", "stands beside spiffe_id; one of them chooses the identity")
    if files and not api and identity.has("hint"):
        yield identity.wrong("hint", "is for the Workload API; files hold one identity")


_NO_SOURCE = (
    "has no source: write identity.workload_api or identity.files, or define SPIFFE_ENDPOINT_SOCKET"
)


def _check_doors(root: Draft) -> Iterator[Mistake]:
    """Refuse keys that don't fit a door, repeated door names, and unknown destinations."""
    names: dict[str, str] = {}
    for door in root.drafts("inbound"):
        yield from _check_unix_only(door, ("mode", "owner"))
        yield from _check_plaintext(door, ("alpn",))
        name = door.get("name") or str(door.get("listen"))
        if door.get("name") in names:
            yield door.wrong("name", f"is already the name of {names[name]}")
        names.setdefault(name, door.path)
    destinations = root.node.get("destinations")
    known = frozenset(destinations.keys if isinstance(destinations, MapNode) else ())
    for door in root.drafts("outbound"):
        yield from _check_unix_only(door, ("mode", "owner"))
        yield from _check_exposure(door)
        yield from _check_destination_exists(door, known)


def _check_unix_only(door: Draft, keys: tuple[str, ...]) -> Iterator[Mistake]:
    """Refuse keys that only a unix socket opened by uProxy can have."""
    listen = door.get("listen")
    if isinstance(listen, TcpAddress | SystemdAddress):
        for key in keys:
            if door.has(key):
                how = "a unix socket that uProxy opens (listen: unix:///…)"
                yield door.wrong(key, f"is for {how}, not for {listen}")


def _check_admin(root: Draft) -> Iterator[Mistake]:
    """Refuse a mode or owner where no admin listener is a unix socket that uProxy opens."""
    admin = root.get("admin")
    if not isinstance(admin, Draft):
        return
    names = ("listen", "metrics", "ready")
    unsure = any(admin.has(name) and name not in admin.values for name in names)
    if unsure or any(isinstance(admin.get(name), UnixAddress) for name in names):
        return
    for key in ("mode", "owner"):
        if admin.has(key):
            reason = "is for unix sockets, and none of listen, metrics and ready is one (unix:///…)"
            yield admin.wrong(key, reason)


def _check_plaintext(draft: Draft, keys: tuple[str, ...]) -> Iterator[Mistake]:
    """Refuse keys that have no meaning without TLS."""
    if draft.get("transport") is Transport.PLAINTEXT:
        for key in keys:
            if draft.has(key):
                yield draft.wrong(key, "means nothing with `transport: plaintext`")


def _check_exposure(door: Draft) -> Iterator[Mistake]:
    """Refuse an outbound door that other hosts can reach, unless it has `expose: true`."""
    listen = door.get("listen")
    if listen is None or not beyond_loopback(listen) or door.get("expose"):
        return
    if is_captured(door):
        return  # it refuses other hosts itself, because it has to listen at all addresses
    if door.has("expose") and door.get("expose") is None:
        return
    yield door.wrong(
        "listen",
        "whoever can connect here uses our identity; listen at 127.0.0.1, [::1] "
        "or a unix socket, or write `expose: true`",
    )


def _check_destination_exists(door: Draft, known: Set[str]) -> Iterator[Mistake]:
    """Refuse a `to` that is no key of `destinations`."""
    name = door.get("to")
    if name is not None and name not in known:
        yield door.wrong("to", "is no key of `destinations`", nearest(name, sorted(known)))


def _check_destinations(root: Draft) -> Iterator[Mistake]:
    """Refuse keys that don't fit the transport, and mTLS without expected identities."""
    for destination in root.drafts("destinations"):
        yield from _check_plaintext(destination, ("identities", "alpn", "server_name"))
        transport = destination.get("transport")
        has_tls = transport in (Transport.MTLS, Transport.HBONE)
        if has_tls and destination.lacks("identities"):
            reason = f"is missing: with {transport}, say who may answer (SPIFFE IDs or patterns)"
            yield destination.wrong("identities", reason)


def _check_tls(root: Draft) -> Iterator[Mistake]:
    """Refuse groups and ciphers with which no permitted TLS version could be negotiated."""
    tls = root.get("tls")
    if tls is None:
        return
    old = tls.get("min_version") == "1.2"
    wrong_version = tls.has("min_version") and tls.get("min_version") is None
    groups = tls.get("groups")
    if old and groups and all("MLKEM" in group for group in groups):
        yield tls.wrong("groups", "has none for TLS 1.2; add X25519 or P-256")
    ciphers = tls.get("ciphers")
    if ciphers is None or wrong_version:
        return
    if not set(ciphers) & set(CIPHERS_13):
        yield tls.wrong("ciphers", f"has none for TLS 1.3; add {CIPHERS_13[0]}")
    if old and not set(ciphers) & set(CIPHERS_12):
        yield tls.wrong("ciphers", f"has none for TLS 1.2; add {CIPHERS_12[0]}")
    for index, cipher in enumerate(ciphers):
        if not old and cipher in CIPHERS_12:
            yield tls.wrong_item("ciphers", index, 'is for TLS 1.2; it needs `min_version: "1.2"`')


def _check_timeouts(root: Draft) -> Iterator[Mistake]:
    """Refuse a `drain_delay` longer than `drain`, of which it is a part."""
    timeouts = root.get("timeouts")
    if timeouts is None:
        return
    if any(timeouts.has(key) and timeouts.get(key) is None for key in ("drain", "drain_delay")):
        return
    drain = timeouts.values.get("drain", Timeouts().drain)
    delay = timeouts.values.get("drain_delay", Timeouts().drain_delay)
    if 0 < drain < delay:
        key = "drain_delay" if timeouts.has("drain_delay") else "drain"
        reason = f"drain_delay ({delay:g}s) is part of drain ({drain:g}s) and can't be longer"
        yield timeouts.wrong(key, reason)
