"""An application at an outbound door, and what the door says to it."""

from __future__ import annotations

from tests.helpers.connections import arrival
from tests.helpers.world import World
from uproxy.contract import Arrival, Refusal, Route
from uproxy.lifecycle import ENDINGS, State
from uproxy.model import TcpAddress
from uproxy.proxy.outbound import OutboundDoor

APPLICATION = TcpAddress("127.0.0.1", 50000)


def current(here: World) -> OutboundDoor:
    """Return the only door of the snapshot in force."""
    door = here.door()
    assert isinstance(door, OutboundDoor)
    return door


def app(number: int = 1) -> Arrival:
    """Return a connection of the application."""
    return arrival(source=APPLICATION, number=number)


def admitted(door: OutboundDoor, number: int = 1) -> Route:
    """Return the route that it is given."""
    route = door.admit(app(number))
    assert isinstance(route, Route), route
    return route


def refused(door: OutboundDoor) -> Refusal:
    """Return why it is given none."""
    refusal = door.admit(app())
    assert isinstance(refusal, Refusal)
    assert refusal.outcome in ENDINGS[State.ADMITTING]
    return refusal
