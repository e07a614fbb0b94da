"""The engine in pure Python, on the event loop's own thread.

It obeys the same contract and the same table of states as an engine of threads would, and
is what the tests compare such an engine with.  It isn't fast; it is readable.  Pages, from
the bottom up: `poller` (who is ready), `leg` and `tls` (one side of a connection), `hello`
(whether a ClientHello is all there), `dial` (reaching the far side), `relay` (moving
bytes), `gate` (the limits), `life` (a connection's whole life, in order) and `engine`.
"""

from uproxy.transport.python.engine import PythonEngine

__all__ = ["PythonEngine"]
