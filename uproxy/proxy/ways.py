"""Finds the application that an arrival at an inbound door is meant for.

A stream is meant for the address that its CONNECT names, a captured connection for the one that it
was made to; other doors lead to one application.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from uproxy.addresses import Addresses
from uproxy.config.settings import InboundSettings
from uproxy.connections import ConnectionInfo
from uproxy.contract import Arrival, Refusal
from uproxy.model import Outcome
from uproxy.policy import Target
from uproxy.proxy.naming import Own, captured_address, named_address, spoken_at
from uproxy.snapshot import Application


@dataclass(frozen=True, slots=True)
class Way:
    """The application that an arrival is meant for."""

    target: Target
    """The port and address that authorization rules compare."""
    addresses: Addresses
    """The addresses to dial."""
    info: ConnectionInfo
    """What is reported about its connections; a connection that was made at an earlier door has
    another SVID of ours."""


def way_of(
    application: Application, own: Own, base: ConnectionInfo, arrival: Arrival
) -> Way | Refusal:
    """Return the application that a stream or a captured connection is meant for, or why it is
    refused.  Rules see the address that the stream's CONNECT named, or that the captured connection
    was made to; the same address is dialled, unless the door has a `to`.

    Args:
        base: what is known of the door's connections, whatever they are meant for.
    """
    door, meant = application.settings, arrival.target
    if meant is None:
        return Refusal(Outcome.NO_DESTINATION, _why_nowhere(door))
    if door.captured:
        named = captured_address(door, own, meant)
    else:
        named = named_address(door, own.ports, arrival.local, meant)
    if isinstance(named, Refusal):
        return named
    target = Target(named.port, named.ip, door.name)
    transport = spoken_at(door, named.port, arrival)
    info = replace(base, target=target, port=named.port, transport=transport)
    return Way(target, application.addresses_at(named), info)


def _why_nowhere(door: InboundSettings) -> str:
    """Return why an arrival that is meant for no address leads nowhere."""
    if door.preserve_source:
        return (
            f"uProxy's own connection to the application came back to door {door.name}: "
            "`preserve_source` needs Linux 5.17 or later"
        )
    if door.captured:
        return f"door {door.name} is for captured connections, and this one was not"
    return f"door {door.name} is for tunnels, and this is no stream of one"
