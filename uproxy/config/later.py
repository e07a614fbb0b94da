"""Keys and words of later versions, each with what to use today.

They are refused with a reason of their own, so that they are never accepted in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_CAPTURED = "give each door an address the application connects to, and `to:` a destination"
_TUNNEL = "use `transport: mtls`"

KEYS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "": {
            "l7_proxies": "connect straight to the destinations",
            "inbound_trust": "let callers connect straight to this workload",
            "hbone": _TUNNEL,
            "handover": "remove the key and restart to upgrade",
        },
        "inbound": {
            "captured": _CAPTURED,
            "ports": "give each port a door of its own with `transport: mtls`",
            "migrate": "give plaintext callers a door of their own with `transport: plaintext`",
            "addresses": _TUNNEL,
        },
        "outbound": {"captured": _CAPTURED},
        "destinations": {
            "match": _CAPTURED,
            "via": "connect straight to the destination",
            "hbone_address": _TUNNEL,
            "hbone_port": _TUNNEL,
        },
    }
)
"""The keys by the record they will belong to; each with what to use today."""

TRANSPORTS: Mapping[str, str] = MappingProxyType({"hbone": _TUNNEL})
"""The transports of later versions, with what to use today."""
ENGINES: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("cython", "c"), "use `engine: native`")
)
"""The engines of later versions, with what to use today."""
