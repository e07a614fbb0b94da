"""The settings that hold for every connection, a part of the table in `fields`: what is negotiated,
how tunnels are used, limits and deadlines."""

from __future__ import annotations

from collections.abc import Mapping

from uproxy.config.kinds import Choice, ListOf
from uproxy.config.leaves import CIPHERS_12, CIPHERS_13, DURATION, GROUPS, count, size
from uproxy.config.records import Draft, Field, Record
from uproxy.model import Limits, Timeouts, TlsSettings, TunnelSettings


def _for_tls_12(draft: Draft, _key: str) -> Mapping[str, object]:
    """TLS 1.2 takes no certificate on a curve that isn't among the groups."""
    if draft.get("min_version") != "1.2":
        return {}
    return {
        "ciphers": CIPHERS_13 + CIPHERS_12,
        "groups": (*TlsSettings().groups, "P-384", "P-521"),
    }


TLS = Record(
    TlsSettings,
    (
        Field(
            "min_version", Choice(("1.2", "1.3"), decimal=True), "The oldest TLS accepted.", "1.3"
        ),
        Field(
            "groups",
            ListOf(Choice(GROUPS)),
            "Key exchange, best first; by default with min_version 1.2 P-384 and P-521 too.",
            list(TlsSettings().groups),
        ),
        Field(
            "ciphers",
            ListOf(Choice(CIPHERS_13 + CIPHERS_12)),
            "Cipher suites; with min_version 1.2 its AEAD ECDHE suites too.",
            list(CIPHERS_13),
        ),
    ),
    computed=_for_tls_12,
)
HBONE = Record(
    TunnelSettings,
    (
        Field("max_streams", count(1), "Streams that a peer may open on a tunnel to us.", 1024),
        Field(
            "streams_per_connection",
            count(1),
            "Streams that we open on a tunnel before another is made.",
            100,
        ),
        Field(
            "stream_window",
            size("64KiB", "16MiB"),
            "What a peer may send on a stream before it is consumed; grows for quick readers.",
            "256KiB",
        ),
        Field(
            "connection_window",
            size("64KiB", "1GiB"),
            "The same for all streams of a tunnel together.",
            "1MiB",
        ),
        Field("idle", DURATION, "A tunnel without streams is closed after it; 0 is off.", "5m"),
        Field(
            "keepalive",
            DURATION,
            "A peer with streams that says nothing for so long is asked whether it is there "
            "(PING), and lost if it says nothing for as long again; 0 is off.",
            "30s",
        ),
    ),
)
LIMITS = Record(
    Limits,
    (
        Field("connections", count(1), "Open connections.", 20_000),
        Field("handshakes_in_flight", count(1), "Handshakes at the same time.", 512),
        Field(
            "per_source_connections",
            count(0),
            "Open connections of one IPv4 address or IPv6 /64; 0 is off.",
            0,
        ),
    ),
)
TIMEOUTS = Record(
    Timeouts,
    (
        Field("handshake", DURATION, "From accept or connect to the end of the handshake.", "5s"),
        Field("connect", DURATION, "To reach one address.", "5s"),
        Field(
            "half_close",
            DURATION,
            "From the last byte, once one side has finished or failed.",
            "60s",
        ),
        Field("idle", DURATION, "Without a byte in either direction.", "1h"),
        Field("drain_delay", DURATION, "How long SIGTERM leaves the doors open.", "5s"),
        Field("drain", DURATION, "From SIGTERM until what is left is cut.", "25s"),
    ),
)
