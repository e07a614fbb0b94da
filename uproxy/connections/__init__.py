"""The connections that are open, and whether they may stay open."""

from uproxy.connections.checking import Entry
from uproxy.connections.denials import Denial
from uproxy.connections.recheck import ConnectionInfo, caller_of, distrust_of
from uproxy.connections.registry import Connections, OpenConnection

__all__ = [
    "ConnectionInfo", "Connections", "Denial", "Entry", "OpenConnection", "caller_of",
    "distrust_of",
]  # fmt: skip
