"""The connections that are open, and whether they may stay open."""

from uproxy.connections.denials import Denial
from uproxy.connections.judging import InForce, Party, Shown, caller_of
from uproxy.connections.registry import Connections, OpenConnection

__all__ = ["Connections", "Denial", "InForce", "OpenConnection", "Party", "Shown", "caller_of"]
