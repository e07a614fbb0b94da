"""Checks of what belongs to tunnels (`transport: hbone`), and of what must not stand beside it."""

from __future__ import annotations

from collections.abc import Iterator

from uproxy.config import scalars
from uproxy.config.capture_checks import is_captured
from uproxy.config.listeners import beyond_loopback, listeners_of
from uproxy.config.records import Draft
from uproxy.model import (
    Host,
    Mistake,
    SystemdAddress,
    TcpAddress,
    Transport,
    TunnelSettings,
    UnixAddress,
)


def check_tunnels(root: Draft) -> Iterator[Mistake]:
    """Yield every mistake about tunnels."""
    own = {
        each.address.port: each.path
        for each in listeners_of(root)
        if isinstance(each.address, TcpAddress)
    }
    for door in root.drafts("inbound"):
        if door.get("transport") is Transport.HBONE:
            yield from _check_hbone_door(door)
            yield from _check_own_ports(door, own)
        else:
            yield from _check_other_door(door)
    for destination in root.drafts("destinations"):
        if destination.get("transport") is Transport.HBONE:
            yield from _check_hbone_destination(destination)
        else:
            yield from _refuse_keys(destination, ("hbone_address", "hbone_port"))
    yield from _check_windows(root)


def _check_hbone_door(door: Draft) -> Iterator[Mistake]:
    """Refuse what a door for tunnels can't have, and one that nothing could be reached through."""
    to, listen = door.get("to"), door.get("listen")
    if isinstance(to, TcpAddress):
        reason = f"is a host only with hbone, because the tunnel names the port: write {to.host}"
        yield door.wrong("to", reason)
    elif isinstance(to, UnixAddress):
        reason = "has no ports, and a tunnel names one: write a host, or leave `to` out"
        yield door.wrong("to", reason)
    if door.lacks("ports"):
        reason = "is missing: with hbone, list the application's ports that tunnels may name"
        yield door.wrong("ports", f"{reason}, or write `ports: all`")
    if door.has("alpn"):
        yield door.wrong("alpn", "is h2 with hbone: remove it")
    if listen is None or isinstance(listen, SystemdAddress) or door.has("addresses"):
        return
    if not beyond_loopback(listen):
        reason = "is missing: tunnels that arrive here name an address of this workload, and"
        example = listen.host if isinstance(listen, TcpAddress) else "127.0.0.1"
        yield door.wrong("addresses", f'{reason} must find it here: write ["{example}"]')


def _check_own_ports(door: Draft, own: dict[int, str]) -> Iterator[Mistake]:
    """Refuse ports at which this uProxy listens itself: no tunnel is let to them."""
    ports = door.get("ports")
    for index, port in enumerate(ports if isinstance(ports, tuple) else ()):
        if port in own:
            reason = f"is where {own[port]} listens: tunnels never lead to uProxy itself"
            yield door.wrong_item("ports", index, reason)


def _check_other_door(door: Draft) -> Iterator[Mistake]:
    """Refuse a door that isn't for tunnels and has no application, or keys of those that are."""
    to = door.get("to")
    if is_captured(door):
        return
    if door.lacks("to"):
        yield door.wrong("to", "is missing; must be an address")
    elif isinstance(to, Host):
        try:
            scalars.target(to.name)
        except ValueError as error:
            yield door.wrong("to", str(error))
    yield from _refuse_keys(door, ("ports", "addresses"))


def _refuse_keys(draft: Draft, keys: tuple[str, ...]) -> Iterator[Mistake]:
    transport = draft.get("transport")
    for key in keys:
        if transport is not None and draft.has(key):
            yield draft.wrong(key, f"is for `transport: hbone`, and this is {transport}")


def _check_hbone_destination(to: Draft) -> Iterator[Mistake]:
    """Refuse two ends of one tunnel, and addresses that a tunnel can't name."""
    if to.has("hbone_address") and to.has("hbone_port"):
        reason = "stands beside hbone_address, which has a port; remove one of them"
        yield to.wrong("hbone_port", reason)
    if to.has("alpn"):
        yield to.wrong("alpn", "is h2 with hbone: remove it")
    for index, address in enumerate(to.get("addresses") or ()):
        if isinstance(address, UnixAddress):
            reason = "can't be reached through a tunnel, which names an IP address and a port"
            yield to.wrong_item("addresses", index, reason)
        elif isinstance(address, TcpAddress) and "%" in address.host:
            reason = "means an interface of this machine; a tunnel ends on another"
            yield to.wrong_item("addresses", index, reason)


def _check_windows(root: Draft) -> Iterator[Mistake]:
    """Refuse a window for the streams of a tunnel that is smaller than the one of each."""
    hbone = root.get("hbone")
    if hbone is None:
        return
    defaults = TunnelSettings()
    stream = hbone.values.get("stream_window", defaults.stream_window)
    whole = hbone.values.get("connection_window", defaults.connection_window)
    keys = ("connection_window", "stream_window")
    if any(hbone.has(key) and hbone.get(key) is None for key in keys):
        return
    if whole < stream:
        key = keys[0] if hbone.has(keys[0]) else keys[1]
        reason = f"one stream may send {stream:,} bytes, and all together {whole:,}"
        yield hbone.wrong(key, f"{reason}: make connection_window the larger one")
