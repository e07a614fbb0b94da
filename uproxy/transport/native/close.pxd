"""The end of a connection: its sockets are closed, and the limits count it no more; before that, a
caller that was refused gets a second in which to read its alert."""

from libc.stdint cimport uint32_t

from uproxy.transport.native.system cimport EPOLLOUT, READ_EVENTS, SHUT_WR, shutdown, word_add
from uproxy.transport.native.codes cimport (
    F_EXCESS, F_HALF_CLOSED, F_IDLE, F_NO_HELLO, F_OS, F_SHORT_HANDSHAKE, F_SHORT_HELLO, F_TLS,
    F_UNASKED, F_UNPROVEN, F_VERIFY, RECEIVE_SIZE, V_REFUSED,
)
from uproxy.transport.native.types cimport Connection, Side, Worker
from uproxy.transport.native.limits cimport leave_limits
from uproxy.transport.native.channel cimport receive_raw, watch
from uproxy.transport.native.tls cimport close_channel, flush, free_tls
from uproxy.transport.native.side cimport is_finished


cdef inline void link_connection(Connection *connection) noexcept nogil:
    """Put the connection in its worker's list."""
    cdef Worker *worker = connection.worker
    connection.before, connection.after = NULL, worker.connections
    if worker.connections != NULL:
        worker.connections.before = connection
    worker.connections = connection


cdef inline void unlink_connection(Connection *connection) noexcept nogil:
    """Take the connection out of its worker's list."""
    if connection.before != NULL:
        connection.before.after = connection.after
    else:
        connection.worker.connections = connection.after
    if connection.after != NULL:
        connection.after.before = connection.before


cdef inline void close_side(Side *side, bint orderly) noexcept nogil:
    """End a side, with a reset unless `orderly`, and forget it: it can then be another one."""
    if side.stream != NULL:
        side.stream.carrier.close(side, orderly)
    close_channel(&side.channel, orderly)


cdef inline bint is_gone(Side *side) noexcept nogil:
    """Whether nothing comes any more but what was received."""
    return side.channel.gone if side.stream == NULL else side.stream.is_deaf


cdef inline void close_connection(Connection *connection, bint orderly) noexcept nogil:
    """Close both sides, with resets unless `orderly`, and give back what limits count."""
    # a reset would drop what the kernel hasn't delivered yet: a slow reader to which our end was
    # sent isn't at fault for the other side's silence
    cdef bint timed_out = (
        connection.fault.what == F_IDLE or connection.fault.what == F_HALF_CLOSED)
    cdef int index
    leave_limits(connection)
    for index in range(2):
        close_side(
            &connection.sides[index],
            orderly or (timed_out and is_finished(&connection.sides[index])))
    unlink_connection(connection)
    word_add(&connection.worker.load, -1)
    connection.finished_at = connection.worker.now


cdef inline bint is_told(Side *side) noexcept nogil:
    """Whether a caller whose handshake has failed gets an alert or an orderly end."""
    cdef int why = side.connection.fault.what
    return (why == F_OS or why == F_TLS or why == F_NO_HELLO or why == F_SHORT_HELLO
            or why == F_SHORT_HANDSHAKE or why == F_UNPROVEN or why == F_UNASKED
            or why == F_EXCESS or (why == F_VERIFY and side.channel.verdict == V_REFUSED))


cdef inline bint linger_turn(Side *side, uint32_t events) noexcept nogil:
    """Send a refused caller the rest of the alert, then a FIN, then read until its FIN.  If we
    closed at once, the kernel would answer bytes that still come with a reset, which overtakes the
    alert.  `events` are epoll's; 0 the first time.  Returns True when it is over."""
    if side.channel.unsent and events and flush(&side.channel) < 0:
        return True
    if side.channel.unsent:
        return watch(&side.channel, EPOLLOUT) < 0
    if not side.channel.ending:
        side.channel.ending = True
        free_tls(&side.channel)  # the alert is sent: lingering needn't cost a session's memory
        return shutdown(side.channel.fd, SHUT_WR) != 0 or watch(&side.channel, READ_EVENTS) < 0
    return events and has_ended(side)


cdef inline bint has_ended(Side *side) noexcept nogil:
    """Read one receive's worth and forget it.  Returns whether the end, or a failure, was read."""
    cdef ssize_t size = receive_raw(&side.channel, RECEIVE_SIZE)
    return size == 0 or size == -1
