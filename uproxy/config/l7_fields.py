"""The settings of shared L7 proxies, a part of the table in `fields`: those that connections go out
through, and those that may speak for callers."""

from __future__ import annotations

from uproxy.config.kinds import Choice, ListOf
from uproxy.config.leaves import (
    BOOLEAN,
    HTTP_PATH,
    PATTERN,
    PORT,
    SPIFFE_ID,
    TCP_TARGET,
    duration_from,
)
from uproxy.config.records import Field, Record, ShortFor
from uproxy.config.settings import (
    InboundTrustSettings,
    L7EndpointSettings,
    L7HealthSettings,
    L7ProxySettings,
)

ENDPOINT = Record(
    L7EndpointSettings,
    (
        Field("address", TCP_TARGET, "Where its tunnels end.", required=True),
        Field(
            "draining", BOOLEAN, "No new streams: those that are open finish where they are.", False
        ),
    ),
)
HEALTH = Record(
    L7HealthSettings,
    (
        Field("port", PORT, "Spoken to in clear, at each address's host.", required=True),
        Field("path", HTTP_PATH, "Answered with 200 by a proxy that may be used.", "/ready"),
        Field("interval", duration_from("100ms"), "From one request to the next.", "5s"),
    ),
    "a mapping with a port",
)
L7_PROXY = Record(
    L7ProxySettings,
    (
        Field(
            "addresses",
            ListOf(ShortFor("address", ENDPOINT), unique=False),
            "The L7 proxies, each as good as the other; the one with the fewest streams is taken.",
            required=True,
        ),
        Field("identities", ListOf(PATTERN), "Who may answer there.", required=True),
        Field(
            "when_unavailable",
            Choice(("refuse", "bypass")),
            "What becomes of connections while none can be used: refused, or straight to the "
            "destination without its L7 policy.",
            "refuse",
        ),
        Field("health", HEALTH, "Asks each over HTTP whether it may be used."),
    ),
    computed=lambda _draft, key: {"name": key},
)
INBOUND_TRUST = Record(
    InboundTrustSettings,
    (
        Field(
            "identities", ListOf(SPIFFE_ID), "The L7 proxies' SPIFFE IDs, exactly.", required=True
        ),
        Field(
            "speaks_for",
            ListOf(PATTERN),
            "For which callers they may connect: SPIFFE ID patterns.",
            required=True,
        ),
        Field(
            "require_proof",
            BOOLEAN,
            "Refuses them unless the caller's JWT-SVID for this workload comes along.",
            False,
        ),
    ),
    computed=lambda _draft, key: {"name": key},
)
