"""Checks of doors that capture brings connections to, and of the destinations that match these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from uproxy.config.listeners import listeners_of
from uproxy.config.records import Draft
from uproxy.config.settings import EVERYWHERE, Network
from uproxy.model import Mistake, TcpAddress, Transport, UnixAddress


def is_captured(door: Draft) -> bool:
    """Return whether capture brings connections to a door."""
    return door.get("captured") is True


def captured_transport(door: Draft) -> Transport:
    """Return the `transport` of an inbound door for capture: mtls if any port's is, because then it
    needs our identity."""
    ports = door.get("ports")
    how = ports.values() if isinstance(ports, Mapping) else ()
    return Transport.MTLS if Transport.MTLS in how else Transport.PLAINTEXT


def check_capture(root: Draft) -> Iterator[Mistake]:
    """Yield every mistake about capture."""
    own = {
        each.address.port: each.path
        for each in listeners_of(root)
        if isinstance(each.address, TcpAddress)
    }
    for door in root.drafts("inbound"):
        yield from _check_inbound(door, own)
    for door in root.drafts("outbound"):
        yield from _check_door(door)
    pathless = {}
    for name, destination in _named(root):
        if destination.has("match") or destination.has("addresses"):
            if destination.lacks("addresses"):
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
        if door.lacks("to") and not unsure:
            reason = "is missing; must be a key of `destinations`, unless the door is for capture"
            yield door.wrong("to", f"{reason} (`captured: true`)")
        return
    if door.has("to"):
        reason = "means nothing with `captured: true`: the original destination picks one by its"
        yield door.wrong("to", f"{reason} `match`")
    if isinstance(door.get("listen"), UnixAddress):
        yield door.wrong("listen", "must be an IP address with `captured: true`")


def _check_inbound(door: Draft, own: Mapping[int, str]) -> Iterator[Mistake]:
    """Refuse what a door for capture can't have, and at other doors what is for capture."""
    ports, unsure = door.get("ports"), door.has("captured") and door.get("captured") is None
    if not is_captured(door):
        if door.lacks("transport") and not unsure:
            yield door.wrong("transport", "is missing; must be mtls | hbone | plaintext")
        if isinstance(ports, Mapping) and not unsure:
            reason = "is a mapping only with `captured: true`; write a list of the ports"
            yield door.wrong("ports", reason)
        for key in ("migrate", "preserve_source"):
            if door.get(key) and not unsure:
                yield door.wrong(key, "is for doors with `captured: true`")
        return
    yield from _check_captured_inbound(door)
    yield from _check_migrate(door, ports)
    if ports is None and door.lacks("ports"):
        yield door.wrong("ports", f"is missing; must be {_BY_PORT}")
    elif ports is not None and not isinstance(ports, Mapping):
        yield door.wrong("ports", f"must be {_BY_PORT}")
    for port in ports if isinstance(ports, Mapping) else ():
        if port in own:
            reason = f"{port} is where {own[port]} listens: nothing leads to uProxy itself"
            yield door.wrong("ports", reason)


def _check_migrate(door: Draft, ports: object) -> Iterator[Mistake]:
    """Refuse ports at which the first byte can't tell what a caller speaks."""
    for index, port in enumerate(door.get("migrate") or ()):
        if isinstance(ports, Mapping) and ports.get(port) is not Transport.MTLS:
            reason = f"is no port of `ports` with mtls: write {port}: mtls there"
            yield door.wrong_item("migrate", index, reason)
        elif port in SERVER_SPEAKS_FIRST:
            reason = (
                f"is {SERVER_SPEAKS_FIRST[port]}'s, whose server speaks first: a caller in clear "
                "would wait for it, and uProxy for the caller"
            )
            yield door.wrong_item("migrate", index, reason)


SERVER_SPEAKS_FIRST: Mapping[int, str] = MappingProxyType(
    {21: "FTP", 22: "SSH", 25: "SMTP", 110: "POP3", 119: "NNTP", 143: "IMAP", 587: "SMTP",
     3306: "MySQL", 5900: "VNC", 6667: "IRC"}
)  # fmt: skip
"""Ports of well-known protocols in which clients wait for a greeting."""

_BY_PORT = "what is spoken by port, such as {8080: mtls, 3306: plaintext}, with `captured: true`"


def _check_captured_inbound(door: Draft) -> Iterator[Mistake]:
    for key in ("transport", "addresses"):
        if door.has(key):
            yield door.wrong(
                key, "means nothing with `captured: true`: `ports` says what is spoken"
            )
    if isinstance(door.get("listen"), UnixAddress):
        yield door.wrong("listen", "must be an IP address with `captured: true`")
    to = door.get("to")
    if isinstance(to, TcpAddress | UnixAddress):
        way_out = f": write {to.host}" if isinstance(to, TcpAddress) else ""
        reason = "is a host only with `captured: true`, because the port is the original one"
        yield door.wrong("to", f"{reason}{way_out}")
    if door.get("preserve_source") and door.has("to"):
        reason = "stands beside `to`: only at the address that was meant does the application see"
        yield door.wrong("preserve_source", f"{reason} its callers' addresses")
    if door.has("alpn") and captured_transport(door) is not Transport.MTLS:
        yield door.wrong("alpn", "means nothing without a port with mtls")


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
