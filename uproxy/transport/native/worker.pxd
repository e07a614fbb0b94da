"""A worker's turn: sockets first, then what the loop and the others commanded, then deadlines."""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close

from uproxy.transport.native.deadlines cimport earlier_of, clear_deadline
from uproxy.transport.native.close cimport end_connection
from uproxy.transport.native.dial cimport (
    connect_turn, dial, upstream_failed, upstream_turn, downstream_lost, watch_loss,
)
from uproxy.transport.native.queues cimport ring_loop, ring_loop_if_reports_wait, clear_bell
from uproxy.transport.native.accept cimport (
    accept_turn, on_accepted, begin_hello, downstream_failed, downstream_stepped, downstream_turn, receive_hello,
    linger_turn,
)
from uproxy.transport.native.types cimport (
    C_ADOPT, C_CUT, C_CUT_ALL, C_DIAL, C_EVICT, C_RELEASE_LISTENER, C_RELAY, C_RELEASE, C_STEP_DONE,
    C_HANDSHAKE, C_STOP, C_WATCH_LOSS, MAX_EVENTS, MAX_HANDSHAKE_STEPS, F_CUT, F_EVICTED, F_NONE, F_TIMEOUT, K_LISTENER, K_SIDE,
    M_ASKING, M_CONNECTING, M_DEAD, M_HELLO, M_PARTING, M_RELAYING, M_SHAKING, P_CONNECTING,
    P_HANDSHAKING_DOWNSTREAM, Command, Connection, Listener, Side, Worker,
)
from uproxy.transport.native.relay cimport relay_begin, relay_expired, relay_turn
from uproxy.transport.native.side cimport fail, shrink_outputs
from uproxy.transport.native.route_cache cimport listener_release
from uproxy.transport.native.system cimport (
    clock_of, epoll_event, epoll_wait, long_set, pthread_mutex_lock, pthread_mutex_unlock,
)


# Commands.


cdef inline void run_command(Worker *worker, Command *command) noexcept nogil:
    if command.kind == C_STOP:
        worker.stopping = True
    elif command.kind == C_RELEASE_LISTENER:
        listener_release(command.listener)
    elif command.kind == C_CUT_ALL:
        cut_all(worker)
    elif command.kind == C_ADOPT:
        on_accepted(command.connection)
    elif command.kind == C_RELEASE:
        free(command.connection)
    elif command.connection.mode != M_DEAD:
        run_connection_command(command.connection, command)
    elif command.kind == C_DIAL and command.fd >= 0:
        close(command.fd)
    free(command.data)
    free(command)


cdef inline void run_connection_command(Connection *connection, Command *command) noexcept nogil:
    """What a connection that lives is told."""
    if command.kind == C_CUT:
        cut(connection, F_CUT)
    elif command.kind == C_EVICT:
        cut(connection, F_EVICTED)
    elif command.kind == C_HANDSHAKE:
        begin_hello(connection, command.limit)
    elif command.kind == C_STEP_DONE:
        take_back(connection, command.result)
    elif command.kind == C_WATCH_LOSS:
        watch_loss(connection)
    elif command.kind == C_DIAL:
        connection.cached_route = NULL  # the loop leads now
        dial(connection, command.fd, &command.target, command.target_size, command.limit, command.other_limit)
    elif command.kind == C_RELAY:
        connection.time_limits[0], connection.time_limits[1] = command.limit, command.other_limit
        relay_begin(connection, command.data, command.size)


cdef inline void cut(Connection *connection, int why) noexcept nogil:
    """Reset both sides; who is left to read why it was refused keeps that reason."""
    if connection.is_offloaded:
        connection.deferred_failure = why
        return
    if connection.mode != M_PARTING:
        connection.fault.what = F_NONE
        fail(&connection.sides[0], why, 0, 0)
    end_connection(connection, False)
    if why == F_CUT:
        ring_loop(&connection.worker.shared.reports)  # which has told us to


cdef inline void cut_all(Worker *worker) noexcept nogil:
    cdef Connection *connection = worker.connections
    cdef Connection *following
    while connection != NULL:
        following = connection.after
        cut(connection, F_CUT)
        connection = following


cdef inline void take_back(Connection *connection, int result) noexcept nogil:
    """It was offloaded for a step of its downstream handshake.  What came up meanwhile ends it, but is no
    reason for a step that failed by itself."""
    cdef int why = connection.deferred_failure
    connection.running_on, connection.is_offloaded = connection.worker, False
    if why == F_NONE or result < 0:
        downstream_stepped(&connection.sides[0], result)
    elif why == F_TIMEOUT:
        run_out(connection)
    if connection.mode != M_DEAD and (why == F_CUT or why == F_EVICTED):
        cut(connection, why)


cdef inline void run_commands(Worker *worker) noexcept nogil:
    cdef Command *command
    cdef Command *following
    clear_bell(worker.bell)
    pthread_mutex_lock(&worker.lock)
    command = worker.first
    worker.first = worker.last = NULL
    pthread_mutex_unlock(&worker.lock)
    while command != NULL:
        following = command.next
        run_command(worker, command)
        command = following


# Deadlines.


cdef inline void expire(Connection *connection) noexcept nogil:
    if connection.mode == M_RELAYING:
        relay_expired(connection)
    elif connection.mode == M_PARTING:
        end_connection(connection, True)
    elif connection.state == P_HANDSHAKING_DOWNSTREAM:
        run_out(connection)
    else:
        fail(&connection.sides[1], F_TIMEOUT, 0, 0)
        upstream_failed(connection)


cdef inline void run_out(Connection *connection) noexcept nogil:
    """Of time, in the downstream handshake."""
    if connection.is_offloaded:
        connection.deferred_failure = F_TIMEOUT if connection.deferred_failure == F_NONE else connection.deferred_failure
        clear_deadline(connection)
        return
    fail(&connection.sides[0], F_TIMEOUT, 0, 0)
    downstream_failed(connection)


cdef inline int wait_ms(Worker *worker) noexcept nogil:
    """Milliseconds for epoll; rounded up, so that a deadline is over when it wakes."""
    cdef double due = earlier_of(worker.heap[0].due if worker.heap_size else 0, worker.ring_due)
    cdef double left
    due = earlier_of(due, worker.shrink_at if worker.large_outputs != NULL else 0)
    if due == 0:
        return -1
    left = due - clock_of(CLOCK_MONOTONIC)
    if left <= 0:
        return 0
    return <int>min(left * 1000, 3600000.0) + 1


cdef inline void run_deadlines(Worker *worker) noexcept nogil:
    while worker.heap_size and worker.heap[0].due <= worker.now:
        expire(worker.heap[0])
    if worker.large_outputs != NULL and worker.now >= worker.shrink_at:
        shrink_outputs(worker)
    if worker.ring_due != 0 and worker.now >= worker.ring_due:
        worker.ring_due = 0
        ring_loop_if_reports_wait(&worker.shared.reports)


# The turn.


cdef inline void dispatch(Side *side, uint32_t events) noexcept nogil:
    cdef int mode = side.connection.mode
    if mode == M_DEAD:
        return  # an earlier event of this batch ended it
    if mode == M_RELAYING:
        relay_turn(side, events)
    elif side.index == 0 and (mode == M_ASKING or side.connection.state >= P_CONNECTING):
        downstream_lost(side, events)
    elif mode == M_HELLO:
        receive_hello(side)
    elif mode == M_SHAKING:
        if side.index:
            upstream_turn(side)
        else:
            downstream_turn(side)
    elif mode == M_CONNECTING:
        connect_turn(side)
    elif mode == M_PARTING:
        linger_turn(side, events)


cdef inline bint is_handshaking(void *watched) noexcept nogil:
    cdef int mode
    if (<int *>watched)[0] != K_SIDE:
        return False
    mode = (<Side *>watched).connection.mode
    return mode == M_HELLO or mode == M_SHAKING


cdef inline void run_handshakes(epoll_event *events, int count) noexcept nogil:
    """Steps of handshakes are what takes long: a few a turn, and the others are reported again,
    so that those who shake hands wait for each other and nobody else for them."""
    cdef int at, steps = 0
    for at in range(count):
        if is_handshaking(events[at].data.ptr):
            dispatch(<Side *>events[at].data.ptr, events[at].events)
            steps += 1
            if steps == MAX_HANDSHAKE_STEPS:
                return


cdef inline void work(Worker *worker) noexcept nogil:
    cdef epoll_event events[MAX_EVENTS]
    cdef int count, at
    cdef int *kind
    cdef bint commanded
    while not worker.stopping:
        long_set(&worker.busy_since, 0)
        count = epoll_wait(worker.epoll, events, MAX_EVENTS, wait_ms(worker))
        worker.now = clock_of(CLOCK_MONOTONIC)
        long_set(&worker.busy_since, <int64_t>(worker.now * 1000))
        commanded = False
        for at in range(count):
            kind = <int *>events[at].data.ptr
            if is_handshaking(kind):
                continue
            if kind[0] == K_SIDE:
                dispatch(<Side *>events[at].data.ptr, events[at].events)
            elif kind[0] == K_LISTENER:
                accept_turn(worker, <Listener *>events[at].data.ptr)
            else:
                commanded = True
        run_handshakes(events, count)
        if commanded:  # last: a connection is freed here, and may have had an event
            run_commands(worker)
        run_deadlines(worker)
