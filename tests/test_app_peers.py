"""Open connections by peer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.helpers.connections import APP, FakeConnection, arrival
from tests.helpers.world import peer
from uproxy.app.peers import by_peer
from uproxy.connections import ConnectionInfo, OpenConnection
from uproxy.lab.pki import Authority
from uproxy.metrics import FlowCounters
from uproxy.model import Address, Direction, Role, TcpAddress, Transport

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
CA = Authority("example.org")
WEB = CA.issue("/ns/web/sa/frontend")


def entry(
    connection: FakeConnection, seconds: float, direction: Direction = Direction.INBOUND
) -> OpenConnection:
    info = ConnectionInfo(direction, "api", Transport.MTLS, None, None, 8080)
    return OpenConnection(
        connection, info, NOW - timedelta(seconds=seconds), FlowCounters(direction)
    )


def called_by_web(received: int = 0, sent: int = 0) -> FakeConnection:
    proven = peer(WEB, CA, Role.CLIENT)
    return FakeConnection(arrival(proven), peer=proven, bytes_received=received, bytes_sent=sent)


def without_identity(source: Address, dialled: Address = APP) -> FakeConnection:
    return FakeConnection(arrival(None, source), dialled=dialled)


def test_connections_of_one_identity_are_one_row_with_their_sums() -> None:
    newest_first = [entry(called_by_web(10, 1), 5), entry(called_by_web(20, 2), 90)]
    told = by_peer(newest_first, NOW, 20)
    (row,) = told.peers
    assert (row.identity, row.host) == (WEB.spiffe_id, None)
    assert (row.direction, row.destination) == ("inbound", "api")
    assert (row.connections, row.oldest, row.bytes_received, row.bytes_sent) == (2, 90.0, 30, 3)


def test_who_has_no_identity_is_told_by_its_host() -> None:
    sources = [TcpAddress("10.0.0.1", port) for port in (1, 2)] + [TcpAddress("::1", 3)]
    told = by_peer([entry(without_identity(source), 1) for source in sources], NOW, 20)
    assert [(row.host, row.connections) for row in told.peers] == [("10.0.0.1", 2), ("::1", 1)]


def test_whom_we_called_without_tls_is_told_by_what_was_dialled() -> None:
    dialled = without_identity(TcpAddress("127.0.0.1", 1), TcpAddress("10.0.0.7", 5432))
    (row,) = by_peer([entry(dialled, 1, Direction.OUTBOUND)], NOW, 20).peers
    assert (row.direction, row.host) == ("outbound", "10.0.0.7")


def test_of_many_peers_those_with_most_connections_are_shown_and_all_are_counted() -> None:
    crowd = [
        entry(without_identity(TcpAddress(f"10.0.0.{host}", port)), 1)
        for host in range(1, 40)
        for port in range(host)
    ]
    told = by_peer(crowd, NOW, 3)
    assert told.total == 39
    assert [row.host for row in told.peers] == ["10.0.0.39", "10.0.0.38", "10.0.0.37"]
