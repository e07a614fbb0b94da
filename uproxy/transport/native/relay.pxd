"""Moving bytes both ways until both directions have ended.

Flow 0 goes from downstream to upstream, flow 1 back.  A sink that doesn't take everything stops
its source from being read, so that a connection holds a few receives' worth of bytes in each
direction at most.  Events are level-triggered: the bytes read for one event are bounded, so that
a bulk stream doesn't starve others.

`start_relay`, `relay_turn` and `relay_timeout` return a RelayResult.
"""

from uproxy.transport.native.system cimport TRIM_AFTER_S, count_add
from uproxy.transport.native.codes cimport (
    F_HALF_CLOSED, F_IDLE, F_MEMORY, F_NONE, LARGE_RECEIVE_SIZE, MAX_OWN_UNSENT,
)
from uproxy.transport.native.types cimport Connection, Received, Side
from uproxy.transport.native.deadlines cimport earlier_of
from uproxy.transport.native.side cimport (
    BROKEN, CAN_READ, CAN_WRITE, ENDS, END_UNKNOWN, HUNG_UP, READ_FAILED, READ_NOT_DATA,
    READ_NOT_NOW, discard, end_due, fail_side, finish_side, flush_handshake, flush_side, is_blocked,
    is_deaf, is_ready, limit_receive, read_side, receive_size, record_failure, take_failure,
    trim_side, uncork, unsent, want, write_side,
)
from uproxy.transport.native.loss cimport (
    is_passed_on, lose_sink, lose_source, next_look, note_loss, reset_if_delivered,
)

cdef enum RelayResult:
    RELAY_GOES_ON = 0
    RELAY_ENDED = 1  # both ends were passed on, and everything is sent
    RELAY_FAILED = -1  # the reason is in connection.fault

cdef enum:
    MAX_READ = LARGE_RECEIVE_SIZE  # bytes, after which one event's receives stop


cdef inline int start_relay(Connection *connection, const char *preface,
                            size_t size) noexcept nogil:
    """Begin to move bytes; `preface` goes first to the upstream side, which has no TLS."""
    cdef Side *upstream = &connection.sides[1]
    connection.last_moved = connection.worker.now
    connection.trim_at = connection.last_moved + TRIM_AFTER_S
    record_failure(&connection.sides[0])
    record_failure(upstream)
    if size and write_side(upstream, preface, size, END_UNKNOWN) < 0:
        lose_sink(upstream)
    # a caller has mostly sent something by now: it goes along with the handshake's last records
    if is_open(connection, 0):
        pump(connection, 0, 0)
    if flush_handshake(upstream) < 0:
        lose_sink(upstream)
    note_loss(connection)
    if check_time(connection) < 0:
        return RELAY_FAILED
    return update(connection)


cdef inline int relay_turn(Side *side, int ready) noexcept nogil:
    """Move bytes from or to a side; `ready` has its Ready bits."""
    cdef Connection *connection = side.connection
    cdef bint has_failed = (ready & (BROKEN | HUNG_UP)) != 0
    cdef bint reading = is_open(connection, side.index)
    if unsent(side) and (has_failed or ready & CAN_WRITE):
        if flush_side(side) < 0:
            lose_sink(side)
        else:
            connection.last_moved = connection.worker.now
    elif has_failed and not reading:
        if take_failure(side, ready):
            lose_sink(side)
    if reading and (has_failed or ready & CAN_READ):
        pump_some(connection, side.index, ready)
    return update(connection)


cdef inline int relay_timeout(Connection *connection) noexcept nogil:
    """Do what is due at the time that `relay_due` has returned."""
    if connection.lost_at != 0:
        return update(connection)
    if check_time(connection) < 0:
        return RELAY_FAILED
    if end_due(&connection.sides[1]) == 0:
        return RELAY_GOES_ON
    finish(&connection.sides[1])
    return update(connection)


cdef inline bint is_closing(Connection *connection) noexcept nogil:
    """Whether one side has ended or failed."""
    return connection.flow_ended[0] or connection.flow_ended[1] or connection.lost_at != 0


cdef inline double relay_due(Connection *connection) noexcept nogil:
    """Return when to call `relay_timeout`; 0: never."""
    cdef double limit = connection.relay_limits[is_closing(connection)]
    cdef double due = earlier_of(
        connection.last_moved + limit if limit else 0, connection.trim_at)
    due = earlier_of(due, end_due(&connection.sides[1]))
    if connection.lost_at != 0 and is_passed_on(connection):
        due = earlier_of(due, next_look(connection))
    return due


# The steps.


cdef inline bint is_open(Connection *connection, int flow) noexcept nogil:
    """Whether to read the flow's source now: it hasn't ended, its sink has taken all and may be
    written, and it has itself taken most of what goes to it."""
    return not (
        connection.flow_ended[flow]
        or unsent(&connection.sides[1 - flow])
        or is_blocked(&connection.sides[1 - flow])
        or unsent(&connection.sides[flow]) > MAX_OWN_UNSENT
    )


cdef inline int update(Connection *connection) noexcept nogil:
    """Read what needs no event; then, unless all is done, ask epoll for the events that are needed
    next.  Returns a RelayResult."""
    cdef Side *downstream = &connection.sides[0]
    cdef Side *upstream = &connection.sides[1]
    cdef int flow
    for flow in range(2):
        while is_open(connection, flow) and is_ready(&connection.sides[flow]):
            pump(connection, flow, 0)
    note_loss(connection)
    if connection.fault.what == F_MEMORY:
        return RELAY_FAILED
    if connection.fault.what != F_NONE:
        if reset_if_delivered(connection) or check_time(connection) < 0:
            return RELAY_FAILED
    elif (connection.flow_ended[0] and connection.flow_ended[1]
            and not unsent(downstream) and not unsent(upstream)):
        return RELAY_ENDED
    if (want(downstream, is_open(connection, 0), unsent(downstream) > 0) < 0
            or want(upstream, is_open(connection, 1), unsent(upstream) > 0) < 0):
        return RELAY_FAILED
    return RELAY_GOES_ON


cdef inline void pump_some(Connection *connection, int flow, int ready) noexcept nogil:
    """Pass on what one event brings, MAX_READ bytes at most."""
    cdef Side *source = &connection.sides[flow]
    cdef bint more = True
    cdef int asked = 0
    while more and asked < MAX_READ and is_open(connection, flow):
        asked += receive_size(source)
        more = pump(connection, flow, ready) or ready & ENDS  # the end is behind what was read
    if uncork(&connection.sides[1 - flow]) < 0:
        lose_sink(&connection.sides[1 - flow])


cdef inline bint pump(Connection *connection, int flow, int ready) noexcept nogil:
    """Pass on one receive's worth of bytes, or the end.  True if there may be more."""
    cdef Side *source = &connection.sides[flow]
    cdef Side *sink = &connection.sides[1 - flow]
    cdef Received received
    cdef ssize_t size
    if is_deaf(sink):
        return drop(source)
    size = read_side(source, &received, ready)
    if size < 0:
        on_nothing_read(source, size)
        return False
    if connection.fault.what == F_NONE or connection.fault.side == flow:
        connection.last_moved = connection.worker.now
    if size == 0:
        end_flow(connection, flow)
        return False
    count_add(&connection.counts[flow], size)
    if write_side(sink, received.data, size, received.end) < 0:
        lose_sink(sink)
    if unsent(sink):
        limit_receive(source)
    return received.more


cdef inline void on_nothing_read(Side *source, ssize_t why) noexcept nogil:
    """Follow a `read_side` that has returned `why`, a ReadResult below 0."""
    # after READ_NOT_DATA too: a peer that sends much that isn't data is read once a turn
    if why != READ_FAILED:
        return
    lose_source(source)
    # what the other side had sent can still be written to one that has only stopped sending
    if not is_deaf(source) and is_open(source.connection, 1 - source.index):
        pump(source.connection, 1 - source.index, 0)


cdef inline bint drop(Side *source) noexcept nogil:
    """Read one receive's worth of bytes that can't be passed on, and forget them.  True if there
    may be more."""
    cdef int size = discard(source)
    if size > 0:
        return True
    if size == READ_NOT_NOW or size == READ_NOT_DATA:
        return False
    if size == READ_FAILED:
        lose_sink(source)
    source.connection.flow_ended[source.index] = True
    return False


cdef inline void end_flow(Connection *connection, int flow) noexcept nogil:
    """Pass on the end of the flow's source: finish its sink."""
    connection.flow_ended[flow] = True
    finish(&connection.sides[1 - flow])
    if end_due(&connection.sides[flow]) != 0:  # its own end has waited for this
        finish(&connection.sides[flow])


cdef inline void finish(Side *side) noexcept nogil:
    """Send the end to a side, now or when it is due."""
    if finish_side(side) < 0:
        lose_sink(side)


cdef inline int check_time(Connection *connection) noexcept nogil:
    """Free handshake memory if it is time.  Returns -1 if nothing has moved for as long as the
    limit allows (recorded), otherwise 0."""
    cdef bint closing = is_closing(connection)
    cdef double limit = connection.relay_limits[closing]
    if limit and connection.worker.now >= connection.last_moved + limit:
        return fail_side(&connection.sides[0], F_HALF_CLOSED if closing else F_IDLE, 0)
    if connection.trim_at and connection.worker.now >= connection.trim_at:
        connection.trim_at = 0
        trim_side(&connection.sides[0])
        trim_side(&connection.sides[1])
    return 0
