"""A worker's turn: sockets first, then what the loop and the others commanded, then deadlines."""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close

from uproxy.transport.native.deadlines cimport earlier, forget_deadline
from uproxy.transport.native.close cimport die
from uproxy.transport.native.dial cimport (
    connect_turn, dial, far_failed, far_turn, near_lost, watch_loss,
)
from uproxy.transport.native.queues cimport ring_loop, ring_round, silence
from uproxy.transport.native.accept cimport (
    accept_turn, arrive, begin_hello, near_failed, near_stepped, near_turn, hear_hello,
    part_turn,
)
from uproxy.transport.native.types cimport (
    C_ADOPT, C_CUT, C_CUT_ALL, C_DIAL, C_EVICT, C_FORGET, C_RELAY, C_RELEASE, C_RETURN,
    C_SHAKE_NEAR, C_STOP, C_WATCH, EVENTS, MOST_STEPS, F_CUT, F_EVICTED, F_NONE, F_TIMEOUT, K_LISTENER, K_SIDE,
    M_ASKING, M_CONNECTING, M_DEAD, M_HELLO, M_PARTING, M_RELAYING, M_SHAKING, P_CONNECTING,
    P_HANDSHAKING_DOWNSTREAM, Command, Conn, Listener, Side, Worker,
)
from uproxy.transport.native.relay cimport relay_begin, relay_expired, relay_turn
from uproxy.transport.native.side cimport fail, slim
from uproxy.transport.native.route_cache cimport listener_release
from uproxy.transport.native.system cimport (
    clock_of, epoll_event, epoll_wait, long_set, pthread_mutex_lock, pthread_mutex_unlock,
)


# Commands.


cdef inline void obey(Worker *worker, Command *order) noexcept nogil:
    if order.kind == C_STOP:
        worker.stopping = True
    elif order.kind == C_FORGET:
        listener_release(order.listener)
    elif order.kind == C_CUT_ALL:
        cut_all(worker)
    elif order.kind == C_ADOPT:
        arrive(order.conn)
    elif order.kind == C_RELEASE:
        free(order.conn)
    elif order.conn.mode != M_DEAD:
        obey_of(order.conn, order)
    elif order.kind == C_DIAL and order.fd >= 0:
        close(order.fd)
    free(order.data)
    free(order)


cdef inline void obey_of(Conn *conn, Command *order) noexcept nogil:
    """What a connection that lives is told."""
    if order.kind == C_CUT:
        cut(conn, F_CUT)
    elif order.kind == C_EVICT:
        cut(conn, F_EVICTED)
    elif order.kind == C_SHAKE_NEAR:
        begin_hello(conn, order.limit)
    elif order.kind == C_RETURN:
        take_back(conn, order.result)
    elif order.kind == C_WATCH:
        watch_loss(conn)
    elif order.kind == C_DIAL:
        conn.standing = NULL  # the loop leads now
        dial(conn, order.fd, &order.target, order.target_size, order.limit, order.other_limit)
    elif order.kind == C_RELAY:
        conn.limits[0], conn.limits[1] = order.limit, order.other_limit
        relay_begin(conn, order.data, order.size)


cdef inline void cut(Conn *conn, int why) noexcept nogil:
    """Reset both sides; who is left to read why it was refused keeps that reason."""
    if conn.is_offloaded:
        conn.deferred_failure = why
        return
    if conn.mode != M_PARTING:
        conn.fault.what = F_NONE
        fail(&conn.sides[0], why, 0, 0)
    die(conn, False)
    if why == F_CUT:
        ring_loop(&conn.worker.shared.inbox)  # which has told us to


cdef inline void cut_all(Worker *worker) noexcept nogil:
    cdef Conn *conn = worker.conns
    cdef Conn *following
    while conn != NULL:
        following = conn.after
        cut(conn, F_CUT)
        conn = following


cdef inline void take_back(Conn *conn, int result) noexcept nogil:
    """It was offloaded for a step of its near handshake.  What came up meanwhile ends it, but is no
    reason for a step that failed by itself."""
    cdef int why = conn.deferred_failure
    conn.running_on, conn.is_offloaded = conn.worker, False
    if why == F_NONE or result < 0:
        near_stepped(&conn.sides[0], result)
    elif why == F_TIMEOUT:
        run_out(conn)
    if conn.mode != M_DEAD and (why == F_CUT or why == F_EVICTED):
        cut(conn, why)


cdef inline void obey_all(Worker *worker) noexcept nogil:
    cdef Command *order
    cdef Command *following
    silence(worker.bell)
    pthread_mutex_lock(&worker.lock)
    order = worker.first
    worker.first = worker.last = NULL
    pthread_mutex_unlock(&worker.lock)
    while order != NULL:
        following = order.next
        obey(worker, order)
        order = following


# Deadlines.


cdef inline void expire(Conn *conn) noexcept nogil:
    if conn.mode == M_RELAYING:
        relay_expired(conn)
    elif conn.mode == M_PARTING:
        die(conn, True)
    elif conn.phase == P_HANDSHAKING_DOWNSTREAM:
        run_out(conn)
    else:
        fail(&conn.sides[1], F_TIMEOUT, 0, 0)
        far_failed(conn)


cdef inline void run_out(Conn *conn) noexcept nogil:
    """Of time, in the near handshake."""
    if conn.is_offloaded:
        conn.deferred_failure = F_TIMEOUT if conn.deferred_failure == F_NONE else conn.deferred_failure
        forget_deadline(conn)
        return
    fail(&conn.sides[0], F_TIMEOUT, 0, 0)
    near_failed(conn)


cdef inline int patience_of(Worker *worker) noexcept nogil:
    """Milliseconds for epoll; rounded up, so that a deadline is over when it wakes."""
    cdef double due = earlier(worker.heap[0].due if worker.heap_size else 0, worker.ring_due)
    cdef double left
    due = earlier(due, worker.slim_due if worker.fat != NULL else 0)
    if due == 0:
        return -1
    left = due - clock_of(CLOCK_MONOTONIC)
    if left <= 0:
        return 0
    return <int>min(left * 1000, 3600000.0) + 1


cdef inline void keep_time(Worker *worker) noexcept nogil:
    while worker.heap_size and worker.heap[0].due <= worker.now:
        expire(worker.heap[0])
    if worker.fat != NULL and worker.now >= worker.slim_due:
        slim(worker)
    if worker.ring_due != 0 and worker.now >= worker.ring_due:
        worker.ring_due = 0
        ring_round(&worker.shared.inbox)


# The turn.


cdef inline void dispatch(Side *side, uint32_t events) noexcept nogil:
    cdef int mode = side.conn.mode
    if mode == M_DEAD:
        return  # an earlier event of this batch ended it
    if mode == M_RELAYING:
        relay_turn(side, events)
    elif side.index == 0 and (mode == M_ASKING or side.conn.phase >= P_CONNECTING):
        near_lost(side, events)
    elif mode == M_HELLO:
        hear_hello(side)
    elif mode == M_SHAKING:
        if side.index:
            far_turn(side)
        else:
            near_turn(side)
    elif mode == M_CONNECTING:
        connect_turn(side)
    elif mode == M_PARTING:
        part_turn(side, events)


cdef inline bint shakes_hands(void *watched) noexcept nogil:
    cdef int mode
    if (<int *>watched)[0] != K_SIDE:
        return False
    mode = (<Side *>watched).conn.mode
    return mode == M_HELLO or mode == M_SHAKING


cdef inline void shake_some(epoll_event *events, int count) noexcept nogil:
    """Steps of handshakes are what takes long: a few a turn, and the others are reported again,
    so that those who shake hands wait for each other and nobody else for them."""
    cdef int at, steps = 0
    for at in range(count):
        if shakes_hands(events[at].data.ptr):
            dispatch(<Side *>events[at].data.ptr, events[at].events)
            steps += 1
            if steps == MOST_STEPS:
                return


cdef inline void work(Worker *worker) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef int count, at
    cdef int *kind
    cdef bint commanded
    while not worker.stopping:
        long_set(&worker.busy_since, 0)
        count = epoll_wait(worker.epoll, events, EVENTS, patience_of(worker))
        worker.now = clock_of(CLOCK_MONOTONIC)
        long_set(&worker.busy_since, <int64_t>(worker.now * 1000))
        commanded = False
        for at in range(count):
            kind = <int *>events[at].data.ptr
            if shakes_hands(kind):
                continue
            if kind[0] == K_SIDE:
                dispatch(<Side *>events[at].data.ptr, events[at].events)
            elif kind[0] == K_LISTENER:
                accept_turn(worker, <Listener *>events[at].data.ptr)
            else:
                commanded = True
        shake_some(events, count)
        if commanded:  # last: a connection is freed here, and may have had an event
            obey_all(worker)
        keep_time(worker)
