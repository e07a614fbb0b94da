"""The engine's threads, compiled: raw sockets and raw TLS, no decision.

`_engine` is the whole of it; `uproxy.transport.native` is the side that asks doors.
"""
