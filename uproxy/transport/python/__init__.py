"""The engine in pure Python, on the event loop's own thread.

It obeys the same contract and the same table of states as the compiled engine, which the tests
compare with it.  It isn't fast; it is readable.  Pages, from the bottom up: `client_hello`
(whether a ClientHello is complete), `channel` and `tls` (one socket, in the clear or under TLS),
`side` (what a relay sees of it), `relay` and `loss` (moving bytes), `close` (closing both sides),
`limits` (how many connections may be open), `deciding` (which door decides), `connection` (a
connection's whole life, in order), `listener` (accepting) and `engine`.
"""

from uproxy.transport.python.engine import PythonEngine

__all__ = ["PythonEngine"]
