"""Everything that decides about connections at one moment: immutable, replaced as a whole."""

from uproxy.snapshot.snapshot import (
    Application,
    Destination,
    RecheckActions,
    Snapshot,
    names_in,
    rule_target,
)

__all__ = ["Application", "Destination", "RecheckActions", "Snapshot", "names_in", "rule_target"]
