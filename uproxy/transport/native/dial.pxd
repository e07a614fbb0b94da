"""The upstream side: dialled, shaken hands with where it has TLS, and then bytes pass."""

from libc.errno cimport ECONNREFUSED, EINPROGRESS, ENOTCONN, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcmp
from posix.time cimport CLOCK_MONOTONIC

from uproxy.transport.native.deadlines cimport clear_deadline, set_deadline
from uproxy.transport.native.close cimport ask_loop, end_connection
from uproxy.transport.native.queues cimport mark_decided, report
from uproxy.transport.native.types cimport (
    E_ADMITTED, E_UPSTREAM_FAILED, E_UPSTREAM_READY, E_OPENED, F_MEMORY, F_NONE, F_OS, M_ASKING, M_CONNECTING,
    M_DEAD, M_SHAKING, P_CONNECTING, P_HANDSHAKING_UPSTREAM, Connection, Shared, Side, CachedRoute,
)
from uproxy.transport.native.loss cimport has_unread, pending_error
from uproxy.transport.native.relay cimport relay_begin
from uproxy.transport.native.handshake cimport start_tls, handshake_step, continue_handshake
from uproxy.transport.native.side cimport fail, close_side, unwatch, send_output, watch
from uproxy.transport.native.route_cache cimport is_route_valid
from uproxy.transport.native.system cimport (
    AF_UNIX, EPOLLERR, EPOLLHUP, EPOLLOUT, READ_EVENTS, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM,
    SO_ERROR, SOL_SOCKET, clock_of, connect, getpeername, getsockname, getsockopt, setsockopt,
    sockaddr, sockaddr_storage, socket, word_set,
)


cdef inline void dial_cached(Connection *connection, CachedRoute *cached_route) noexcept nogil:
    """Go where the route that stands leads."""
    connection.cached_route = cached_route
    report(connection, E_ADMITTED, False)
    mark_decided(connection)  # afterwards: who closes the door then takes what was told
    if cached_route.upstream.ssl_ctx != NULL:
        connection.sides[1].tls_setup = cached_route.upstream
    dial(connection, -1, &cached_route.target, cached_route.target_size, cached_route.connect, cached_route.handshake)


cdef inline void dial(Connection *connection, int fd, sockaddr_storage *target, unsigned int size,
                      double limit, double handshake_limit) noexcept nogil:
    """Set out, or go on with `fd`, which is connected."""
    cdef Side *side = &connection.sides[1]
    connection.fault.what = F_NONE  # of the candidate before
    if side.fd >= 0:
        close_side(side, True)  # reached where a route led that was given before this one
    word_set(&connection.state, P_CONNECTING)
    connection.mode = M_CONNECTING
    connection.time_limits[0] = handshake_limit
    side.fd = fd
    if fd < 0 and start_connect(side, target, size) < 0:
        upstream_failed(connection)
        return
    if side.mask < 0 and side.tls_setup.ssl_ctx == NULL:
        on_upstream_ready(side)
        return
    watch_loss(connection)
    if connection.mode == M_DEAD:
        return
    if side.mask < 0:
        on_connected(side)
    elif start_deadline(side, limit) < 0:
        upstream_failed(connection)


cdef inline int start_connect(Side *side, sockaddr_storage *target, unsigned int size) noexcept nogil:
    """Watched where the connection isn't made at once."""
    cdef int error
    side.fd = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if side.fd < 0:
        return fail(side, F_OS, errno, 0)
    if target.ss_family != AF_UNIX and set_options(side) < 0:
        return -1
    if connect(side.fd, <sockaddr *>target, size) == 0:
        return 0
    error = errno
    if error == EINPROGRESS:
        error = connect_error(side.fd)  # on this very machine it stands already
    if error == ENOTCONN:
        return watch(side, EPOLLOUT)
    return fail(side, F_OS, error, 0) if error else 0


cdef inline int set_options(Side *side) noexcept nogil:
    cdef Shared *shared = side.connection.worker.shared
    cdef int at
    for at in range(shared.option_count):
        if setsockopt(side.fd, shared.options[at].level, shared.options[at].name,
                      &shared.options[at].value, sizeof(int)) != 0:
            return fail(side, F_OS, errno, 0)
    return 0


cdef inline int connect_error(int fd) noexcept nogil:
    """The errno a connect ended with, 0 for success, ENOTCONN before its end. A connection with
    itself counts as refused: nobody listens there, and the kernel has picked the very port that
    was dialled to dial from (TCP's simultaneous open)."""
    cdef int error = 0
    cdef unsigned int size = sizeof(error)
    cdef sockaddr_storage here, there
    cdef unsigned int here_size = sizeof(here), there_size = sizeof(there)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return errno
    if error:
        return error
    if (getsockname(fd, <sockaddr *>&here, &here_size) != 0
            or getpeername(fd, <sockaddr *>&there, &there_size) != 0):
        return errno
    if here.ss_family == AF_UNIX or here_size != there_size:
        return 0
    return ECONNREFUSED if memcmp(&here, &there, here_size) == 0 else 0


cdef inline void connect_turn(Side *side) noexcept nogil:
    cdef int error = connect_error(side.fd)
    if error:
        fail(side, F_OS, error, 0)
        upstream_failed(side.connection)
    else:
        on_connected(side)


cdef inline void on_connected(Side *side) noexcept nogil:
    cdef Connection *connection = side.connection
    if side.tls_setup.ssl_ctx == NULL:
        on_upstream_ready(side)
        return
    connection.mode = M_SHAKING
    word_set(&connection.state, P_HANDSHAKING_UPSTREAM)
    connection.started = clock_of(CLOCK_MONOTONIC)
    if start_tls(side) < 0 or start_deadline(side, connection.time_limits[0]) < 0:
        upstream_failed(connection)
    else:
        upstream_stepped(side, handshake_step(side, connection.worker.received, 0))


cdef inline void upstream_turn(Side *side) noexcept nogil:
    upstream_stepped(side, continue_handshake(side))


cdef inline void upstream_stepped(Side *side, int result) noexcept nogil:
    if result == 0:
        result = watch(side, EPOLLOUT if side.unsent else READ_EVENTS)
        if result == 0:
            return
    if result == 1:
        on_upstream_ready(side)
    else:
        upstream_failed(side.connection)


cdef inline void on_upstream_ready(Side *side) noexcept nogil:
    """Both sides are: bytes pass at once where the route still stands, or else if the loop says
    so, which knows what has changed since."""
    cdef Connection *connection = side.connection
    cdef CachedRoute *cached_route = connection.cached_route
    clear_deadline(connection)
    if cached_route == NULL or not is_route_valid(connection):
        if side.ssl != NULL and send_output(side) < 0:
            upstream_failed(connection)
            return
        unwatch(side)
        watch_loss(connection)
        if connection.mode != M_DEAD:
            ask_loop(connection, E_UPSTREAM_READY)
        return
    connection.time_limits[0], connection.time_limits[1] = cached_route.idle, cached_route.half_close
    report(connection, E_OPENED, False)
    relay_begin(connection, NULL, 0)


cdef inline void upstream_failed(Connection *connection) noexcept nogil:
    close_side(&connection.sides[1], True)
    if connection.sides[0].gone:
        end_for_downstream(connection)
        return
    connection.candidate_fault = connection.fault
    ask_loop(connection, E_UPSTREAM_FAILED)


cdef inline int start_deadline(Side *side, double limit) noexcept nogil:
    """`limit` seconds from now; 0 is no limit."""
    cdef Connection *connection = side.connection
    if set_deadline(connection, connection.worker.now + limit if limit else 0) < 0:
        return fail(side, F_MEMORY, 0, 0)
    return 0


# The downstream side, meanwhile.


cdef inline void watch_loss(Connection *connection) noexcept nogil:
    """Notice a reset of the downstream side while the upstream side is being reached."""
    if watch(&connection.sides[0], 0) < 0:
        end_connection(connection, False)


cdef inline void downstream_lost(Side *side, uint32_t events) noexcept nogil:
    if events & EPOLLERR:
        downstream_gone(side)
    elif events & EPOLLHUP:  # bytes may be before it, which are read when they are wanted
        side.hung_up = True
        unwatch(side)
    else:
        watch_loss(side.connection)


cdef inline void downstream_gone(Side *side) noexcept nogil:
    """It was reset.  What it had said is still for a upstream side that is reached; nobody is dialled
    for it any more."""
    side.error = pending_error(side.fd)
    if is_reached(side.connection) and has_unread(side):
        side.gone = side.hung_up = True
        unwatch(side)
    else:
        end_for_downstream(side.connection)


cdef inline bint is_reached(Connection *connection) noexcept nogil:
    """Whether the upstream side is connected."""
    if connection.mode == M_ASKING:
        return connection.sides[1].fd >= 0
    return connection.state == P_HANDSHAKING_UPSTREAM


cdef inline void end_for_downstream(Connection *connection) noexcept nogil:
    connection.fault.what = F_NONE  # of the candidate before
    fail(&connection.sides[0], F_OS, connection.sides[0].error, 0)
    end_connection(connection, False)
