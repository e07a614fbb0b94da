"""Handshakes with strangers: a leaf that isn't in the table is judged with the GIL, for which
nobody's bytes are to wait.

While strangers come, the step of a near handshake that may show a leaf is lent to a thread that
has nothing else to do, and comes back as a command.  The first one still holds its worker up.
"""

from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC

from uproxy.engine.inbox cimport command, post
from uproxy.engine.parts cimport C_LEND, C_RETURN, F_NONE, Command, Conn, Shared, Side
from uproxy.engine.side cimport mute
from uproxy.engine.system cimport STRANGERS_FOR, clock_of, long_get, long_set


cdef inline void strangers_came(Shared *shared) noexcept nogil:
    long_set(&shared.stranger_came, <int64_t>(clock_of(CLOCK_MONOTONIC) * 1000))


cdef inline bint strangers_come(Conn *conn) noexcept nogil:
    cdef int64_t came = long_get(&conn.worker.shared.stranger_came)
    return came != 0 and <int64_t>(conn.worker.now * 1000) - came < STRANGERS_FOR


cdef inline bint is_lent(Conn *conn) noexcept nogil:
    return conn.hands != conn.worker


cdef inline bint lend(Side *side) noexcept nogil:
    """False without memory: it is to be done here."""
    cdef Conn *conn = side.conn
    cdef Command *order = command(C_LEND, conn)
    if order == NULL:
        return False
    mute(side)
    conn.recalled = F_NONE
    conn.hands = conn.worker.shared.strangers
    post(conn.hands, order)
    return True


cdef inline void send_back(Command *order, int result) noexcept nogil:
    """With what its step came to; the owner touches it from then on."""
    order.kind, order.result = C_RETURN, result
    post(order.conn.worker, order)
