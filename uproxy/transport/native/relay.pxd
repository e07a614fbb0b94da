"""Moving bytes both ways until both directions have ended.

Flow 0 goes from near to far, flow 1 back.  A sink that doesn't take everything stops its
source from being read, so a connection holds a few receives' worth of bytes per direction at
most.  Level-triggered: so many receives per event, so that a bulk stream doesn't starve others.
"""

from libc.errno cimport errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free

from uproxy.transport.native.deadlines cimport earlier, set_deadline
from uproxy.transport.native.close cimport die
from uproxy.transport.native.loss cimport (
    is_deaf, is_passed_on, lose, lose_source, next_look, note_loss, pending_error,
    reset_if_delivered,
)
from uproxy.transport.native.types cimport (
    BULK_RECEIVE, F_HALF_CLOSED, F_IDLE, F_MEMORY, F_NONE, F_OS, F_TRUNCATED, M_DEAD, M_RELAYING,
    OWN_BACKLOG, P_CLOSING, P_RELAYING, RECEIVE, RECORD, THIN_RECEIVE, Conn, Side,
)
from uproxy.transport.native.side cimport (
    fail, fail_read, fed, feed, finish, flush, push_output, read_plain, receive_raw, send_plain,
    shed, watch,
)
from uproxy.transport.native.system cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, LISTEN, SETTLED_AFTER, count_add, word_set,
)

cdef enum:
    MOST_RECEIVED = BULK_RECEIVE  # bytes asked for per event, but for the last receive

cdef enum Pumped:  # what a receive came to
    EMPTY = 0
    FULL = 1  # there may be more

cdef enum Heard:  # instead of a number of bytes
    H_FAILED = -1
    H_NOT_NOW = -2  # the socket has nothing
    H_NOT_OURS = -3  # part of a record, or a message that isn't the application's


cdef inline bint flow_open(Conn *conn, int flow) noexcept nogil:
    """Whether the source should be read now."""
    return not (
        conn.flow_ended[flow]
        or conn.sides[1 - flow].backlog_size
        or conn.sides[1 - flow].midway
        or conn.sides[flow].backlog_size > OWN_BACKLOG
    )


cdef inline void relay_begin(Conn *conn, const char *preface, size_t size) noexcept nogil:
    """Bytes may pass; `preface` goes before them to the far side, which is in the clear."""
    cdef Side *far = &conn.sides[1]
    conn.mode = M_RELAYING
    word_set(&conn.phase, P_RELAYING)
    conn.last = conn.worker.now
    conn.settles = conn.last + SETTLED_AFTER
    note_loss(&conn.sides[0])
    note_loss(far)
    if size and send_plain(far, preface, size) < 0:
        lose(far)
    # who dialled in has mostly spoken by now: it goes along with the handshake's last words
    if flow_open(conn, 0):
        pump(conn, 0, False)
    if far.ssl != NULL and not far.gone and push_output(far) < 0:
        lose(far)
    if patience_left(conn) < 0:
        die(conn, False)
    else:
        settle(conn)


cdef inline void relay_turn(Side *side, uint32_t events) noexcept nogil:
    """One side, the source of its flow, is ready for something."""
    cdef Conn *conn = side.conn
    cdef bint broken = (events & (EPOLLERR | EPOLLHUP)) != 0
    cdef bint reading = flow_open(conn, side.index)
    if side.backlog_size and (broken or events & EPOLLOUT):
        if flush(side) < 0:
            lose(side)
        else:
            conn.last = conn.worker.now
    elif broken and not reading:
        hang_up(side, events)
    if reading and (broken or events & EPOLLIN):
        pump_some(conn, side.index, events)
    settle(conn)


cdef inline void pump_some(Conn *conn, int flow, uint32_t events) noexcept nogil:
    cdef Side *source = &conn.sides[flow]
    cdef int result = FULL, asked = 0
    while result == FULL and asked < MOST_RECEIVED and flow_open(conn, flow):
        asked += max(source.appetite, <int>RECEIVE)
        result = pump(conn, flow, (events & (EPOLLRDHUP | EPOLLERR)) == EPOLLRDHUP)
        if events & EPOLLRDHUP:
            result = FULL  # its end is behind what was read
    if uncork(&conn.sides[1 - flow]) < 0:
        lose(&conn.sides[1 - flow])


cdef inline void settle(Conn *conn) noexcept nogil:
    """Take what needs no socket, end if all is done, otherwise wait for the right events."""
    cdef Side *near = &conn.sides[0]
    cdef Side *far = &conn.sides[1]
    cdef int flow
    for flow in range(2):
        while flow_open(conn, flow) and needs_no_event(&conn.sides[flow]):
            pump(conn, flow, False)
    if conn.fault.what == F_MEMORY:
        die(conn, False)
    elif conn.fault.what != F_NONE:
        settle_loss(conn)
    elif (conn.flow_ended[0] and conn.flow_ended[1]
            and not near.backlog_size and not far.backlog_size):
        die(conn, True)
    if conn.mode != M_DEAD and (
            watch(near, wanted(conn, 0)) < 0 or watch(far, wanted(conn, 1)) < 0):
        die(conn, False)


cdef inline void settle_loss(Conn *conn) noexcept nogil:
    """A side has failed: end if all that came before is delivered, otherwise look again."""
    reset_if_delivered(conn)
    if conn.mode != M_DEAD and patience_left(conn) < 0:
        die(conn, False)


cdef inline bint needs_no_event(Side *side) noexcept nogil:
    """Whether what can be read of it is here, or in the kernel for good."""
    return side.early_size or side.ended or side.failed != F_NONE or side.gone


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
    if is_deaf(sink):
        return discard_some(source)
    if source.early_size:
        early = data = source.early
        size = source.early_size
        source.early = NULL
        source.early_size = 0
    else:
        size = hear(source, &data, &full)
        if size < 0:
            return heard_nothing(source, size)
    if conn.fault.what == F_NONE or conn.fault.side == flow:
        conn.last = conn.worker.now
    if size == 0:
        end_flow(conn, flow)
        return EMPTY
    count_add(&conn.counts[flow], size)
    # the end follows at once: in the clear, where it can't be taken back, only what is certain
    if source.ssl != NULL:
        sink.corked = source.ended and sink.ssl == NULL
    else:
        sink.corked = hung_up and not full and sink.ssl != NULL
    if send_plain(sink, data, size) < 0:
        lose(sink)
    free(early)
    if sink.backlog_size:
        source.appetite = min(source.appetite, <int>RECEIVE)
    return FULL if full else EMPTY


cdef inline int heard_nothing(Side *source, ssize_t why) noexcept nogil:
    """What follows from `why` (a `Heard`).  Of a socket that is gone all is in the kernel, so that
    "not now" is its end."""
    if why == H_NOT_OURS:
        return EMPTY  # level-triggered: who sends much that isn't the application's waits a turn
    if why == H_NOT_NOW and not source.gone:
        return EMPTY
    lose_source(source)
    # a side that has only stopped sending can still be told what the other one had said
    if not is_deaf(source) and flow_open(source.conn, 1 - source.index):
        pump(source.conn, 1 - source.index, False)
    return EMPTY


cdef inline int discard_some(Side *side) noexcept nogil:
    """Take one receive's worth of what can't be passed on any more, and forget it."""
    cdef ssize_t size = 0
    free(side.early)
    side.early = NULL
    side.early_size = 0
    if not side.ended and side.failed == F_NONE:
        size = receive_raw(side, RECEIVE)
    if size == H_NOT_NOW and not side.gone:
        return EMPTY
    if size > 0:
        return FULL
    if size < 0:
        lose(side)
    side.conn.flow_ended[side.index] = True
    return EMPTY


cdef inline ssize_t hear(Side *side, char **data, bint *full) noexcept nogil:
    """Application bytes, valid until the next one hears; 0 at the end; or a `Heard`."""
    cdef ssize_t size, got
    cdef ssize_t most = side.appetite
    if side.ended:
        return 0
    if side.failed != F_NONE:
        return fail_read(side)
    got = size = receive_raw(side, most)
    if size == -1:
        fail(side, F_OS, errno, 0)
        lose(side)
        return H_FAILED
    data[0] = side.conn.worker.received
    full[0] = size == most
    side.appetite = BULK_RECEIVE if size >= RECEIVE else RECEIVE
    if size == 0 and side.gone:
        return H_FAILED  # its error has been taken from the kernel, which calls this the end now
    if side.ssl == NULL or size == H_NOT_NOW:
        return size
    if size == 0:
        return fail(side, F_TRUNCATED, 0, 0)
    if feed(side, side.conn.worker.received, size) < 0:
        return H_FAILED
    size = read_plain(side)
    if size < 0:
        return H_FAILED
    fed(side)
    if side.failed != F_NONE:
        note_loss(side)
    if 2 * size < got and (got > RECORD or most == THIN_RECEIVE):
        side.appetite = THIN_RECEIVE  # most of it wasn't the application's, nor part of a record
    if not side.gone and push_output(side) < 0:  # the answer to a KeyUpdate
        lose(side)
    data[0] = side.conn.worker.plain
    if size == 0 and not side.ended:
        return H_NOT_OURS
    return size


cdef inline void end_flow(Conn *conn, int flow) noexcept nogil:
    cdef Side *sink = &conn.sides[1 - flow]
    conn.flow_ended[flow] = True
    if finish(sink) < 0:
        lose(sink)
    word_set(&conn.phase, P_CLOSING)
    arm(conn)


cdef inline void hang_up(Side *side, uint32_t events) noexcept nogil:
    """An error or a hang-up of a side that nothing is wanted from now."""
    side.hung_up = True
    if events & EPOLLERR:
        fail(side, F_OS, pending_error(side.fd), 0)
        lose(side)


cdef inline int patience_left(Conn *conn) noexcept nogil:
    """-1 if nothing has moved for too long; otherwise look again when that could be."""
    cdef bint closing = conn.flow_ended[0] or conn.flow_ended[1] or conn.lost_at != 0
    cdef double limit = conn.limits[closing]
    if limit and conn.worker.now >= conn.last + limit:
        return fail(&conn.sides[0], F_HALF_CLOSED if closing else F_IDLE, 0, 0)
    if conn.settles and conn.worker.now >= conn.settles:
        conn.settles = 0
        shed(&conn.sides[0])
        shed(&conn.sides[1])
    return arm(conn)


cdef inline int arm(Conn *conn) noexcept nogil:
    """Set the deadline to what comes first."""
    cdef bint closing = conn.flow_ended[0] or conn.flow_ended[1] or conn.lost_at != 0
    cdef double limit = conn.limits[closing]
    cdef double due = earlier(conn.last + limit if limit else 0, conn.settles)
    if conn.lost_at != 0 and is_passed_on(conn):
        due = earlier(due, next_look(conn))
    if set_deadline(conn, due) < 0:
        return fail(&conn.sides[0], F_MEMORY, 0, 0)
    return 0


cdef inline void relay_expired(Conn *conn) noexcept nogil:
    """A deadline has passed, or it is time to look again."""
    if conn.lost_at != 0:
        settle(conn)
    elif patience_left(conn) < 0:
        die(conn, False)
