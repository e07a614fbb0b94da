"""What follows when one side of a relay has failed.

What that side had sent is still passed on.  When the kernel has delivered it, the other side is
reset.  If no byte is delivered for `timeouts.half_close` seconds, both sides are reset.  What the
other side sends meanwhile is passed on where that is possible, otherwise dropped: a side that can't
send might not read either.
"""

from uproxy.transport.native.codes cimport F_AFTER_HANDSHAKE, F_NONE, F_OS, F_TLS
from uproxy.transport.native.types cimport Connection, Side
from uproxy.transport.native.side cimport (
    abandon_side, alert_of, is_tls_client, record_failure, reset_side, stop_reading, undelivered,
    unsent,
)

cdef enum:  # milliseconds between two looks at what the kernel hasn't delivered
    FIRST_LOOK_MS = 1
    LAST_LOOK_MS = 1000


cdef inline void note_loss(Connection *connection) noexcept nogil:
    """Note the time of the first failure, if one is recorded."""
    if connection.fault.what != F_NONE and connection.lost_at == 0:
        connection.lost_at = connection.last_moved = connection.worker.now


cdef inline void lose_sink(Side *side) noexcept nogil:
    """Write nothing any more to a side whose socket or TLS has failed, and record why."""
    abandon_side(side)
    record_failure(side)


cdef inline void lose_source(Side *side) noexcept nogil:
    """Read nothing any more from a side that has failed, and record why; all that came from it was
    passed on."""
    side.connection.flow_ended[side.index] = True
    stop_reading(side)
    name_refusal(side)
    record_failure(side)


cdef inline void name_refusal(Side *side) noexcept nogil:
    """Let an alert replace the failure to send that was recorded before it was read.  A TLS 1.3
    server refuses our certificate when the handshake has ended for us (RFC 8446 §2): an alert
    before its first application byte is that refusal."""
    cdef Connection *connection = side.connection
    cdef unsigned long alert = alert_of(side)
    if connection.fault.side != side.index or alert == 0:
        return
    if connection.fault.what == F_OS:
        connection.fault.what, connection.fault.code = F_TLS, alert
    if (connection.fault.what == F_TLS and is_tls_client(side)
            and connection.counts[side.index] == 0):
        connection.fault.what = F_AFTER_HANDSHAKE


cdef inline Side *survivor(Connection *connection) noexcept nogil:
    """Return the side that isn't the first to have failed."""
    return &connection.sides[1 - connection.fault.side]


cdef inline bint is_passed_on(Connection *connection) noexcept nogil:
    """Whether the survivor's kernel has all that the failed side had sent."""
    return connection.flow_ended[connection.fault.side] and unsent(survivor(connection)) == 0


cdef inline bint is_delivered(Side *side) noexcept nogil:
    """Whether the side's peer has all that was written to it."""
    return unsent(side) == 0 and undelivered(side) == 0


cdef inline bint reset_if_delivered(Connection *connection) noexcept nogil:
    """Reset the survivor once it has all that the failed side had sent.  True if the failed side
    has all that the survivor had sent, too: nothing is left to do."""
    cdef int queued
    if is_passed_on(connection) and is_delivered(survivor(connection)):
        reset_side(survivor(connection))
        connection.flow_ended[1 - connection.fault.side] = True
        if is_delivered(&connection.sides[connection.fault.side]):
            return True
    queued = <int>(undelivered(&connection.sides[0]) + undelivered(&connection.sides[1]))
    if queued != connection.undelivered:
        connection.undelivered = queued
        connection.last_moved = connection.worker.now
    return False


cdef inline double next_look(Connection *connection) noexcept nogil:
    """Return when to look again at the kernel's send queues, of which epoll reports nothing: the
    longer it takes, the less often."""
    cdef double pause = (connection.worker.now - connection.lost_at) / 4
    return connection.worker.now + min(max(pause, FIRST_LOOK_MS / 1000.0), LAST_LOOK_MS / 1000.0)
