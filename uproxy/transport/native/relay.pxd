"""Moving bytes both ways until both directions have ended.

Flow 0 goes from downstream to upstream, flow 1 back.  A sink that doesn't take everything stops its
source from being read, so a connection holds a few receives' worth of bytes per direction at
most.  Level-triggered: so many receives per event, so that a bulk stream doesn't starve others.
"""

from libc.errno cimport errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free

from uproxy.transport.native.deadlines cimport earlier_of, set_deadline
from uproxy.transport.native.close cimport end_connection
from uproxy.transport.native.loss cimport (
    is_deaf, is_passed_on, lose_side, lose_source, next_look, note_loss, pending_error,
    reset_if_delivered,
)
from uproxy.transport.native.types cimport (
    LARGE_RECEIVE_SIZE, F_HALF_CLOSED, F_IDLE, F_MEMORY, F_NONE, F_OS, F_TRUNCATED, M_DEAD, M_RELAYING,
    MAX_OWN_UNSENT, P_CLOSING, P_RELAYING, RECEIVE_SIZE, RECORD_SIZE, SMALL_RECEIVE_SIZE, Connection, Side,
)
from uproxy.transport.native.side cimport (
    fail, fail_read, end_feed, begin_feed, finish, flush, send_output, decrypt, receive_raw, write_side,
    trim, watch,
)
from uproxy.transport.native.system cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, READ_EVENTS, TRIM_AFTER_S, count_add, word_set,
)

cdef enum:
    MAX_RECEIVED = LARGE_RECEIVE_SIZE  # bytes asked for per event, but for the last receive

cdef enum PumpResult:  # what a receive came to
    EMPTY = 0
    FULL = 1  # there may be more

cdef enum ReadResult:  # instead of a number of bytes
    READ_FAILED = -1
    READ_NOT_NOW = -2  # the socket has nothing
    READ_NOT_DATA = -3  # part of a record, or a message that isn't the application's


cdef inline bint flow_open(Connection *connection, int flow) noexcept nogil:
    """Whether the source should be read now."""
    return not (
        connection.flow_ended[flow]
        or connection.sides[1 - flow].unsent
        or connection.sides[1 - flow].midway
        or connection.sides[flow].unsent > MAX_OWN_UNSENT
    )


cdef inline void relay_begin(Connection *connection, const char *preface, size_t size) noexcept nogil:
    """Bytes may pass; `preface` goes before them to the upstream side, which is in the clear."""
    cdef Side *upstream = &connection.sides[1]
    connection.mode = M_RELAYING
    word_set(&connection.state, P_RELAYING)
    connection.last_moved = connection.worker.now
    connection.trim_at = connection.last_moved + TRIM_AFTER_S
    note_loss(&connection.sides[0])
    note_loss(upstream)
    if size and write_side(upstream, preface, size) < 0:
        lose_side(upstream)
    # who dialled in has mostly spoken by now: it goes along with the handshake's last words
    if flow_open(connection, 0):
        pump(connection, 0, False)
    if upstream.ssl != NULL and not upstream.gone and send_output(upstream) < 0:
        lose_side(upstream)
    if check_deadline(connection) < 0:
        end_connection(connection, False)
    else:
        update_interest(connection)


cdef inline void relay_turn(Side *side, uint32_t events) noexcept nogil:
    """One side, the source of its flow, is ready for something."""
    cdef Connection *connection = side.connection
    cdef bint broken = (events & (EPOLLERR | EPOLLHUP)) != 0
    cdef bint reading = flow_open(connection, side.index)
    if side.unsent and (broken or events & EPOLLOUT):
        if flush(side) < 0:
            lose_side(side)
        else:
            connection.last_moved = connection.worker.now
    elif broken and not reading:
        hang_up(side, events)
    if reading and (broken or events & EPOLLIN):
        pump_some(connection, side.index, events)
    update_interest(connection)


cdef inline void pump_some(Connection *connection, int flow, uint32_t events) noexcept nogil:
    cdef Side *source = &connection.sides[flow]
    cdef int result = FULL, asked = 0
    while result == FULL and asked < MAX_RECEIVED and flow_open(connection, flow):
        asked += max(source.receive_size, <int>RECEIVE_SIZE)
        result = pump(connection, flow, (events & (EPOLLRDHUP | EPOLLERR)) == EPOLLRDHUP)
        if events & EPOLLRDHUP:
            result = FULL  # its end is behind what was read
    if uncork(&connection.sides[1 - flow]) < 0:
        lose_side(&connection.sides[1 - flow])


cdef inline void update_interest(Connection *connection) noexcept nogil:
    """Take what needs no socket, end if all is done, otherwise wait for the right events."""
    cdef Side *downstream = &connection.sides[0]
    cdef Side *upstream = &connection.sides[1]
    cdef int flow
    for flow in range(2):
        while flow_open(connection, flow) and needs_no_event(&connection.sides[flow]):
            pump(connection, flow, False)
    if connection.fault.what == F_MEMORY:
        end_connection(connection, False)
    elif connection.fault.what != F_NONE:
        update_loss(connection)
    elif (connection.flow_ended[0] and connection.flow_ended[1]
            and not downstream.unsent and not upstream.unsent):
        end_connection(connection, True)
    if connection.mode != M_DEAD and (
            watch(downstream, wanted(connection, 0)) < 0 or watch(upstream, wanted(connection, 1)) < 0):
        end_connection(connection, False)


cdef inline void update_loss(Connection *connection) noexcept nogil:
    """A side has failed: end if all that came before is delivered, otherwise look again."""
    reset_if_delivered(connection)
    if connection.mode != M_DEAD and check_deadline(connection) < 0:
        end_connection(connection, False)


cdef inline bint needs_no_event(Side *side) noexcept nogil:
    """Whether what can be read of it is here, or in the kernel for good."""
    return side.early_size or side.ended or side.failed != F_NONE or side.gone


cdef inline int uncork(Side *side) noexcept nogil:
    """Records don't outlast the turn, though the end that they waited for was a reset, or is
    still to come."""
    if not side.corked or side.ending or side.ssl == NULL:
        return 0
    side.corked = False
    return send_output(side)


cdef inline int wanted(Connection *connection, int side) noexcept nogil:
    cdef int mask = 0
    if flow_open(connection, side):
        mask |= READ_EVENTS
    if connection.sides[side].unsent:
        mask |= EPOLLOUT
    return mask


cdef inline int pump(Connection *connection, int flow, bint hung_up) noexcept nogil:
    """One receive's worth; FULL if there may be more.  `hung_up`: the orderly end of the source's
    socket is behind what there is."""
    cdef Side *source = &connection.sides[flow]
    cdef Side *sink = &connection.sides[1 - flow]
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
        size = read_side(source, &data, &full)
        if size < 0:
            return on_nothing_read(source, size)
    if connection.fault.what == F_NONE or connection.fault.side == flow:
        connection.last_moved = connection.worker.now
    if size == 0:
        end_flow(connection, flow)
        return EMPTY
    count_add(&connection.counts[flow], size)
    # the end follows at once: in the clear, where it can't be taken back, only what is certain
    if source.ssl != NULL:
        sink.corked = source.ended and sink.ssl == NULL
    else:
        sink.corked = hung_up and not full and sink.ssl != NULL
    if write_side(sink, data, size) < 0:
        lose_side(sink)
    free(early)
    if sink.unsent:
        source.receive_size = min(source.receive_size, <int>RECEIVE_SIZE)
    return FULL if full else EMPTY


cdef inline int on_nothing_read(Side *source, ssize_t why) noexcept nogil:
    """What follows from `why` (a `Heard`).  Of a socket that is gone all is in the kernel, so that
    "not now" is its end."""
    if why == READ_NOT_DATA:
        return EMPTY  # level-triggered: who sends much that isn't the application's waits a turn
    if why == READ_NOT_NOW and not source.gone:
        return EMPTY
    lose_source(source)
    # a side that has only stopped sending can still be told what the other one had said
    if not is_deaf(source) and flow_open(source.connection, 1 - source.index):
        pump(source.connection, 1 - source.index, False)
    return EMPTY


cdef inline int discard_some(Side *side) noexcept nogil:
    """Take one receive's worth of what can't be passed on any more, and forget it."""
    cdef ssize_t size = 0
    free(side.early)
    side.early = NULL
    side.early_size = 0
    if not side.ended and side.failed == F_NONE:
        size = receive_raw(side, RECEIVE_SIZE)
    if size == READ_NOT_NOW and not side.gone:
        return EMPTY
    if size > 0:
        return FULL
    if size < 0:
        lose_side(side)
    side.connection.flow_ended[side.index] = True
    return EMPTY


cdef inline ssize_t read_side(Side *side, char **data, bint *full) noexcept nogil:
    """Application bytes, valid until the next one hears; 0 at the end; or a `Heard`."""
    cdef ssize_t size, got
    cdef ssize_t most = side.receive_size
    if side.ended:
        return 0
    if side.failed != F_NONE:
        return fail_read(side)
    got = size = receive_raw(side, most)
    if size == -1:
        fail(side, F_OS, errno, 0)
        lose_side(side)
        return READ_FAILED
    data[0] = side.connection.worker.received
    full[0] = size == most
    side.receive_size = LARGE_RECEIVE_SIZE if size >= RECEIVE_SIZE else RECEIVE_SIZE
    if size == 0 and side.gone:
        return READ_FAILED  # its error has been taken from the kernel, which calls this the end now
    if side.ssl == NULL or size == READ_NOT_NOW:
        return size
    if size == 0:
        return fail(side, F_TRUNCATED, 0, 0)
    if begin_feed(side, side.connection.worker.received, size) < 0:
        return READ_FAILED
    size = decrypt(side)
    if size < 0:
        return READ_FAILED
    end_feed(side)
    if side.failed != F_NONE:
        note_loss(side)
    if 2 * size < got and (got > RECORD_SIZE or most == SMALL_RECEIVE_SIZE):
        side.receive_size = SMALL_RECEIVE_SIZE  # most of it wasn't the application's, nor part of a record
    if not side.gone and send_output(side) < 0:  # the answer to a KeyUpdate
        lose_side(side)
    data[0] = side.connection.worker.plain
    if size == 0 and not side.ended:
        return READ_NOT_DATA
    return size


cdef inline void end_flow(Connection *connection, int flow) noexcept nogil:
    cdef Side *sink = &connection.sides[1 - flow]
    connection.flow_ended[flow] = True
    if finish(sink) < 0:
        lose_side(sink)
    word_set(&connection.state, P_CLOSING)
    set_relay_deadline(connection)


cdef inline void hang_up(Side *side, uint32_t events) noexcept nogil:
    """An error or a hang-up of a side that nothing is wanted from now."""
    side.hung_up = True
    if events & EPOLLERR:
        fail(side, F_OS, pending_error(side.fd), 0)
        lose_side(side)


cdef inline int check_deadline(Connection *connection) noexcept nogil:
    """-1 if nothing has moved for too long; otherwise look again when that could be."""
    cdef bint closing = connection.flow_ended[0] or connection.flow_ended[1] or connection.lost_at != 0
    cdef double limit = connection.time_limits[closing]
    if limit and connection.worker.now >= connection.last_moved + limit:
        return fail(&connection.sides[0], F_HALF_CLOSED if closing else F_IDLE, 0, 0)
    if connection.trim_at and connection.worker.now >= connection.trim_at:
        connection.trim_at = 0
        trim(&connection.sides[0])
        trim(&connection.sides[1])
    return set_relay_deadline(connection)


cdef inline int set_relay_deadline(Connection *connection) noexcept nogil:
    """Set the deadline to what comes first."""
    cdef bint closing = connection.flow_ended[0] or connection.flow_ended[1] or connection.lost_at != 0
    cdef double limit = connection.time_limits[closing]
    cdef double due = earlier_of(connection.last_moved + limit if limit else 0, connection.trim_at)
    if connection.lost_at != 0 and is_passed_on(connection):
        due = earlier_of(due, next_look(connection))
    if set_deadline(connection, due) < 0:
        return fail(&connection.sides[0], F_MEMORY, 0, 0)
    return 0


cdef inline void relay_expired(Connection *connection) noexcept nogil:
    """A deadline has passed, or it is time to look again."""
    if connection.lost_at != 0:
        update_interest(connection)
    elif check_deadline(connection) < 0:
        end_connection(connection, False)
