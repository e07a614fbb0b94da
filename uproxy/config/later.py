"""Keys and words of later versions, each with what to use today.

They are refused with a reason of their own, so that they are never accepted in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

KEYS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "": {
            "handover": "remove the key and restart to upgrade",
        },
    }
)
"""The keys by the record they will belong to; each with what to use today."""

ENGINES: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("cython", "c"), "use `engine: native`")
)
"""The engines of later versions, with what to use today."""
