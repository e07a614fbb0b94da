"""Compares two configurations: what a reload would change, and whether that needs a restart.

A restart is needed for what RESTART_KEYS names, for a listen address that overlaps one still
open, and for the permissions and the use of a socket that stays.  If `Changes.restart` isn't
empty, the caller refuses the whole reload.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from uproxy.config.listeners import overlap, place_of
from uproxy.config.nodes import join
from uproxy.config.settings import InboundSettings, OutboundSettings, Settings
from uproxy.model import ListenAddress, Mistake

RESTART_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "name": "it names default sockets, logs and metrics",
        "engine": "connections can't move between engines",
        "workers": "connections can't move between threads",
        "identity.workload_api": "the identity's source is chosen at start",
        "identity.files": "the identity's source is chosen at start (new contents are read alone)",
        "identity.spiffe_id": "the identity is chosen at start",
        "identity.hint": "the identity is chosen at start",
        "identity.revocation_grace": "the Workload API's stream is set up at start",
        "admin.listen": "admin listeners open at start",
        "admin.metrics": "admin listeners open at start",
        "admin.ready": "admin listeners open at start",
        "admin.mode": "admin listeners open at start",
        "admin.owner": "admin listeners open at start",
    }
)
"""Keys whose change needs a restart, with the reason."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between two configurations."""

    keys: tuple[str, ...]
    """The paths that differ: `timeouts.idle`, `inbound`, `destinations.orders-db.addresses`."""
    restart: tuple[Mistake, ...]
    """What can't change without a restart; empty: the reload is possible."""


def changes(before: Settings, after: Settings) -> Changes:
    """Compare the settings in force with new ones."""
    keys = tuple(_differences(before, after, ""))
    restart = [
        Mistake(key, f"needs a restart: {RESTART_KEYS[key]}") for key in keys if key in RESTART_KEYS
    ]
    return Changes(keys, (*restart, *_overlaps(before, after), *_permissions(before, after)))


def _differences(before: Any, after: Any, path: str) -> Iterator[str]:
    """Yield the paths at which two values differ."""
    if before == after:
        return
    if (
        dataclasses.is_dataclass(before)
        and type(before) is type(after)
        and path not in RESTART_KEYS
    ):
        for field in dataclasses.fields(before):
            one, other = getattr(before, field.name), getattr(after, field.name)
            yield from _differences(one, other, join(path, field.name))
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys((*before, *after)):
            yield from _differences(before.get(name), after.get(name), join(path, name))
    else:
        yield path


def _doors(settings: Settings) -> Iterator[tuple[str, InboundSettings | OutboundSettings]]:
    for index, inbound in enumerate(settings.inbound):
        yield join("inbound", index), inbound
    for index, outbound in enumerate(settings.outbound):
        yield join("outbound", index), outbound


def _overlaps(before: Settings, after: Settings) -> Iterator[Mistake]:
    """Yield a mistake for each new listen address that overlaps one that is being closed."""
    old = {door.listen for _, door in _doors(before)}
    stays = {door.listen for _, door in _doors(after)}
    going: dict[object, list[ListenAddress]] = {}
    for each in sorted(old - stays, key=str):
        going.setdefault(place_of(each), []).append(each)
    for path, door in _doors(after):
        rivals = going.get(place_of(door.listen), ())
        clash = next((each for each in rivals if overlap(each, door.listen)), None)
        if clash is not None:
            reason = f"overlaps {clash}, which is open until the reload is done; needs a restart"
            yield Mistake(join(path, "listen"), reason, str(door.listen))


def _permissions(before: Settings, after: Settings) -> Iterator[Mistake]:
    """Yield a mistake for each socket that stays but has another mode, owner or use."""
    old = {door.listen: door for _, door in _doors(before)}
    for path, door in _doors(after):
        known = old.get(door.listen, door)
        if (known.mode, known.owner) != (door.mode, door.owner):
            reason = "its mode or owner changed but the socket stays; needs a restart"
            yield Mistake(join(path, "listen"), reason, str(door.listen))
        elif known.captured != door.captured:
            reason = "`captured` changed but the socket stays; needs a restart"
            yield Mistake(join(path, "captured"), reason)
