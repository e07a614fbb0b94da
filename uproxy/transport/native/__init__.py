"""The compiled engine: threads that move bytes (`_engine` and its pages), and their loop side.

On the loop, `engine` is what the process uses; `listener` is a listening socket, and what its
arrivals meet; `handle` is one connection, which asks the doors and answers the threads; `deciding`
is what it knows; `loop` hands out what the threads report.  `connection.pxd` is a connection's
life on its thread.
"""

from uproxy.transport.native.engine import NativeEngine

__all__ = ["NativeEngine"]
