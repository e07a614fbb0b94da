"""Makes the doors of a snapshot."""

from __future__ import annotations

from collections.abc import Mapping

from uproxy.contract import Door
from uproxy.model import ListenAddress
from uproxy.proxy.inbound import InboundDoor
from uproxy.proxy.outbound import OutboundDoor
from uproxy.proxy.services import Services
from uproxy.snapshot import Snapshot


def make_doors(snapshot: Snapshot, services: Services) -> Mapping[ListenAddress, Door]:
    """Return a door for each listen address of the snapshot's configuration."""
    doors: dict[ListenAddress, Door] = {}
    for inbound in snapshot.settings.inbound:
        application = snapshot.applications[inbound.name]
        doors[inbound.listen] = InboundDoor(application, snapshot, services)
    for outbound in snapshot.settings.outbound:
        doors[outbound.listen] = OutboundDoor(outbound, snapshot, services)
    return doors
