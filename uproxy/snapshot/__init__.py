"""Everything that decides about connections at one moment: immutable, replaced as a whole."""

from uproxy.snapshot.destinations import Destination
from uproxy.snapshot.l7 import L7Proxy, Via
from uproxy.snapshot.snapshot import (
    Application,
    RecheckActions,
    Snapshot,
    names_in,
    rule_target,
)

__all__ = [
    "Application", "Destination", "L7Proxy", "RecheckActions", "Snapshot", "Via", "names_in",
    "rule_target",
]  # fmt: skip
