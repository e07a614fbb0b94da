"""What is put in force is put in force whole, in one step of the loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import cast

from tests.helpers.connections import arrival
from tests.helpers.world import ANYBODY, World, credentials, settings
from uproxy.app.current import Current
from uproxy.app.doors import Doors
from uproxy.config.settings import (
    DestinationSettings,
    L7EndpointSettings,
    L7ProxySettings,
    OutboundSettings,
)
from uproxy.contract import Door, Route
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import eventually
from uproxy.model import Direction, ListenAddress, TcpAddress, Transport

CA = Authority("example.org")
OURS = CA.issue("/ns/web/sa/frontend")
LISTEN = TcpAddress("127.0.0.1", 1)
NAME, OTHER = (TcpAddress(f"{name}.internal", 5432) for name in ("db", "cache"))
A, B = (TcpAddress(f"10.0.0.{n}", 5432) for n in (1, 2))


@dataclass
class KeptDoors:
    """The doors that listeners were given, without sockets."""

    given: list[dict[ListenAddress, Door]] = field(default_factory=list)

    def renew(self, doors: dict[ListenAddress, Door]) -> None:
        self.given.append(doors)


def make() -> tuple[World, Current, KeptDoors]:
    to = DestinationSettings("db", (NAME, OTHER), Transport.PLAINTEXT)
    config = settings(ANYBODY, outbound=(OutboundSettings(LISTEN, "db"),), destinations={"db": to})
    here, doors = World(config, credentials(OURS, CA)), KeptDoors()
    return here, Current(here.services, cast("Doors", doors)), doors


async def test_the_registry_and_every_listener_have_the_same_snapshot() -> None:
    here, current, doors = make()
    current.put(current.snapshot.with_settings(replace(here.settings, authorization=())))
    current.credentials_changed(here.credentials, credentials(None, CA))
    assert len(doors.given) == 2
    assert current.snapshot is here.connections.snapshot
    assert current.snapshot.credentials.svid is None


async def test_tokens_are_in_force_for_destinations_that_need_them() -> None:
    there = DestinationSettings("db", (A,), Transport.HBONE, (OURS.spiffe_id,), via="l7")
    proxy = L7ProxySettings("l7", (L7EndpointSettings(B),), (OURS.spiffe_id,))
    config = settings(
        ANYBODY,
        outbound=(OutboundSettings(LISTEN, "db"),),
        destinations={"db": there},
        l7_proxies={"l7": proxy},
    )
    here, doors = World(config, credentials(OURS, CA)), KeptDoors()
    current = Current(here.services, cast("Doors", doors))
    current.tokens_changed({"db": "token", "other": "token"})
    assert current.snapshot.tokens == {"db": "token"}
    assert here.connections.snapshot is current.snapshot
    assert len(doors.given) == 1


async def test_answers_of_the_resolver_wait_for_each_other_and_are_in_force_together() -> None:
    _, current, doors = make()
    before = current.snapshot
    current.resolved(NAME, (A,))
    current.resolved(OTHER, (B,))
    assert current.snapshot is before
    await eventually(lambda: doors.given, "a new snapshot")
    assert len(doors.given) == 1
    assert current.snapshot.records == {NAME: (A,), OTHER: (B,)}
    assert before.records == {}


async def test_an_answer_that_is_no_news_changes_nothing() -> None:
    _, current, doors = make()
    current.resolved(NAME, (A,))
    current.take_answers()
    current.resolved(NAME, (A,))
    current.resolved(NAME, ())
    current.resolved(TcpAddress("nobody.internal", 1), (A,))
    current.take_answers()
    assert len(doors.given) == 1
    await asyncio.sleep(0)


async def test_records_in_another_order_make_no_new_snapshot() -> None:
    """Round-robin DNS turns them with every answer, and each snapshot costs time on the loop."""
    _, current, _ = make()
    current.resolved(NAME, (A, B))
    current.take_answers()
    before = current.snapshot
    current.resolved(NAME, (B, A))
    current.take_answers()
    assert current.snapshot is before
    current.resolved(NAME, (B,))
    current.take_answers()
    assert current.snapshot.records[NAME] == (B,)


async def test_a_door_goes_where_its_snapshot_resolved_the_name_to() -> None:
    here, current, doors = make()
    for records in ((A,), (B,)):
        current.resolved(NAME, records)
        current.take_answers()
    first, second = (given[LISTEN] for given in doors.given)
    assert here.settings.outbound[0].listen == LISTEN
    routes = [door.admit(arrival(number=number)) for number, door in enumerate((first, second))]
    assert [route.candidates[0].addresses for route in routes if isinstance(route, Route)] == [
        (A,),
        (B,),
    ]


async def test_what_captured_connections_have_met_is_forgotten_by_a_reload_alone() -> None:
    to = DestinationSettings("db", (), Transport.PLAINTEXT)
    config = settings(ANYBODY, outbound=(), destinations={"db": to})
    here = World(config, credentials(OURS, CA))
    current = Current(here.services, cast("Doors", KeptDoors()))
    met = here.endpoints(Direction.OUTBOUND, "db")
    met.failed(A, 0.0, "refused")
    current.credentials_changed(here.credentials, credentials(OURS, CA))
    current.tokens_changed({})
    assert [each.address for each in met.tried_lately(0.0)] == [A]
    current.put(current.snapshot.with_settings(replace(config, authorization=())))
    assert met.tried_lately(0.0) == ()
