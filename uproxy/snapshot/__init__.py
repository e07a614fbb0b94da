"""What decides about connections at one moment: an immutable whole, replaced and never changed."""

from uproxy.snapshot.snapshot import (
    Application,
    Destination,
    RecheckActions,
    Snapshot,
    names_in,
)

__all__ = ["Application", "Destination", "RecheckActions", "Snapshot", "names_in"]
