"""What the admin server is told, by the real parts of a uProxy that serves nobody yet."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.helpers.connections import FakeConnection
from tests.helpers.orders import CONFIGURATION, orders_settings, orders_vitals
from uproxy.app.configuration import ConfigurationFile
from uproxy.app.doors import socket_plans
from uproxy.app.facts import MISTAKES_SHOWN, Facts
from uproxy.app.identity import check_files, make_source, now
from uproxy.app.parts import Parts
from uproxy.app.state import Refused, RunState
from uproxy.app.tables import TRIED_SHOWN, plain_settings
from uproxy.config import Settings
from uproxy.connections import ConnectionInfo
from uproxy.contract import Arrival, Candidate, Ending
from uproxy.destinations import L7
from uproxy.errors import ConfigError
from uproxy.identity.files import FilesSource
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.log import Log
from uproxy.model import Direction, Outcome, TcpAddress, Transport
from uproxy.proxy.admin import answers
from uproxy.proxy.admin.row import plain
from uproxy.proxy.doors import make_doors
from uproxy.resolver import Resolver
from uproxy.systemd import PassedSockets

VIA = """
name: web
identity: {files: {svid: svid.pem, key: svid.key, bundles: {example.org: bundle.pem}}}
outbound: [{listen: 127.0.0.1:3, to: db}]
destinations:
  db: {addresses: [127.0.0.1:4], transport: hbone, identities: [spiffe://example.org/db], via: l7}
l7_proxies:
  l7: {addresses: [127.0.0.1:5], identities: [spiffe://example.org/l7], when_unavailable: WHEN}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return orders_settings(tmp_path)


@pytest.fixture
async def facts(settings: Settings) -> Facts:
    return Facts.beside(orders_vitals(settings))


async def test_a_stale_configuration_is_told_with_its_file_and_bounded(facts: Facts) -> None:
    assert facts.stale() is None
    since = now()
    facts.state.stale = Refused(since, tuple(f"mistake {n}" for n in range(100)))
    told = facts.stale()
    assert told is not None
    assert (told.file, told.since, told.mistakes_total) == ("/etc/uproxy/orders.yaml", since, 100)
    assert len(told.mistakes) == MISTAKES_SHOWN
    assert str(facts.config_dump()["stale"]).endswith("mistake 99")


async def test_doors_are_listed_whether_open_or_not(facts: Facts, settings: Settings) -> None:
    parts, inbound = facts.parts, settings.inbound[0].listen
    fresh = parts.doors.open_new({inbound: socket_plans(settings)[inbound]})
    parts.doors.replace({inbound: make_doors(parts.snapshot, parts.services)[inbound]}, fresh)
    rows = [(row.name, row.direction, row.to, row.open) for row in facts.doors()]
    assert rows == [
        ("api", "inbound", "127.0.0.1:2", True),
        ("127.0.0.1:3", "outbound", "db", False),
    ]
    await parts.doors.close(Direction.INBOUND)
    assert [row.open for row in facts.doors()] == [False, False]


async def test_a_door_is_marked_while_where_it_leads_is_down(facts: Facts) -> None:
    assert {row.trouble for row in facts.doors()} == {None}
    application = facts.parts.endpoints[Direction.INBOUND, "api"]
    database = facts.parts.endpoints[Direction.OUTBOUND, "db"]
    ten_minutes_ago = time.monotonic() - 600
    application.failed(TcpAddress("127.0.0.1", 2), ten_minutes_ago, "connection refused")
    database.failed(TcpAddress("127.0.0.1", 4), 0.0, "no answer")
    assert [row.trouble for row in facts.doors()] == ["connection refused", "no answer"]
    begun = facts.doors()[0].trouble_since
    assert begun is not None
    assert timedelta(minutes=10) <= now() - begun < timedelta(minutes=11)
    reached = Candidate("127.0.0.1:2", (TcpAddress("127.0.0.1", 2),))
    application.opened((reached,), reached.addresses[0], 1.0)
    assert [row.trouble for row in facts.doors()] == [None, "no answer"]


NAMED = """
identity: {files: {svid: svid.pem, key: svid.key, bundles: {example.org: bundle.pem}}}
inbound:
  - {name: to, listen: "127.0.0.1:1", transport: hbone, ports: all, to: localhost,
     addresses: [127.0.0.1]}
  - {name: named, listen: "127.0.0.1:2", transport: hbone, ports: [8080, 5432],
     addresses: [127.0.0.1]}
  - {name: captured, listen: "127.0.0.1:3", captured: true, ports: {8080: mtls, 5432: mtls}}
outbound: [{listen: "127.0.0.1:4", captured: true}]
destinations:
  db: {match: {ports: [5432]}, transport: mtls, identities: [spiffe://example.org/ns/db/sa/**]}
"""


@pytest.mark.parametrize("name", ["to", "named", "captured"])
async def test_a_door_is_marked_while_an_application_that_callers_name_is_down(
    tmp_path: Path, settings: Settings, name: str
) -> None:
    shown = facts_of(tmp_path, NAMED)
    all_, four, six = shown.parts.endpoints[Direction.INBOUND, name], "127.0.0.1", "::1"
    records = {TcpAddress("localhost", 0): (TcpAddress(four, 0), TcpAddress(six, 0))}
    shown.parts.current.put(shown.parts.snapshot.with_records(records))

    def trouble() -> dict[str, str | None]:
        return {row.name: row.trouble for row in shown.doors() if row.trouble is not None}

    begun = time.monotonic()
    assert trouble() == {}
    all_.opened((), TcpAddress(four, 8080), begun)
    all_.failed(TcpAddress(four, 5432), begun - 300, "refused by 4")
    # the host in `to` has another address, which answers perhaps
    assert trouble() == ({} if name == "to" else {name: "refused by 4"})
    all_.failed(TcpAddress(six, 5432), begun - 200, "refused by 6")
    assert trouble() == {name: "refused by 4; refused by 6"}
    since = {row.name: row.trouble_since for row in shown.doors()}[name]
    assert since is not None
    assert timedelta(minutes=5) <= now() - since < timedelta(minutes=6)
    for port in range(1, 4):
        for host in (four, six):
            all_.failed(TcpAddress(host, port), begun, f"refused by {port}")
    assert trouble() == {name: "refused by 4; refused by 6; refused by 1; 2 more"}
    for port in (1, 2, 3, 5432):
        for host in (four, six):
            all_.opened((), TcpAddress(host, port), begun)
    assert trouble() == {}


async def test_original_destinations_are_told_while_they_fail(
    tmp_path: Path, settings: Settings
) -> None:
    shown = facts_of(tmp_path, NAMED)
    db = shown.parts.endpoints[Direction.OUTBOUND, "db"]
    [row] = shown.destinations()
    assert (row.original, row.endpoints) == (True, ())
    at = time.monotonic()
    tried = [TcpAddress(f"10.0.0.{n}", 5432) for n in range(TRIED_SHOWN + 2)]
    for address in tried:
        db.failed(address, at, "no answer")
    [row] = shown.destinations()
    assert [each.address for each in row.endpoints] == [str(each) for each in tried[2:]]
    assert all(each.since is not None for each in row.endpoints)
    db.opened((), tried[0], at)
    assert shown.destinations()[0].endpoints[-1].reason is None


def facts_of(folder: Path, text: str) -> Facts:
    """Beside the files of `settings`."""
    (folder / "other.yaml").write_text(text)
    made = ConfigurationFile(folder / "other.yaml", (), {}).read()
    parts = Parts(made, Log(made.log, made.name), PassedSockets({}), {})
    return Facts(RunState(now(), now(), "/etc/u.yaml"), parts, {}, lambda: None, lambda: None)


async def test_more_callers_than_are_listed_are_told_to_be_more(facts: Facts) -> None:
    registry = facts.parts.connections
    end = Ending(Outcome.DENIED, State.ADMITTING, 0.1, reason="no rule")
    info = ConnectionInfo(Direction.INBOUND, "api", Transport.MTLS, None, None, None)
    for number in range(200):
        source = TcpAddress(f"10.0.0.{number}", 1)
        came = Arrival(number, source, TcpAddress("10.0.1.1", 1), None)
        registry.never_opened(FakeConnection(came), end, info)
    told = json.loads(answers.status(facts, now()).body)
    assert told["headline"]["words"].startswith("no identity, 50 or more callers refused")


async def test_names_that_cannot_be_resolved_are_told_with_why(
    tmp_path: Path, settings: Settings
) -> None:
    text = CONFIGURATION.replace("PORT", str(free_port()))
    text = text.replace("127.0.0.1:4", "db.invalid:4, 127.0.0.1:4").replace(
        "to: 127.0.0.1:2", "to: app.invalid:2"
    )
    (tmp_path / "uproxy.yaml").write_text(text)
    settings = ConfigurationFile(tmp_path / "uproxy.yaml", (), {}).read()
    parts = Parts(settings, Log(settings.log, settings.name), PassedSockets({}), {})

    async def lookup(_name: TcpAddress) -> tuple[TcpAddress, ...]:
        raise OSError(-2, "nobody knows it")

    parts.resolver = Resolver(parts.current, lookup=lookup)
    assert parts.services.why_unresolved(TcpAddress("app.invalid", 2)) is None
    state = RunState(now(), now(), "/etc/uproxy/orders.yaml")
    facts = Facts(state, parts, {}, lambda: None, lambda: None)
    assert [row.trouble for row in facts.doors()] == [None, None]
    parts.resolver.start()
    await eventually(lambda: len(parts.resolver.failing) == 2, "both to fail")
    [row] = facts.destinations()
    [name] = row.unresolved
    assert (name.name, name.reason) == ("db.invalid:4", "nobody knows it")
    assert name.since is not None
    assert state.started_at - timedelta(seconds=1) < name.since <= now()
    words = "app.invalid:2 can't be resolved: nobody knows it"
    assert [door.trouble for door in facts.doors()] == [words, None]
    assert facts.doors()[0].trouble_since is not None
    assert parts.services.why_unresolved(TcpAddress("app.invalid", 2)) == "nobody knows it"
    await parts.resolver.stop()


async def test_destinations_tell_how_their_endpoints_fare(facts: Facts) -> None:
    (row,) = facts.destinations()
    assert row.identities == ("spiffe://example.org/ns/db/sa/**",)
    assert [(each.address, each.passed_over) for each in row.endpoints] == [("127.0.0.1:4", False)]


async def test_the_configuration_dump_is_json_and_holds_no_key(
    facts: Facts, settings: Settings
) -> None:
    dumped = json.dumps(plain(facts.config_dump()))
    assert f'"listen": "{settings.inbound[0].listen}"' in dumped
    assert "PRIVATE KEY" not in dumped


async def test_a_running_uproxy_says_which_it_is(facts: Facts) -> None:
    process = facts.process()
    assert (process.name, process.log_level, process.config, process.versions) == (
        "orders",
        "info",
        "/etc/uproxy/orders.yaml",
        {"uproxy": "1"},
    )
    assert b"uproxy_build_info" in facts.render_metrics("")[1]


def test_settings_become_plain_values(settings: Settings) -> None:
    dumped = plain_settings(settings)
    assert isinstance(dumped, dict)
    assert dumped["inbound"][0]["to"] == "127.0.0.1:2"


def test_files_are_the_source_that_the_configuration_names(settings: Settings) -> None:
    assert isinstance(make_source(settings.identity), FilesSource)
    check_files(settings.identity)


def test_files_that_do_not_fit_together_are_a_mistake(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "svid.key").write_bytes(Authority("example.org").issue("/x").key_pem)
    with pytest.raises(ConfigError, match=r"svid\.key"):
        check_files(settings.identity)


TUNNELS = """
identity: {files: {svid: svid.pem, key: svid.key, bundles: {example.org: bundle.pem}}}
inbound:
  - {name: api, listen: "127.0.0.1:PORT", transport: hbone, ports: [8080], addresses: [127.0.0.1]}
outbound: [{listen: 127.0.0.1:3, to: db}]
destinations:
  db: {addresses: [10.0.0.7:4], transport: hbone, identities: [spiffe://example.org/ns/db/sa/**]}
"""


async def test_tunnels_are_shown_at_their_door_and_beside_connections(
    tmp_path: Path, settings: Settings
) -> None:
    shown = facts_of(tmp_path, TUNNELS.replace("PORT", str(free_port())))
    parts = shown.parts
    assert shown.connections(9).tunnels == ()
    own, transport = parts.snapshot.own, Transport.HBONE
    info = ConnectionInfo(Direction.INBOUND, "api", transport, own, None, None)
    who = Arrival(3, TcpAddress("10.0.0.9", 4), TcpAddress("10.0.0.7", 15008), None)
    tunnel = FakeConnection(who, streams=2)
    parts.connections.tunnels.began(tunnel, info, parts.snapshot.revision)
    inside = replace(who, id=4, tunnel=3, target=TcpAddress("10.0.0.7", 8080))
    parts.connections.admitted(info, inside, parts.snapshot.revision)
    parts.connections.opened(FakeConnection(inside, shares_tls=True))
    answer = shown.connections(9)
    assert (answer.total, answer.tunnels_total) == (1, 1)
    [row] = answer.tunnels
    assert (row.id, row.door, row.local, row.streams) == (3, "api", "10.0.0.7:15008", 2)
    assert (row.source, row.direction) == ("10.0.0.9:4", "inbound")
    assert [each.tunnel for each in answer.connections] == [3]
    api, out = shown.doors()
    assert (api.to, api.connections, api.tunnels) == ("ports 8080", 1, 1)
    assert (out.transport, out.tunnels) == ("hbone", 0)
    [db] = shown.destinations()
    assert db.tunnel_end == "*:15008"
    dumped = json.dumps(plain(shown.config_dump()))
    assert '"hbone": {"max_streams": 1024' in dumped
    assert '"addresses": ["127.0.0.1"]' in dumped
    text = parts.metrics.render()[1].decode()
    assert 'uproxy_hbone_connections{direction="inbound"} 1.0' in text
    assert 'uproxy_hbone_connections{direction="outbound"} 0.0' in text


@pytest.mark.parametrize(("when", "door_is_down"), [("refuse", True), ("bypass", False)])
async def test_a_door_is_down_with_the_l7_proxy_that_it_needs(
    tmp_path: Path,
    settings: Settings,
    when: str,
    door_is_down: bool,
) -> None:
    shown = facts_of(tmp_path, VIA.replace("WHEN", when))
    parts = shown.parts
    assert [door.trouble for door in shown.doors()] == [None]
    parts.endpoints[L7, "l7"].failed(TcpAddress("127.0.0.1", 5), time.monotonic(), "no answer")
    assert [door.trouble for door in shown.doors()] == ["no answer" if door_is_down else None]
    [proxy] = shown.l7_proxies()
    assert (proxy.name, proxy.usable, proxy.when_unavailable) == ("l7", False, when)
    text = parts.metrics.render()[1].decode()
    assert 'uproxy_l7_endpoint_usable{l7_proxy="l7",endpoint="127.0.0.1:5"} 0.0' in text
