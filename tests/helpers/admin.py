"""An admin server in a thread, with facts that a test sets.

`FakeFacts` implements `AdminFacts` with attributes; `orders_facts()` returns one with plausible
contents of an `orders` workload.  `RunningAdmin` listens on uvloop or asyncio in its own thread,
so that a test can send requests like any client.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import uvloop
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import choose_encoder

from uproxy import sockets
from uproxy.model import Address, TcpAddress
from uproxy.proxy.admin.bounds import DEFAULT_BOUNDS, Bounds
from uproxy.proxy.admin.facts import (
    CertificateRow,
    Certificates,
    ConnectionList,
    ConnectionRow,
    CrlRow,
    DenialRow,
    DestinationRow,
    DoorRow,
    EndpointRow,
    ProcessFacts,
    SvidRow,
    TrustDomainRow,
)
from uproxy.proxy.admin.l7_rows import L7DestinationRow, L7EndpointRow, L7ProxyRow
from uproxy.proxy.admin.messages import Surface
from uproxy.proxy.admin.overview import LostRow, PeerList, PeerRow, Rates, Stale
from uproxy.proxy.admin.server import AdminListener
from uproxy.proxy.admin.sources import Sources
from uproxy.proxy.admin.vitals import Readiness

T = TypeVar("T")

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

OPENED_AT = datetime(2026, 9, 1, 12, 0, 0, tzinfo=UTC)


def connection_row(number: int = 1, **changes: Any) -> ConnectionRow:
    """Return the row of an ordinary inbound connection that is relaying."""
    row = ConnectionRow(
        id=number,
        direction="inbound",
        door="api",
        state="relaying",
        transport="mtls",
        source=f"10.0.3.17:{40000 + number}",
        identity="spiffe://example.org/ns/web/sa/frontend",
        destination="api",
        endpoint="127.0.0.1:8080",
        tls="TLSv1.3 X25519MLKEM768 TLS_AES_128_GCM_SHA256",
        rule="web-reads-orders",
        local="10.0.3.2:8443",
        age=12.5,
        bytes_received=1200,
        bytes_sent=54_000,
    )
    return replace(row, **changes)


def certificates(**changes: Any) -> Certificates:
    """Return the answer of /certs for a workload of example.org, federated with partner.test."""
    until = datetime.now(UTC) + timedelta(minutes=47, seconds=30)
    leaf = CertificateRow("CN=orders", "4f1a9c", until - timedelta(hours=1), until)
    root = CertificateRow("CN=example.org", "1d", OPENED_AT, OPENED_AT + timedelta(days=3650))
    partner = CertificateRow("CN=partner.test", "2e", OPENED_AT, OPENED_AT + timedelta(days=365))
    crl = CrlRow("CN=partner.test", datetime.now(UTC) + timedelta(hours=6), 3)
    svid = SvidRow(
        "spiffe://example.org/ns/shop/sa/orders", leaf.not_before, leaf.not_after, "", (leaf,)
    )
    whole = Certificates(
        svid=svid,
        reason="",
        source={"source": "workload_api", "state": "ready", "rotations": 3, "reconnects": 1},
        trust_domains=(
            TrustDomainRow("example.org", True, (root,), ()),
            TrustDomainRow("partner.test", False, (partner,), (crl,)),
        ),
    )
    return replace(whole, **changes)


@dataclass
class FakeFacts:
    """Facts as attributes; the commands it was given are in `commands`."""

    ready: Readiness = field(default_factory=Readiness)
    silent: tuple[str, ...] = ()
    certs: Certificates = field(default_factory=certificates)
    rows: tuple[ConnectionRow, ...] = ()
    door_rows: tuple[DoorRow, ...] = ()
    destination_rows: tuple[DestinationRow, ...] = ()
    l7_rows: tuple[L7ProxyRow, ...] = ()
    denial_rows: tuple[DenialRow, ...] = ()
    lost_rows: tuple[LostRow, ...] = ()
    ended: Mapping[str, int] = field(default_factory=dict)
    dump: Mapping[str, object] = field(
        default_factory=lambda: {"settings": {"name": "orders", "authorization": []}}
    )
    started: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(hours=3))
    level: str = "info"
    rate_rows: Rates = field(default_factory=lambda: Rates(15.0))
    refused_file: Stale | None = None
    config: str = "/etc/uproxy/orders.yaml"
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self.opened = Counter(
            "istio_tcp_connections_opened",
            "Connections opened",
            ["source_principal"],
            registry=self.registry,
        )

    def readiness(self) -> Readiness:
        return self.ready

    def liveness(self) -> tuple[str, ...]:
        return self.silent

    def certificates(self) -> Certificates:
        return self.certs

    def connections(self, limit: int) -> ConnectionList:
        return ConnectionList(len(self.rows), self.rows[:limit])

    def peers(self, limit: int) -> PeerList:
        groups: dict[tuple[str, str | None, str | None], list[ConnectionRow]] = {}
        for row in self.rows:
            groups.setdefault((row.direction, row.identity, row.destination), []).append(row)
        rows = [
            PeerRow(
                direction, identity, None if identity else "10.0.9.9", destination or "api",
                len(each), max(row.age for row in each), sum(row.bytes_received for row in each),
                sum(row.bytes_sent for row in each),
            )
            for (direction, identity, destination), each in groups.items()
        ]  # fmt: skip
        rows.sort(key=lambda row: -row.connections)
        return PeerList(len(rows), tuple(rows[:limit]))

    def rates(self) -> Rates:
        return self.rate_rows

    def stale(self) -> Stale | None:
        return self.refused_file

    def doors(self) -> tuple[DoorRow, ...]:
        return self.door_rows

    def destinations(self) -> tuple[DestinationRow, ...]:
        return self.destination_rows

    def l7_proxies(self) -> tuple[L7ProxyRow, ...]:
        return self.l7_rows

    def denials(self) -> tuple[DenialRow, ...]:
        return self.denial_rows

    def denials_lost(self) -> tuple[LostRow, ...]:
        return self.lost_rows

    def outcomes(self) -> Mapping[str, int]:
        return self.ended

    def config_dump(self) -> Mapping[str, object]:
        return self.dump

    def process(self) -> ProcessFacts:
        versions = {"uproxy": "0.1.0", "python": "3.11.2", "openssl": "OpenSSL 4.0.3"}
        return ProcessFacts("orders", 4711, self.started, self.level, self.config, versions)

    def render_metrics(self, accept: str) -> tuple[str, bytes]:
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self.registry)

    def set_log_level(self, level: str) -> None:
        self.level = level
        self.commands.append(f"level {level}")

    def drain(self) -> None:
        self.commands.append("drain")

    def quit(self) -> None:
        self.commands.append("quit")


def orders_facts() -> FakeFacts:
    """Return plausible facts: callers, a database with one failing address, refusals."""
    now = datetime.now(UTC)
    billing = "spiffe://partner.test/ns/billing/sa/invoices"
    database = "spiffe://example.org/ns/db/sa/orders"
    outbound = {
        "direction": "outbound",
        "door": "127.0.0.1:5432",
        "identity": database,
        "destination": "orders-db",
        "rule": None,
    }
    return FakeFacts(
        rows=(
            connection_row(5107, age=4.2, bytes_received=2_310, bytes_sent=18_400),
            connection_row(5106, age=38, bytes_received=48_211, bytes_sent=912_004),
            connection_row(
                5102, identity=billing, source="192.0.2.44:51820", rule="partner-invoices",
                age=65, bytes_received=904, bytes_sent=12_288,
            ),
            connection_row(
                4820, source="127.0.0.1:41922", endpoint="10.0.0.7:5432", age=5_412,
                bytes_received=81_788_928, bytes_sent=3_145_728, **outbound,
            ),
            connection_row(
                4817, source="127.0.0.1:41906", endpoint="10.0.0.7:5432", age=5_530,
                bytes_received=240_123_904, bytes_sent=9_437_184, **outbound,
            ),
        ),
        door_rows=(
            DoorRow("api", "inbound", "0.0.0.0:8443", "mtls", "127.0.0.1:8080", True, 3),
            DoorRow("127.0.0.1:5432", "outbound", "127.0.0.1:5432", "mtls", "orders-db", True, 2),
        ),
        destination_rows=(
            DestinationRow(
                "orders-db", "mtls", (database,),
                (
                    EndpointRow("10.0.0.7:5432", "db.internal:5432", 2, False),
                    EndpointRow(
                        "10.0.0.8:5432", "db.internal:5432", 0, True,
                        "connection refused by 10.0.0.8:5432: is the application running?",
                        now - timedelta(minutes=3),
                    ),
                ),
            ),
        ),
        denial_rows=(
            DenialRow(
                now - timedelta(seconds=9), "inbound", "api", "10.0.3.90:39114",
                "spiffe://example.org/ns/test/sa/scanner", "denied",
                "no allow rule matches", None, "api",
            ),
            DenialRow(
                now - timedelta(minutes=2), "inbound", "api", "10.0.5.2:50110", None,
                "peer_untrusted", "the certificate expired at 2026-09-01T11:58:00Z", "X5-5",
            ),
            DenialRow(
                now - timedelta(minutes=14), "inbound", "api", "192.0.2.61:44790", None,
                "handshake_failed", "the client sent no certificate", None,
            ),
        ),
        rate_rows=Rates(
            15.0,
            opened=tuple(round(2.5 + 2 * math.sin(n / 6), 3) for n in range(60)),
            failed=tuple(0.2 if n > 44 else 0.0 for n in range(60)),
            received=tuple(40_000.0 + 35_000 * math.sin(n / 9) for n in range(60)),
            sent=tuple(900_000.0 + 500_000 * math.cos(n / 7) for n in range(60)),
        ),
        ended={
            "closed": 5012, "reset": 14, "denied": 37, "peer_untrusted": 4,
            "handshake_failed": 11, "connect_failed": 2, "timed_out": 1,
        },
    )  # fmt: skip


class RunningAdmin:
    """Admin listeners in a thread of their own, closed at the end of the `with` block."""

    def __init__(self, facts: FakeFacts, loop: str = "uvloop") -> None:
        self.facts = facts
        self._loop = LOOPS[loop]()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._listeners: list[AdminListener] = []

    def listen(
        self,
        address: Address = TcpAddress("127.0.0.1", 0),
        surface: Surface = Surface.ADMIN,
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> AdminListener:
        """Open another listener; its `address` has the port that the kernel chose."""
        listener = AdminListener(
            Sources(self.facts, lambda: self.facts), surface, sockets.listen(address), bounds
        )
        self.call(listener.start())
        self._listeners.append(listener)
        return listener

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def __enter__(self) -> RunningAdmin:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            for listener in self._listeners:
                self.call(listener.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


@contextlib.contextmanager
def connected(address: Address) -> Iterator[socket.socket]:
    """Yield a connected client socket, for what no HTTP client would send."""
    family = socket.AF_INET if isinstance(address, TcpAddress) else socket.AF_UNIX
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect(
            (address.host, address.port) if isinstance(address, TcpAddress) else address.path
        )
        yield client


def read_all(client: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = b""
    while chunk := client.recv(65536):
        received += chunk
    return received


def l7_row(**changes: object) -> L7ProxyRow:
    """An L7 proxy with one address in use, one that is draining and one that fails."""
    row = L7ProxyRow(
        name="l7",
        identities=("spiffe://example.org/ns/mesh/sa/l7",),
        when_unavailable="refuse",
        endpoints=(
            L7EndpointRow("10.0.0.9:15008", "10.0.0.9:15008", False, False, 3, None, None),
            L7EndpointRow("10.0.0.10:15008", "10.0.0.10:15008", True, False, 1, None, None),
            L7EndpointRow(
                "10.0.0.11:15008", "10.0.0.11:15008", False, True, 0,
                "L7 proxy l7 at 10.0.0.11:15008: no answer", None,
            ),
        ),
        unresolved=(),
        destinations=(L7DestinationRow("reviews", proof=True),),
    )  # fmt: skip
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]  # the caller's keywords
