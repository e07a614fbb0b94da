"""Rows of the status page that are made of settings."""

from __future__ import annotations

from tests.helpers.world import settings
from uproxy.app.tables import Down, door_rows
from uproxy.config.settings import InboundSettings, OutboundSettings
from uproxy.model import Direction, TcpAddress, Transport

OUT = OutboundSettings(TcpAddress("::", 15001), captured=True)
IN = InboundSettings(
    "in",
    TcpAddress("::", 15006),
    Transport.MTLS,
    ports={8080: Transport.MTLS, 3306: Transport.PLAINTEXT},
    captured=True,
)


def test_a_door_for_capture_says_where_it_leads_and_who_can_bring_connections_there() -> None:
    asked = []

    def trouble(direction: Direction, name: str) -> Down | None:
        asked.append((direction, name))
        return None

    config = settings(inbound=(IN,), outbound=(OUT,))
    inbound, outbound = door_rows(config, {OUT.listen, IN.listen}, {}, {}, trouble)
    assert (inbound.transport, inbound.to) == ("captured", "ports 8080 mtls, 3306 plaintext")
    assert (outbound.transport, outbound.to) == ("captured", "original destinations")
    assert asked == [(Direction.INBOUND, "in")]  # an outbound one has no destination of its own
    _, outbound = door_rows(config, {OUT.listen}, {}, {}, trouble, {OUT.listen})
    assert outbound.to.startswith("original destinations (by nft alone: for eBPF the socket isn't")
