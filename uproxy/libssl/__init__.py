"""The border: the one package where OpenSSL's pointers cross.

It reaches the functions inside the `cryptography` wheel (linking the system's libssl would
hand 4.0 objects to 3.0 code) and turns them into two typed things: a `Context`, made once
for a `TlsPlan`, and a `Session`, one connection's TLS without a socket: ciphertext goes in
and comes out as bytes.  The compiled engine shares the contexts, gets the addresses of what it
calls itself, and asks `judge`.  It isn't a general TLS library: it knows mutual TLS only.

The pages, from the bottom up: `binding` (OpenSSL's functions, and errors in words), `callbacks`
(what OpenSSL calls of Python), `context`, `session`, `paths` (whether a chain leads to a trusted
root), `selfcheck`.

Rules: a peer is accepted by `TlsPlan.verify` inside this very handshake or not at all, since
the certificate store is empty, sessions are never resumed and a peer can't renegotiate; a
pointer into a caller's bytes never outlives the call; the error queue is emptied before each
call into OpenSSL; every function but `judge` and `Anchor`'s is called on one thread.
"""

from uproxy.libssl.binding import Buffer, TlsError, addresses, in_words, overwrite_freed, stand_ins
from uproxy.libssl.context import Compiled, Context, context_of, judge
from uproxy.libssl.paths import Anchor, PathError
from uproxy.libssl.selfcheck import check, check_callbacks
from uproxy.libssl.session import RECEIVE_SIZE, Session

__all__ = [
    "RECEIVE_SIZE",
    "Anchor",
    "Buffer",
    "Compiled",
    "Context",
    "PathError",
    "Session",
    "TlsError",
    "addresses",
    "check",
    "check_callbacks",
    "context_of",
    "in_words",
    "judge",
    "overwrite_freed",
    "stand_ins",
]
