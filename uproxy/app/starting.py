"""At start: each door accepts as soon as it can serve, or after WAIT_S whatever it lacks.

Until then its socket listens, and whoever calls waits in the kernel's queue instead of being
refused for an identity or an address that comes a moment later.  What a door needs: our SVID
where it speaks mTLS on either side, one address of where it leads, and where an L7 proxy is in
between the keys to check callers' proofs with, or our own proof.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Final

from uproxy.addresses import Addresses
from uproxy.app.parts import Parts
from uproxy.app.proofs import Awaited
from uproxy.app.state import RunState
from uproxy.model import ListenAddress, Transport
from uproxy.snapshot import Snapshot, Via

WAIT_S: Final = 5.0
"""About as long as callers wait for a handshake."""

LOOK_EVERY_S: Final = 0.02

_IDENTITY: Final = "starting: waiting for the first identity"
_ADDRESS: Final = "starting: waiting for the first address of a name"
_KEYS: Final = "starting: waiting for the keys that callers' proofs are checked with"
_TOKEN: Final = "starting: waiting for our proof across an L7 proxy"  # noqa: S105  words
_NOTHING: Final = Awaited()


async def accept(
    parts: Parts,
    state: RunState,
    fresh: Mapping[ListenAddress, socket.socket],
    given_up: Callable[[], bool],
) -> None:
    """Accept at every door of the snapshot in force, whose sockets are `fresh`, each when it can
    serve; at all of them at once after WAIT_S, or when `given_up` says so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAIT_S
    left = dict(fresh)
    while True:
        parts.current.take_answers()
        waits = loop.time() < deadline and not given_up()
        lacking = what_is_lacking(parts.snapshot, parts.proofs.awaited) if waits else {}
        ready = {address: left.pop(address) for address in tuple(left) if address not in lacking}
        if ready:
            parts.current.put(parts.snapshot, ready)
        state.waiting = tuple(dict.fromkeys(lacking[address] for address in left))
        if not left:
            return
        await asyncio.sleep(LOOK_EVERY_S)


def what_is_lacking(snapshot: Snapshot, awaited: Awaited = _NOTHING) -> Mapping[ListenAddress, str]:
    """Return what keeps doors from serving, by their address; a door that isn't there can serve."""
    lacking: dict[ListenAddress, str] = {}
    for inbound in snapshot.settings.inbound:
        application = snapshot.applications[inbound.name]
        why = _why(snapshot, inbound.transport, application.addresses)
        if why is None and awaited.keys and inbound.transport is Transport.HBONE:
            why = _KEYS
        if why is not None:
            lacking[inbound.listen] = why
    for outbound in snapshot.settings.outbound:
        whys = [
            _why(snapshot, to.settings.transport, to.addresses)
            or _why_l7(to.via)
            or (_TOKEN if to.settings.name in awaited.tokens else None)
            for to in snapshot.destinations.values()
            if to.settings.name == outbound.to or (outbound.captured and to.settings.match)
        ]
        missing = [why for why in whys if why is not None]
        if missing:
            lacking[outbound.listen] = missing[0]
    return lacking


def _why_l7(via: Via | None) -> str | None:
    """Return what keeps a destination's L7 proxy from being used, where nobody goes past it."""
    if via is None or via.may_bypass or via.proxy.serving.listed:
        return None
    return _ADDRESS if via.proxy.serving.names else None


def _why(snapshot: Snapshot, transport: Transport, addresses: Addresses) -> str | None:
    if transport is not Transport.PLAINTEXT and snapshot.credentials.svid is None:
        return _IDENTITY
    # a door for tunnels may have none configured: the tunnels name them
    return None if addresses.listed or not addresses.configured else _ADDRESS
