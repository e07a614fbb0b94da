"""The near side: accepted, let in by the limits, its ClientHello heard whole before anything is
spent on it, shaken hands with, and left to read why where it is refused."""

from libc.errno cimport EAGAIN, EBUSY, ECONNABORTED, ECONNRESET, EINTR, ENOMEM, EPERM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close

from uproxy.transport.native.deadlines cimport set_deadline
from uproxy.transport.native.close cimport ask, die, link_conn
from uproxy.transport.native.dial cimport follow, start_patience
from uproxy.transport.native.limits cimport enter, falls_silent, free_slot, speaks, take_slot
from uproxy.transport.native.client_hello cimport hello_complete
from uproxy.transport.native.queues cimport command, decide, post, ring_loop
from uproxy.transport.native.offload cimport offload, uncached_come
from uproxy.transport.native.types cimport (
    ACCEPTS, C_ADOPT, E_ARRIVED, E_SHAKEN, F_EXCESS, F_NONE, F_NO_HELLO, F_OS, F_SHORT_HANDSHAKE,
    F_SHORT_HELLO, F_SLOTS, F_TLS, F_UNASKED, F_UNPROVEN, F_VERIFY, K_SIDE, M_HELLO, M_PARTING,
    M_SHAKING, MAX_HELLO, P_ADMITTING, P_HANDSHAKING_DOWNSTREAM, RECEIVE, UNHEARD,
    V_REFUSED,
    Command, Conn, Listener, Place, Shared, Side, Standing, Terms, Worker,
)
from uproxy.transport.native.handshake cimport begin_tls, shake, shake_on
from uproxy.transport.native.side cimport (
    drop_tls, fail, flush, keep_early, mute, push_output, receive_raw, say_alert, watch,
)
from uproxy.transport.native.route_cache cimport find_standing, still_stands
from uproxy.transport.native.system cimport (
    AF_INET, AF_INET6, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT,
    EOPNOTSUPP, EPOLLOUT, EPOLL_CTL_DEL, EPROTO, LINGER, LISTEN, SHUT_WR, SOCK_CLOEXEC,
    SOCK_NONBLOCK, accept4, clock_of, epoll_ctl, getsockname, pthread_mutex_lock,
    pthread_mutex_unlock, shutdown, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage,
    word_add, word_get, word_set,
)

cdef enum Accepted:
    A_ONE, A_GONE, A_NONE, A_SHORT


# Accepting.


cdef inline bint is_gone(int error) noexcept nogil:
    """An error of the connection that was to be taken, not of the listener: accept(2)."""
    return (error == ECONNABORTED or error == EPROTO or error == ENOPROTOOPT
            or error == EHOSTDOWN or error == ENONET or error == EHOSTUNREACH
            or error == EOPNOTSUPP or error == ENETUNREACH or error == ENETDOWN
            or error == EPERM or error == EINTR)


cdef inline void place_of(sockaddr_storage *name, Place *place) noexcept nogil:
    cdef sockaddr_in *v4
    cdef sockaddr_in6 *v6
    if name.ss_family == AF_INET:
        v4 = <sockaddr_in *>name
        place.host[10] = place.host[11] = 0xFF
        memcpy(place.host + 12, &v4.sin_addr, 4)
        place.port = v4.sin_port
        place.known = True
    elif name.ss_family == AF_INET6:
        v6 = <sockaddr_in6 *>name
        memcpy(place.host, &v6.sin6_addr, 16)
        place.port = v6.sin6_port
        place.known = True


cdef inline Conn *new_conn(int fd) noexcept nogil:
    cdef Conn *conn = <Conn *>calloc(1, sizeof(Conn))
    cdef int index
    if conn == NULL:
        return NULL
    conn.heap = -1
    for index in range(2):
        conn.sides[index].kind = K_SIDE
        conn.sides[index].conn = conn
        conn.sides[index].index = index
        conn.sides[index].fd = conn.sides[index].mask = -1
        conn.sides[index].x509_error = 1
        conn.sides[index].appetite = RECEIVE
    conn.sides[0].fd = fd
    return conn


cdef inline int accept_one(Listener *listener, Conn **made, int *error) noexcept nogil:
    """Under the listener's lock, so that its descriptor isn't another's by now."""
    cdef sockaddr_storage name
    cdef unsigned int size = sizeof(name)
    cdef int fd
    if listener.closed or listener.paused:
        return A_NONE
    fd = accept4(listener.fd, <sockaddr *>&name, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        error[0] = errno
        if error[0] == EAGAIN:
            return A_NONE
        return A_GONE if is_gone(error[0]) else A_SHORT
    made[0] = new_conn(fd)
    if made[0] == NULL:
        close(fd)
        return A_GONE
    place_of(&name, &made[0].source)
    made[0].listener, made[0].terms = listener, listener.terms
    word_add(&listener.held, 1)
    word_add(&listener.terms.held, 1)
    word_add(&listener.undecided, 1)
    return A_ONE


cdef inline Worker *least_loaded(Shared *shared, Worker *mine) noexcept nogil:
    """`mine` if it has hardly more: to hand over wakes another thread."""
    cdef Worker *least = shared.workers[0]
    cdef int at, few
    for at in range(shared.count):
        if word_get(&shared.workers[at].load) < word_get(&least.load):
            least = shared.workers[at]
    few = word_get(&least.load)
    if mine != NULL and word_get(&mine.load) <= few + few // 8:
        return mine
    return least


cdef inline int take_one(Listener *listener, Shared *shared, Worker *mine,
                         int *error) noexcept nogil:
    """Accept one arrival, for the least loaded worker; `error` is the errno of a shortage."""
    cdef Conn *conn = NULL
    cdef Command *order = command(C_ADOPT, NULL)  # before: afterwards is no time to fail
    cdef sockaddr_storage name
    cdef unsigned int size = sizeof(name)
    cdef int result
    if order == NULL:
        error[0] = ENOMEM
        return A_SHORT
    pthread_mutex_lock(&listener.lock)
    result = accept_one(listener, &conn, error)
    if result == A_ONE:
        word_add(&shared.alive, 1)  # under the lock: who has closed the listener counts on it
    pthread_mutex_unlock(&listener.lock)
    if result != A_ONE:
        free(order)
        return result
    if conn.source.known and getsockname(conn.sides[0].fd, <sockaddr *>&name, &size) == 0:
        place_of(&name, &conn.local)
    conn.accepted = clock_of(CLOCK_MONOTONIC)
    conn.worker = conn.running_on = least_loaded(shared, mine)
    word_add(&conn.worker.load, 1)
    if conn.worker == mine:
        free(order)
        arrive(conn)
    else:
        order.conn = conn
        post(conn.worker, order)
    return A_ONE


cdef inline bint is_behind(Shared *shared) noexcept nogil:
    """Whether too many have ended that the loop hasn't heard of: a flood of arrivals, each refused
    at once, would otherwise fill the memory, and let who asks the loop something wait."""
    return word_get(&shared.alive) > <int64_t>word_get(&shared.gate.most) + UNHEARD


cdef inline void accept_turn(Worker *worker, Listener *listener) noexcept nogil:
    cdef int taken, result = A_ONE, error = 0
    if is_behind(worker.shared):
        pause(worker.shared, listener, EBUSY)
        return
    for taken in range(ACCEPTS):
        result = take_one(listener, worker.shared, worker, &error)
        if result == A_NONE or result == A_SHORT:
            break
    if result == A_SHORT:
        pause(worker.shared, listener, error)


cdef inline void pause(Shared *shared, Listener *listener, int error) noexcept nogil:
    """Accept nothing until the loop says so: asked again at once, the kernel would say the
    same."""
    cdef int at
    pthread_mutex_lock(&listener.lock)
    if not listener.closed and not listener.paused:
        listener.paused, listener.shortage = True, error
        for at in range(shared.count):
            epoll_ctl(shared.workers[at].epoll, EPOLL_CTL_DEL, listener.fd, NULL)
    pthread_mutex_unlock(&listener.lock)
    ring_loop(&shared.inbox)


cdef inline void arrive(Conn *conn) noexcept nogil:
    """Its worker's first step."""
    cdef Side *side = &conn.sides[0]
    cdef Terms *terms = conn.terms
    cdef int why
    conn.worker.now = max(conn.worker.now, conn.accepted)  # no deadline is earlier than its length
    link_conn(conn)
    why = enter(conn)
    if why != F_NONE:
        fail(side, why, 0, 0)
        die(conn, False)
    elif terms.ask:
        ask(conn, E_ARRIVED)
    elif terms.near.ssl_ctx != NULL:
        side.shakes = terms.near
        begin_hello(conn, terms.limit)
    else:
        seek_route(conn, 0)


cdef inline void seek_route(Conn *conn, unsigned long serial) noexcept nogil:
    cdef Standing *standing = NULL
    if still_stands(conn):  # otherwise another snapshot decides, which the loop asks
        standing = find_standing(conn, serial)
    word_set(&conn.phase, P_ADMITTING)
    if standing == NULL:
        mute(&conn.sides[0])
        ask(conn, E_SHAKEN)
    else:
        follow(conn, standing)


# The ClientHello.


cdef inline void begin_hello(Conn *conn, double limit) noexcept nogil:
    cdef Side *side = &conn.sides[0]
    conn.mode = M_HELLO
    word_set(&conn.phase, P_HANDSHAKING_DOWNSTREAM)
    falls_silent(conn)
    if start_patience(side, limit) < 0 or watch(side, LISTEN) < 0:
        near_failed(conn)


cdef inline void hear_hello(Side *side) noexcept nogil:
    cdef Conn *conn = side.conn
    cdef Worker *worker = conn.worker
    cdef ssize_t size = receive_raw(side, MAX_HELLO - side.early_size)
    if size == -2:
        if watch(side, LISTEN) < 0:
            near_failed(conn)
        return
    if size < 0 and errno == ECONNRESET and not side.early_size:
        fail(side, F_NO_HELLO, 0, 0)  # as load balancers and kubelets look whether somebody is there
        near_failed(conn)
    elif size < 0:
        fail(side, F_OS, errno, 0)
        near_failed(conn)
    elif size == 0:
        fail(side, F_SHORT_HELLO if side.early_size else F_NO_HELLO, 0, 0)
        near_failed(conn)
    else:
        heard(side, worker.received, size)


cdef inline void heard(Side *side, char *said, size_t size) noexcept nogil:
    cdef Conn *conn = side.conn
    if conn.started == 0:
        conn.started = clock_of(CLOCK_MONOTONIC)
    if side.early_size == 0 and hello_complete(side, <uint8_t *>said, size):
        begin_near(side, said, size)
    elif keep_early(side, said, size) < 0:
        near_failed(conn)
    elif hello_complete(side, <uint8_t *>side.early, side.early_size):
        begin_near_kept(side)
    elif watch(side, LISTEN) < 0:
        near_failed(conn)


cdef inline void begin_near_kept(Side *side) noexcept nogil:
    cdef char *hello = side.early
    cdef size_t size = side.early_size
    side.early = NULL
    side.early_size = 0
    begin_near(side, hello, size)
    free(hello)


# The handshake.


cdef inline void begin_near(Side *side, char *hello, size_t size) noexcept nogil:
    cdef Conn *conn = side.conn
    speaks(conn)
    if side.alert:
        fail(side, F_TLS, 0, side.code)
        say_alert(side, side.alert)
        near_failed(conn)
    elif not take_slot(conn):
        fail(side, F_SLOTS, 0, 0)
        near_failed(conn)
    elif begin_tls(side) < 0:
        near_failed(conn)
    else:
        conn.mode = M_SHAKING
        near_stepped(side, shake(side, hello, size))


cdef inline void near_turn(Side *side) noexcept nogil:
    if side.backlog_size or not uncached_come(side.conn) or not offload(side):
        near_stepped(side, shake_on(side))


cdef inline void near_stepped(Side *side, int result) noexcept nogil:
    cdef Conn *conn = side.conn
    if result == 0:
        result = watch(side, EPOLLOUT if side.backlog_size else LISTEN)
        if result == 0:
            return
    if result < 0 or push_output(side) < 0:
        near_failed(conn)
        return
    free_slot(conn)
    seek_route(conn, side.entry.serial)


cdef inline void near_failed(Conn *conn) noexcept nogil:
    cdef Side *side = &conn.sides[0]
    cdef int why = conn.fault.what
    free_slot(conn)
    if (why == F_OS or why == F_TLS or why == F_NO_HELLO or why == F_SHORT_HELLO
            or why == F_SHORT_HANDSHAKE or why == F_UNPROVEN or why == F_UNASKED
            or why == F_EXCESS
            or (why == F_VERIFY and side.verdict == V_REFUSED)):
        part(side)
    else:
        die(conn, False)


# The end of somebody refused.


cdef inline void part(Side *side) noexcept nogil:
    """Close when the other side had its time to read our last words: closed at once, bytes
    that it still sends would be answered by a reset that overtakes the alert."""
    cdef Conn *conn = side.conn
    conn.mode = M_PARTING
    falls_silent(conn)
    decide(conn)
    if set_deadline(conn, conn.worker.now + LINGER) < 0:
        die(conn, True)
        return
    part_turn(side, 0)


cdef inline void part_turn(Side *side, uint32_t events) noexcept nogil:
    cdef Conn *conn = side.conn
    if side.backlog_size and events and flush(side) < 0:
        die(conn, True)
    elif side.backlog_size:
        if watch(side, EPOLLOUT) < 0:
            die(conn, True)
    elif not side.ending:
        side.ending = True
        drop_tls(side)  # its words are said: whoever takes a second to go needn't cost a handshake
        if shutdown(side.fd, SHUT_WR) != 0 or watch(side, LISTEN) < 0:
            die(conn, True)
    elif events and discard(side) == 0:
        die(conn, True)


cdef inline ssize_t discard(Side *side) noexcept nogil:
    """Take one receive's worth and forget it; 0 when no more will come."""
    cdef ssize_t size = receive_raw(side, RECEIVE)
    return 0 if size == -1 else size
