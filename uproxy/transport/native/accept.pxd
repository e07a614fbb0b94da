"""The downstream side: accepted, let in by the limits, its ClientHello heard whole before anything is
spent on it, shaken hands with, and left to read why where it is refused."""

from libc.errno cimport EAGAIN, EBUSY, ECONNABORTED, ECONNRESET, EINTR, ENOMEM, EPERM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close

from uproxy.transport.native.deadlines cimport set_deadline
from uproxy.transport.native.close cimport ask_loop, end_connection, link_connection
from uproxy.transport.native.dial cimport dial_cached, start_deadline
from uproxy.transport.native.limits cimport enter_limits, mark_silent, free_slot, mark_heard, take_slot
from uproxy.transport.native.client_hello cimport hello_complete
from uproxy.transport.native.queues cimport new_command, mark_decided, send_command, ring_loop
from uproxy.transport.native.offload cimport offload, uncached_peers_come
from uproxy.transport.native.types cimport (
    MAX_ACCEPTS, C_ADOPT, E_ARRIVED, E_HANDSHAKEN, F_EXCESS, F_NONE, F_NO_HELLO, F_OS, F_SHORT_HANDSHAKE,
    F_SHORT_HELLO, F_SLOTS, F_TLS, F_UNASKED, F_UNPROVEN, F_VERIFY, K_SIDE, M_HELLO, M_PARTING,
    M_SHAKING, MAX_HELLO, P_ADMITTING, P_HANDSHAKING_DOWNSTREAM, RECEIVE_SIZE, MAX_UNREPORTED,
    V_REFUSED,
    Command, Connection, Listener, Endpoint, Shared, Side, CachedRoute, DoorState, Worker,
)
from uproxy.transport.native.handshake cimport start_tls, handshake_step, continue_handshake
from uproxy.transport.native.side cimport (
    free_tls, fail, flush, keep_early, unwatch, send_output, receive_raw, send_clear_alert, watch,
)
from uproxy.transport.native.route_cache cimport find_cached_route, is_route_valid
from uproxy.transport.native.system cimport (
    AF_INET, AF_INET6, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT,
    EOPNOTSUPP, EPOLLOUT, EPOLL_CTL_DEL, EPROTO, LINGER_S, READ_EVENTS, SHUT_WR, SOCK_CLOEXEC,
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


cdef inline void endpoint_of(sockaddr_storage *name, Endpoint *place) noexcept nogil:
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


cdef inline Connection *new_connection(int fd) noexcept nogil:
    cdef Connection *connection = <Connection *>calloc(1, sizeof(Connection))
    cdef int index
    if connection == NULL:
        return NULL
    connection.heap = -1
    for index in range(2):
        connection.sides[index].kind = K_SIDE
        connection.sides[index].connection = connection
        connection.sides[index].index = index
        connection.sides[index].fd = connection.sides[index].mask = -1
        connection.sides[index].x509_error = 1
        connection.sides[index].receive_size = RECEIVE_SIZE
    connection.sides[0].fd = fd
    return connection


cdef inline int accept_connection(Listener *listener, Connection **made, int *error) noexcept nogil:
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
    made[0] = new_connection(fd)
    if made[0] == NULL:
        close(fd)
        return A_GONE
    endpoint_of(&name, &made[0].source)
    made[0].listener, made[0].door_state = listener, listener.door_state
    word_add(&listener.held, 1)
    word_add(&listener.door_state.held, 1)
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


cdef inline int accept_for_worker(Listener *listener, Shared *shared, Worker *mine,
                         int *error) noexcept nogil:
    """Accept one arrival, for the least loaded worker; `error` is the errno of a shortage."""
    cdef Connection *connection = NULL
    cdef Command *command = new_command(C_ADOPT, NULL)  # before: afterwards is no time to fail
    cdef sockaddr_storage name
    cdef unsigned int size = sizeof(name)
    cdef int result
    if command == NULL:
        error[0] = ENOMEM
        return A_SHORT
    pthread_mutex_lock(&listener.lock)
    result = accept_connection(listener, &connection, error)
    if result == A_ONE:
        word_add(&shared.alive, 1)  # under the lock: who has closed the listener counts on it
    pthread_mutex_unlock(&listener.lock)
    if result != A_ONE:
        free(command)
        return result
    if connection.source.known and getsockname(connection.sides[0].fd, <sockaddr *>&name, &size) == 0:
        endpoint_of(&name, &connection.local)
    connection.accepted = clock_of(CLOCK_MONOTONIC)
    connection.worker = connection.running_on = least_loaded(shared, mine)
    word_add(&connection.worker.load, 1)
    if connection.worker == mine:
        free(command)
        on_accepted(connection)
    else:
        command.connection = connection
        send_command(connection.worker, command)
    return A_ONE


cdef inline bint is_behind(Shared *shared) noexcept nogil:
    """Whether too many have ended that the loop hasn't heard of: a flood of arrivals, each refused
    at once, would otherwise fill the memory, and let who asks the loop something wait."""
    return word_get(&shared.alive) > <int64_t>word_get(&shared.limits.most) + MAX_UNREPORTED


cdef inline void accept_turn(Worker *worker, Listener *listener) noexcept nogil:
    cdef int taken, result = A_ONE, error = 0
    if is_behind(worker.shared):
        pause(worker.shared, listener, EBUSY)
        return
    for taken in range(MAX_ACCEPTS):
        result = accept_for_worker(listener, worker.shared, worker, &error)
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
    ring_loop(&shared.reports)


cdef inline void on_accepted(Connection *connection) noexcept nogil:
    """Its worker's first step."""
    cdef Side *side = &connection.sides[0]
    cdef DoorState *door_state = connection.door_state
    cdef int why
    connection.worker.now = max(connection.worker.now, connection.accepted)  # no deadline is earlier than its length
    link_connection(connection)
    why = enter_limits(connection)
    if why != F_NONE:
        fail(side, why, 0, 0)
        end_connection(connection, False)
    elif door_state.ask:
        ask_loop(connection, E_ARRIVED)
    elif door_state.downstream.ssl_ctx != NULL:
        side.tls_setup = door_state.downstream
        begin_hello(connection, door_state.limit)
    else:
        seek_route(connection, 0)


cdef inline void seek_route(Connection *connection, unsigned long serial) noexcept nogil:
    cdef CachedRoute *cached_route = NULL
    if is_route_valid(connection):  # otherwise another snapshot decides, which the loop asks
        cached_route = find_cached_route(connection, serial)
    word_set(&connection.state, P_ADMITTING)
    if cached_route == NULL:
        unwatch(&connection.sides[0])
        ask_loop(connection, E_HANDSHAKEN)
    else:
        dial_cached(connection, cached_route)


# The ClientHello.


cdef inline void begin_hello(Connection *connection, double limit) noexcept nogil:
    cdef Side *side = &connection.sides[0]
    connection.mode = M_HELLO
    word_set(&connection.state, P_HANDSHAKING_DOWNSTREAM)
    mark_silent(connection)
    if start_deadline(side, limit) < 0 or watch(side, READ_EVENTS) < 0:
        downstream_failed(connection)


cdef inline void receive_hello(Side *side) noexcept nogil:
    cdef Connection *connection = side.connection
    cdef Worker *worker = connection.worker
    cdef ssize_t size = receive_raw(side, MAX_HELLO - side.early_size)
    if size == -2:
        if watch(side, READ_EVENTS) < 0:
            downstream_failed(connection)
        return
    if size < 0 and errno == ECONNRESET and not side.early_size:
        fail(side, F_NO_HELLO, 0, 0)  # as load balancers and kubelets look whether somebody is there
        downstream_failed(connection)
    elif size < 0:
        fail(side, F_OS, errno, 0)
        downstream_failed(connection)
    elif size == 0:
        fail(side, F_SHORT_HELLO if side.early_size else F_NO_HELLO, 0, 0)
        downstream_failed(connection)
    else:
        on_received(side, worker.received, size)


cdef inline void on_received(Side *side, char *said, size_t size) noexcept nogil:
    cdef Connection *connection = side.connection
    if connection.started == 0:
        connection.started = clock_of(CLOCK_MONOTONIC)
    if side.early_size == 0 and hello_complete(side, <uint8_t *>said, size):
        begin_downstream(side, said, size)
    elif keep_early(side, said, size) < 0:
        downstream_failed(connection)
    elif hello_complete(side, <uint8_t *>side.early, side.early_size):
        begin_downstream_kept(side)
    elif watch(side, READ_EVENTS) < 0:
        downstream_failed(connection)


cdef inline void begin_downstream_kept(Side *side) noexcept nogil:
    cdef char *hello = side.early
    cdef size_t size = side.early_size
    side.early = NULL
    side.early_size = 0
    begin_downstream(side, hello, size)
    free(hello)


# The handshake.


cdef inline void begin_downstream(Side *side, char *hello, size_t size) noexcept nogil:
    cdef Connection *connection = side.connection
    mark_heard(connection)
    if side.alert:
        fail(side, F_TLS, 0, side.code)
        send_clear_alert(side, side.alert)
        downstream_failed(connection)
    elif not take_slot(connection):
        fail(side, F_SLOTS, 0, 0)
        downstream_failed(connection)
    elif start_tls(side) < 0:
        downstream_failed(connection)
    else:
        connection.mode = M_SHAKING
        downstream_stepped(side, handshake_step(side, hello, size))


cdef inline void downstream_turn(Side *side) noexcept nogil:
    if side.unsent or not uncached_peers_come(side.connection) or not offload(side):
        downstream_stepped(side, continue_handshake(side))


cdef inline void downstream_stepped(Side *side, int result) noexcept nogil:
    cdef Connection *connection = side.connection
    if result == 0:
        result = watch(side, EPOLLOUT if side.unsent else READ_EVENTS)
        if result == 0:
            return
    if result < 0 or send_output(side) < 0:
        downstream_failed(connection)
        return
    free_slot(connection)
    seek_route(connection, side.verified_peer.serial)


cdef inline void downstream_failed(Connection *connection) noexcept nogil:
    cdef Side *side = &connection.sides[0]
    cdef int why = connection.fault.what
    free_slot(connection)
    if (why == F_OS or why == F_TLS or why == F_NO_HELLO or why == F_SHORT_HELLO
            or why == F_SHORT_HANDSHAKE or why == F_UNPROVEN or why == F_UNASKED
            or why == F_EXCESS
            or (why == F_VERIFY and side.verdict == V_REFUSED)):
        linger(side)
    else:
        end_connection(connection, False)


# The end of somebody refused.


cdef inline void linger(Side *side) noexcept nogil:
    """Close when the other side had its time to read our last words: closed at once, bytes
    that it still sends would be answered by a reset that overtakes the alert."""
    cdef Connection *connection = side.connection
    connection.mode = M_PARTING
    mark_silent(connection)
    mark_decided(connection)
    if set_deadline(connection, connection.worker.now + LINGER_S) < 0:
        end_connection(connection, True)
        return
    linger_turn(side, 0)


cdef inline void linger_turn(Side *side, uint32_t events) noexcept nogil:
    cdef Connection *connection = side.connection
    if side.unsent and events and flush(side) < 0:
        end_connection(connection, True)
    elif side.unsent:
        if watch(side, EPOLLOUT) < 0:
            end_connection(connection, True)
    elif not side.ending:
        side.ending = True
        free_tls(side)  # its words are said: whoever takes a second to go needn't cost a handshake
        if shutdown(side.fd, SHUT_WR) != 0 or watch(side, READ_EVENTS) < 0:
            end_connection(connection, True)
    elif events and discard(side) == 0:
        end_connection(connection, True)


cdef inline ssize_t discard(Side *side) noexcept nogil:
    """Take one receive's worth and forget it; 0 when no more will come."""
    cdef ssize_t size = receive_raw(side, RECEIVE_SIZE)
    return 0 if size == -1 else size
