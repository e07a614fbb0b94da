"""The compiled engine's side on the event loop: it asks the doors, and tells the threads.

`engine` hands out what the threads report; `opendoor` is a listener, and what its arrivals meet;
`life` is one connection as the loop sees it, four times in its life at most; `reasons` puts the
threads' failures in words.
"""

from uproxy.transport.native.engine import NativeEngine

__all__ = ["NativeEngine"]
