"""How a connection stops: with a question to the loop, or for good."""

from uproxy.transport.native.deadlines cimport forget_deadline
from uproxy.transport.native.limits cimport free_slot, leave
from uproxy.transport.native.queues cimport decide, tell
from uproxy.transport.native.types cimport (
    E_CLOSED, F_HALF_CLOSED, F_IDLE, M_ASKING, M_DEAD, Conn, Side, Worker,
)
from uproxy.transport.native.side cimport let_go
from uproxy.transport.native.system cimport word_add


cdef inline void ask(Conn *conn, int event) noexcept nogil:
    """The loop decides on what comes next."""
    forget_deadline(conn)
    conn.mode = M_ASKING
    tell(conn, event, True)


cdef inline void link_conn(Conn *conn) noexcept nogil:
    """It is this worker's."""
    cdef Worker *worker = conn.worker
    conn.before, conn.after = NULL, worker.conns
    if worker.conns != NULL:
        worker.conns.before = conn
    worker.conns = conn


cdef inline void unlink_conn(Conn *conn) noexcept nogil:
    if conn.before != NULL:
        conn.before.after = conn.after
    else:
        conn.worker.conns = conn.after
    if conn.after != NULL:
        conn.after.before = conn.before


cdef inline bint was_told(Side *side) noexcept nogil:
    return side.ending and side.backlog_size == 0


cdef inline void die(Conn *conn, bint orderly) noexcept nogil:
    """Its end: nothing touches it any more but C_RELEASE."""
    cdef Side *near = &conn.sides[0]
    cdef Side *far = &conn.sides[1]
    # a reset would take what the kernel hasn't delivered yet: a slow reader that was told the
    # end isn't at fault for the other side's silence
    cdef bint patient = conn.fault.what == F_IDLE or conn.fault.what == F_HALF_CLOSED
    free_slot(conn)
    forget_deadline(conn)
    leave(conn)
    let_go(near, orderly or (patient and was_told(near)))
    let_go(far, orderly or (patient and was_told(far)))
    unlink_conn(conn)
    word_add(&conn.worker.load, -1)
    conn.finished = conn.worker.now
    conn.mode = M_DEAD
    decide(conn)
    tell(conn, E_CLOSED, False)
