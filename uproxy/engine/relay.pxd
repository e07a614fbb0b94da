"""Moving bytes both ways until both directions have ended.

Flow 0 goes from near to far, flow 1 back.  A sink that doesn't take everything stops its
source from being read, so a connection holds a few receives' worth of bytes per direction at
most.  Level-triggered: so many receives per event, so that a bulk stream doesn't starve others.
"""

from libc.errno cimport ECONNRESET, errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free

from uproxy.engine.deadlines cimport set_deadline
from uproxy.engine.ending cimport die
from uproxy.engine.parts cimport (
    BULK_RECEIVE, F_AFTER_HANDSHAKE, F_HALF_CLOSED, F_IDLE, F_MEMORY, F_NONE, F_OS, F_TLS,
    F_TRUNCATED, M_RELAYING, OWN_BACKLOG, P_CLOSING, P_RELAYING, RECEIVE, RECORD, THIN_RECEIVE,
    Conn, Side,
)
from uproxy.engine.side cimport (
    fail, fed, feed, finish, flush, push_output, read_plain, receive_raw, send_plain, shed,
    watch,
)
from uproxy.engine.system cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, LISTEN, SETTLED_AFTER, SO_ERROR,
    SOL_SOCKET, count_add, getsockopt, word_set,
)

cdef enum:
    MOST_RECEIVED = BULK_RECEIVE  # bytes asked for per event, but for the last receive
    FULL = 1


cdef inline bint flow_open(Conn *conn, int flow) noexcept nogil:
    """Whether the source should be read now."""
    return not (
        conn.flow_ended[flow]
        or conn.sides[1 - flow].backlog_size
        or conn.sides[flow].backlog_size > OWN_BACKLOG
    )


cdef inline void relay_begin(Conn *conn, const char *preface, size_t size) noexcept nogil:
    conn.mode = M_RELAYING
    word_set(&conn.phase, P_RELAYING)
    conn.last = conn.worker.now
    conn.settles = conn.last + SETTLED_AFTER
    if size and send_plain(&conn.sides[1], preface, size) < 0:
        relay_failed(conn)
        return
    # who dialled in has mostly spoken by now: it goes along with the handshake's last words
    if (flow_open(conn, 0) and pump(conn, 0, False) < 0) or push_rest(&conn.sides[1]) < 0:
        relay_failed(conn)
        return
    check_patience(conn)
    if conn.mode == M_RELAYING:
        settle(conn)


cdef inline int push_rest(Side *side) noexcept nogil:
    return 0 if side.ssl == NULL else push_output(side)


cdef inline void relay_turn(Side *side, uint32_t events) noexcept nogil:
    """One side, the source of its flow, is ready for something."""
    cdef Conn *conn = side.conn
    cdef bint broken = (events & (EPOLLERR | EPOLLHUP)) != 0
    cdef bint reading = flow_open(conn, side.index)
    cdef int result = 0, asked = 0
    if side.backlog_size and (broken or events & EPOLLOUT):
        result = flush(side)
        conn.last = conn.worker.now
    elif broken and not reading:
        result = lose(side, events)
    if result == 0 and reading and (broken or events & EPOLLIN):
        result = FULL
        while result == FULL and asked < MOST_RECEIVED and flow_open(conn, side.index):
            asked += max(side.appetite, <int>RECEIVE)
            result = pump(conn, side.index, (events & (EPOLLRDHUP | EPOLLERR)) == EPOLLRDHUP)
            if result == 0 and events & EPOLLRDHUP:
                result = FULL  # its end is behind what was read
        if uncork(&conn.sides[1 - side.index]) < 0:
            result = -1
    if result < 0:
        relay_failed(conn)
    else:
        settle(conn)


cdef inline void settle(Conn *conn) noexcept nogil:
    """Take what needs no socket, end if all is done, otherwise wait for the right events."""
    cdef Side *near = &conn.sides[0]
    cdef Side *far = &conn.sides[1]
    cdef int flow
    for flow in range(2):
        while flow_open(conn, flow) and (conn.sides[flow].early_size or conn.sides[flow].ended):
            if pump(conn, flow, False) < 0:
                relay_failed(conn)
                return
    if (conn.flow_ended[0] and conn.flow_ended[1]
            and not near.backlog_size and not far.backlog_size):
        die(conn, True)
        return
    if watch(near, wanted(conn, 0)) < 0 or watch(far, wanted(conn, 1)) < 0:
        relay_failed(conn)


cdef inline int uncork(Side *side) noexcept nogil:
    """Records don't outlast the turn, though the end that they waited for was a reset, or is
    still to come."""
    if not side.corked or side.ending or side.ssl == NULL:
        return 0
    side.corked = False
    return push_output(side)


cdef inline int wanted(Conn *conn, int side) noexcept nogil:
    cdef int mask = 0
    if flow_open(conn, side):
        mask |= LISTEN
    if conn.sides[side].backlog_size:
        mask |= EPOLLOUT
    return mask


cdef inline int pump(Conn *conn, int flow, bint hung_up) noexcept nogil:
    """One receive's worth; FULL if there may be more.  `hung_up`: the orderly end of the source's
    socket is behind what there is."""
    cdef Side *source = &conn.sides[flow]
    cdef Side *sink = &conn.sides[1 - flow]
    cdef char *data = NULL
    cdef char *early = NULL
    cdef ssize_t size
    cdef bint full = False
    if source.early_size:
        early = data = source.early
        size = source.early_size
        source.early = NULL
        source.early_size = 0
    else:
        size = hear(source, &data, &full)
        if size == -2:
            return 0  # level-triggered: who sends much that isn't the application's waits a turn
        if size < 0:
            return -1
    conn.last = conn.worker.now
    if size == 0:
        return end_flow(conn, flow)
    count_add(&conn.counts[flow], size)
    # the end follows at once: in the clear, where it can't be taken back, only what is certain
    if source.ssl != NULL:
        sink.corked = source.ended and sink.ssl == NULL
    else:
        sink.corked = hung_up and not full and sink.ssl != NULL
    if send_plain(sink, data, size) < 0:
        free(early)
        return -1
    free(early)
    if sink.backlog_size:
        source.appetite = min(source.appetite, <int>RECEIVE)
    return FULL if full else 0


cdef inline ssize_t hear(Side *side, char **data, bint *full) noexcept nogil:
    """Application bytes, valid until the next one hears; 0 at the end, -2 not now, -1 failed."""
    cdef ssize_t size, got
    cdef ssize_t most = side.appetite
    if side.ended:
        return 0
    got = size = receive_raw(side, most)
    if size == -1:
        return fail(side, F_OS, errno, 0)
    data[0] = side.conn.worker.received
    full[0] = size == most
    side.appetite = BULK_RECEIVE if size >= RECEIVE else RECEIVE
    if side.ssl == NULL or size == -2:
        return size
    if size == 0:
        return fail(side, F_TRUNCATED, 0, 0)
    if feed(side, side.conn.worker.received, size) < 0:
        return -1
    size = read_plain(side)
    if size < 0:
        return -1
    fed(side)
    if 2 * size < got and (got > RECORD or most == THIN_RECEIVE):
        side.appetite = THIN_RECEIVE  # most of it wasn't the application's, nor part of a record
    if push_output(side) < 0:  # the answer to a KeyUpdate
        return -1
    data[0] = side.conn.worker.plain
    if size == 0 and not side.ended:
        return -2  # part of a record, or a message that isn't the application's
    return size


cdef inline int end_flow(Conn *conn, int flow) noexcept nogil:
    conn.flow_ended[flow] = True
    if finish(&conn.sides[1 - flow]) < 0:
        return -1
    word_set(&conn.phase, P_CLOSING)
    return patience_left(conn)


cdef inline int lose(Side *side, uint32_t events) noexcept nogil:
    """An error or a hang-up of a side that nothing is wanted from."""
    if events & EPOLLERR:
        return fail(side, F_OS, pending_error(side.fd), 0)
    side.hung_up = True
    return 0


cdef inline int pending_error(int fd) noexcept nogil:
    cdef int error = 0
    cdef unsigned int size = sizeof(error)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return errno
    return error if error else ECONNRESET


cdef inline void relay_failed(Conn *conn) noexcept nogil:
    """A TLS 1.3 server's refusal of our certificate comes after the handshake has ended for
    us (RFC 8446 §2): before its first application byte an alert is that refusal."""
    cdef Side *side = &conn.sides[conn.fault.side]
    if side.ssl != NULL and side.shakes.client and conn.counts[side.index] == 0:
        if conn.fault.what == F_OS:
            find_last_word(side)
        if conn.fault.what == F_TLS and is_alert(conn.fault.code):
            conn.fault.what = F_AFTER_HANDSHAKE
    die(conn, False)


cdef inline void find_last_word(Side *side) noexcept nogil:
    """The alert that may lie behind an error: sending fails before it is read."""
    cdef Conn *conn = side.conn
    cdef int error = conn.fault.error
    cdef char *data = NULL
    cdef bint full = False
    conn.fault.what = F_NONE
    while hear(side, &data, &full) > 0:
        pass
    if conn.fault.what != F_TLS:
        conn.fault.what, conn.fault.error = F_OS, error


cdef inline bint is_alert(unsigned long code) noexcept nogil:
    """ERR_LIB_SSL, and a reason above SSL_AD_REASON_OFFSET: the peer sent it."""
    return ((code >> 23) & 0xFF) == 20 and 1000 <= (code & 0x7FFFFF) < 1256


cdef inline int patience_left(Conn *conn) noexcept nogil:
    """-1 if nothing has moved for too long; otherwise look again when that could be."""
    cdef bint half_closed = conn.flow_ended[0] or conn.flow_ended[1]
    cdef double limit = conn.limits[half_closed]
    cdef double due = conn.last + limit if limit else 0
    if limit and conn.worker.now >= due:
        return fail(&conn.sides[0], F_HALF_CLOSED if half_closed else F_IDLE, 0, 0)
    if conn.settles:
        if conn.worker.now >= conn.settles:
            conn.settles = 0
            shed(&conn.sides[0])
            shed(&conn.sides[1])
        elif due == 0 or conn.settles < due:
            due = conn.settles
    if set_deadline(conn, due) < 0:
        return fail(&conn.sides[0], F_MEMORY, 0, 0)
    return 0


cdef inline void check_patience(Conn *conn) noexcept nogil:
    if patience_left(conn) < 0:
        relay_failed(conn)
