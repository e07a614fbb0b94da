"""How a connection stops: with a question to the loop, or for good."""

from uproxy.transport.native.deadlines cimport clear_deadline
from uproxy.transport.native.limits cimport free_slot, leave_limits
from uproxy.transport.native.queues cimport mark_decided, report
from uproxy.transport.native.types cimport (
    E_CLOSED, F_HALF_CLOSED, F_IDLE, M_ASKING, M_DEAD, Connection, Side, Worker,
)
from uproxy.transport.native.side cimport close_side
from uproxy.transport.native.system cimport word_add


cdef inline void ask_loop(Connection *connection, int event) noexcept nogil:
    """The loop decides on what comes next."""
    clear_deadline(connection)
    connection.mode = M_ASKING
    report(connection, event, True)


cdef inline void link_connection(Connection *connection) noexcept nogil:
    """It is this worker's."""
    cdef Worker *worker = connection.worker
    connection.before, connection.after = NULL, worker.connections
    if worker.connections != NULL:
        worker.connections.before = connection
    worker.connections = connection


cdef inline void unlink_connection(Connection *connection) noexcept nogil:
    if connection.before != NULL:
        connection.before.after = connection.after
    else:
        connection.worker.connections = connection.after
    if connection.after != NULL:
        connection.after.before = connection.before


cdef inline bint has_been_sent_our_end(Side *side) noexcept nogil:
    return side.ending and side.unsent == 0


cdef inline void end_connection(Connection *connection, bint orderly) noexcept nogil:
    """Its end: nothing touches it any more but C_RELEASE."""
    cdef Side *downstream = &connection.sides[0]
    cdef Side *upstream = &connection.sides[1]
    # a reset would take what the kernel hasn't delivered yet: a slow reader that was told the
    # end isn't at fault for the other side's silence
    cdef bint patient = connection.fault.what == F_IDLE or connection.fault.what == F_HALF_CLOSED
    free_slot(connection)
    clear_deadline(connection)
    leave_limits(connection)
    close_side(downstream, orderly or (patient and has_been_sent_our_end(downstream)))
    close_side(upstream, orderly or (patient and has_been_sent_our_end(upstream)))
    unlink_connection(connection)
    word_add(&connection.worker.load, -1)
    connection.finished = connection.worker.now
    connection.mode = M_DEAD
    mark_decided(connection)
    report(connection, E_CLOSED, False)
