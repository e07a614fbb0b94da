"""The end of a connection one of whose sides has failed while bytes passed.

What that side had sent is still passed on, and what was passed on is delivered, before the
other side is reset.  `half_close` bounds each pause in that.  What the other side says meanwhile
goes where it can, or is dropped, so that it isn't kept from reading.
"""

from libc.errno cimport ECONNRESET, errno

from uproxy.transport.native.close cimport end_connection
from uproxy.transport.native.types cimport (
    F_AFTER_HANDSHAKE, F_NONE, F_OS, F_TLS, P_CLOSING, Connection, Side,
)
from uproxy.transport.native.side cimport drop_backlog, fail, close_side
from uproxy.transport.native.system cimport (
    AF_UNIX, MSG_PEEK, SIOCOUTQ, SOL_SOCKET, SO_DOMAIN, SO_ERROR, getsockopt, ioctl, recv,
    word_set,
)

cdef enum:
    FIRST_LOOK = 1  # milliseconds between two looks at what the kernel hasn't delivered
    LAST_LOOK = 1000


cdef inline bint is_deaf(Side *side) noexcept nogil:
    """Whether no more application bytes can be sent to it."""
    return side.gone or side.failed != F_NONE


cdef inline int pending_error(int fd) noexcept nogil:
    """Take the errno that the kernel keeps for a socket; ECONNRESET if it keeps none."""
    cdef int error = 0
    cdef unsigned int size = sizeof(error)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return errno
    return error if error else ECONNRESET


cdef inline bint has_unread(Side *side) noexcept nogil:
    """Whether bytes from it wait, here or in the kernel."""
    cdef char byte
    return side.early_size > 0 or recv(side.fd, &byte, 1, MSG_PEEK) > 0


cdef inline void note_loss(Side *side) noexcept nogil:
    """Record the failure of a side as the connection's, if it is the first."""
    cdef Connection *connection = side.connection
    if side.failed != F_NONE:
        fail(side, side.failed, 0, side.code)
    elif side.gone:
        fail(side, F_OS, side.error, 0)
    if connection.fault.what != F_NONE and connection.lost_at == 0:
        connection.lost_at = connection.last_moved = connection.worker.now
        word_set(&connection.state, P_CLOSING)


cdef inline void lose_side(Side *side) noexcept nogil:
    """Its socket takes no more: drop what waits to be sent."""
    side.gone = side.hung_up = True
    side.midway = side.corked = False
    drop_backlog(side)
    note_loss(side)


cdef inline void lose_source(Side *side) noexcept nogil:
    """Nothing more can be read of it, and all that came was passed on."""
    side.connection.flow_ended[side.index] = True
    side.midway = False
    name_refusal(side)
    note_loss(side)


cdef inline void name_refusal(Side *side) noexcept nogil:
    """An alert says more than the failure to send that came before it was read.  A TLS 1.3
    server's refusal of our certificate comes after the handshake has ended for us (RFC 8446
    §2): before its first application byte an alert is that refusal."""
    cdef Connection *connection = side.connection
    if connection.fault.side != side.index or side.failed == F_NONE or not is_alert(side.code):
        return
    if connection.fault.what == F_OS:
        connection.fault.what, connection.fault.code = F_TLS, side.code
    if connection.fault.what == F_TLS and side.tls_setup.client and connection.counts[side.index] == 0:
        connection.fault.what = F_AFTER_HANDSHAKE


cdef inline bint is_alert(unsigned long code) noexcept nogil:
    """ERR_LIB_SSL, and a reason above SSL_AD_REASON_OFFSET: the peer sent it."""
    return ((code >> 23) & 0xFF) == 20 and 1000 <= (code & 0x7FFFFF) < 1256


cdef inline Side *survivor(Connection *connection) noexcept nogil:
    """The side that isn't the first to have failed."""
    return &connection.sides[1 - connection.fault.side]


cdef inline bint is_passed_on(Connection *connection) noexcept nogil:
    """Whether the survivor's kernel has all that the side that failed had sent."""
    return connection.flow_ended[connection.fault.side] and survivor(connection).unsent == 0


cdef inline int in_kernel(Side *side) noexcept nogil:
    """Bytes that the kernel holds and a reset would drop.  A unix socket's are with the reader
    already."""
    cdef int domain = 0, undelivered = 0
    cdef unsigned int size = sizeof(domain)
    if side.fd < 0 or side.gone:
        return 0
    if getsockopt(side.fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 or domain == AF_UNIX:
        return 0
    return undelivered if ioctl(side.fd, SIOCOUTQ, &undelivered) == 0 else 0


cdef inline bint is_delivered(Side *side) noexcept nogil:
    return side.unsent == 0 and in_kernel(side) == 0


cdef inline void reset_if_delivered(Connection *connection) noexcept nogil:
    """Reset the survivor once it has all that the side that failed had sent, then that side once
    it has all that the survivor had."""
    cdef int undelivered
    if is_passed_on(connection) and is_delivered(survivor(connection)):
        reset(survivor(connection))
        if is_delivered(&connection.sides[connection.fault.side]):
            end_connection(connection, False)
            return
    undelivered = in_kernel(&connection.sides[0]) + in_kernel(&connection.sides[1])
    if undelivered != connection.undelivered:
        connection.undelivered = undelivered
        connection.last_moved = connection.worker.now


cdef inline void reset(Side *side) noexcept nogil:
    close_side(side, False)
    side.gone = side.hung_up = True
    side.connection.flow_ended[side.index] = True


cdef inline double next_look(Connection *connection) noexcept nogil:
    """When to look again at what the kernel hasn't delivered, of which it reports nothing: the
    longer it takes, the less often."""
    cdef double pause = (connection.worker.now - connection.lost_at) / 4
    return connection.worker.now + min(max(pause, FIRST_LOOK / 1000.0), LAST_LOOK / 1000.0)
