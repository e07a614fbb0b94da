"""A worker's turn: the events of sockets, then those of handshakes, then the commands of the loop
and of other threads, then deadlines."""

from libc.errno cimport EBUSY, errno
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close

from uproxy.transport.native.system cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, clock_of, epoll_create1,
    epoll_ctl, epoll_event, epoll_wait, eventfd, long_set, pthread_mutex_destroy,
    pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from uproxy.transport.native.codes cimport (
    C_ADOPT, C_CUT, C_CUT_ALL, C_DIAL, C_DRAIN, C_EVICT, C_EVICT_STALLED, C_HANDSHAKE, C_RELAY,
    C_RELEASE, C_RELEASE_LISTENER, C_RETIRE, C_STEP_DONE, C_STOP, C_WATCH_LOSS, F_CUT, F_EVICTED,
    F_STALLED, K_BELL, K_CHANNEL, K_LISTENER, MAX_ACCEPTS, MAX_EVENTS, S_CARRYING, S_CLOSED,
    S_HANDSHAKING_DOWNSTREAM, W_EVENT,
)
from uproxy.transport.native.types cimport (
    Channel, Command, Connection, Listener, Shared, Way, Worker,
)
from uproxy.transport.native.queues cimport clear_bell, free_way, ring_loop_if_reports_wait
from uproxy.transport.native.deadlines cimport earlier_of
from uproxy.transport.native.route_cache cimport release_listener
from uproxy.transport.native.tls cimport shrink_outputs
from uproxy.transport.native.accept cimport (
    A_MINE, A_NONE, A_SHORT, accept_for_worker, is_behind, pause,
)
from uproxy.transport.native.state cimport state_of
from uproxy.transport.native.tunnel cimport has_streams
from uproxy.transport.native.goodbye cimport begin_drain
from uproxy.transport.native.pool cimport retire_plan
from uproxy.transport.native.connection cimport (
    await_hello, begin_relay, on_accepted, on_cut, on_deadline, on_routed, watch_downstream,
)
from uproxy.transport.native.spoken cimport drop_spoken
from uproxy.transport.native.carrying cimport settle_tunnels
from uproxy.transport.native.dispatch cimport dispatch, is_handshaking, run_handshakes, take_back


# Commands.


cdef inline void run_command(Worker *worker, Command *command) noexcept nogil:
    """Do what a command says, and free it."""
    if command.kind == C_STOP:
        worker.stopping = True
    elif command.kind == C_RELEASE_LISTENER:
        release_listener(command.listener)
    elif command.kind == C_CUT_ALL:
        cut_all(worker)
    elif command.kind == C_ADOPT:
        on_accepted(command.connection)
    elif command.kind == C_DRAIN:
        drain_tunnels(worker, command.listener)
    elif command.kind == C_RETIRE:
        retire_plan(worker, command.plan)
    elif command.kind == C_RELEASE:
        free_way(command.connection.own_way)
        drop_spoken(command.connection)
        free(command.connection.unnamed)
        free(command.connection)
    elif state_of(command.connection) != S_CLOSED:
        run_connection_command(command.connection, command)
    elif command.kind == C_DIAL and command.fd >= 0:
        close(command.fd)
    free_way(command.way)
    free(command.data)
    free(command)


cdef inline void run_connection_command(Connection *connection, Command *command) noexcept nogil:
    """Do what a command says of a connection that hasn't ended."""
    cdef Way *way
    if command.kind == C_CUT:
        connection.refused_with_status = command.result
        on_cut(connection, F_CUT)
    elif command.kind == C_EVICT:
        evict_now(connection)
    elif command.kind == C_EVICT_STALLED:
        if connection.waits_for == W_EVENT and state_of(connection) == S_HANDSHAKING_DOWNSTREAM:
            on_cut(connection, F_STALLED)  # otherwise the handshake has ended since, by itself
    elif command.kind == C_HANDSHAKE:
        await_hello(connection, command.limit)
    elif command.kind == C_STEP_DONE:
        take_back(connection, command.result)
    elif command.kind == C_WATCH_LOSS:
        watch_downstream(connection)
    elif command.kind == C_DIAL:
        connection.cached_route = NULL  # the loop decides now
        way, command.way = command.way, connection.own_way
        connection.own_way = way
        on_routed(connection, command.fd, &command.target, command.target_size, command.limit,
                  command.other_limit, way)
    elif command.kind == C_RELAY:
        connection.relay_limits[0] = command.limit
        connection.relay_limits[1] = command.other_limit
        begin_relay(connection, command.data, command.size)


cdef inline void evict_now(Connection *connection) noexcept nogil:
    """Cut one that makes room for another; a tunnel that has got streams since ends with them."""
    if connection.tunnel != NULL and has_streams(connection.tunnel):
        begin_drain(connection.tunnel)
    else:
        on_cut(connection, F_EVICTED)


cdef inline void cut_all(Worker *worker) noexcept nogil:
    """Cut each connection of this thread, those that carry others last."""
    cdef Connection *connection
    cdef Connection *following
    cdef int carrying
    for carrying in range(2):
        connection = worker.connections
        while connection != NULL:
            following = connection.after
            if (connection.tunnel != NULL) == carrying:
                on_cut(connection, F_CUT)
            connection = following


cdef inline void drain_tunnels(Worker *worker, Listener *listener) noexcept nogil:
    """Let the tunnels that have come in at a listener end with their last streams."""
    cdef Connection *connection = worker.connections
    while connection != NULL:
        if (connection.listener == listener and not connection.is_pooled
                and state_of(connection) == S_CARRYING):
            begin_drain(connection.tunnel)
        connection = connection.after


cdef inline void run_commands(Worker *worker) noexcept nogil:
    """Take all commands that wait, and run them in order."""
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


# Time.


cdef inline int wait_ms(Worker *worker) noexcept nogil:
    """Return the milliseconds for epoll_wait until the next thing is due, rounded up, so that it is
    due when epoll_wait returns; -1: nothing will be."""
    cdef double due = earlier_of(worker.heap[0].due if worker.heap_size else 0, worker.report_due)
    cdef double left
    due = earlier_of(due, worker.shrink_at if worker.large_outputs != NULL else 0)
    if worker.dirty != NULL:
        return 0
    if due == 0:
        return -1
    left = due - clock_of(CLOCK_MONOTONIC)
    if left <= 0:
        return 0
    return <int>min(left * 1000, 3600000.0) + 1


cdef inline void run_timers(Worker *worker) noexcept nogil:
    """Do what is due: deadlines of connections, large outputs, delayed reports."""
    while worker.heap_size and worker.heap[0].due <= worker.now:
        on_deadline(worker.heap[0])
    if worker.large_outputs != NULL and worker.now >= worker.shrink_at:
        shrink_outputs(worker)
    if worker.report_due != 0 and worker.now >= worker.report_due:
        worker.report_due = 0
        ring_loop_if_reports_wait(&worker.shared.reports)


# The turn.


cdef inline void accept_turn(Worker *worker, Listener *listener) noexcept nogil:
    """Accept MAX_ACCEPTS connections at most; pause where there is no descriptor, no memory, or
    too much for the loop to do."""
    cdef Connection *connection = NULL
    cdef int taken, result = A_MINE, error = 0
    if is_behind(worker.shared):
        pause(worker.shared, listener, EBUSY)
        return
    for taken in range(MAX_ACCEPTS):
        result = accept_for_worker(listener, worker.shared, worker, &connection, &error)
        if result == A_MINE:
            on_accepted(connection)
        elif result == A_NONE or result == A_SHORT:
            break
    if result == A_SHORT:
        pause(worker.shared, listener, error)


cdef inline void work(Worker *worker) noexcept nogil:
    """Run a thread until C_STOP."""
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
            if kind[0] == K_CHANNEL:
                dispatch((<Channel *>events[at].data.ptr).side, events[at].events)
            elif kind[0] == K_LISTENER:
                accept_turn(worker, <Listener *>events[at].data.ptr)
            else:
                commanded = True
        settle_tunnels(worker)  # before what takes long
        run_handshakes(events, count)
        if commanded:  # last: a connection is freed here, and may have had an event
            run_commands(worker)
        run_timers(worker)
        settle_tunnels(worker)


# Made and freed by the event loop, with the GIL.


cdef inline Worker *new_worker(Shared *shared) except NULL:
    """Make a thread's structures.  Raises OSError or MemoryError."""
    cdef Worker *worker = <Worker *>calloc(1, sizeof(Worker))
    cdef epoll_event event
    if worker == NULL:
        raise MemoryError
    worker.kind, worker.shared, worker.heap_room = K_BELL, shared, 64
    worker.heap = <Connection **>malloc(worker.heap_room * sizeof(void *))
    worker.epoll = epoll_create1(EPOLL_CLOEXEC)
    worker.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    pthread_mutex_init(&worker.lock, NULL)
    event.events = EPOLLIN
    event.data.ptr = worker
    if (worker.heap == NULL or worker.epoll < 0 or worker.bell < 0
            or epoll_ctl(worker.epoll, EPOLL_CTL_ADD, worker.bell, &event) != 0):
        error = errno
        free_worker(worker)
        raise OSError(error, "no descriptor or memory for a thread")
    return worker


cdef inline void free_worker(Worker *worker):
    """Free what `new_worker` made, as far as it came."""
    if worker.epoll >= 0:
        close(worker.epoll)
    if worker.bell >= 0:
        close(worker.bell)
    pthread_mutex_destroy(&worker.lock)
    free(worker.heap)
    free(worker.tunnel_plaintext)
    free(worker.headers)
    free(worker)
