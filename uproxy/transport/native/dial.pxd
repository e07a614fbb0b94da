"""The far side: dialled, shaken hands with where it has TLS, and then bytes pass."""

from libc.errno cimport ECONNREFUSED, EINPROGRESS, ENOTCONN, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcmp
from posix.time cimport CLOCK_MONOTONIC

from uproxy.transport.native.deadlines cimport forget_deadline, set_deadline
from uproxy.transport.native.close cimport ask, die
from uproxy.transport.native.queues cimport decide, tell
from uproxy.transport.native.types cimport (
    E_ADMITTED, E_FAR_FAILED, E_FAR_READY, E_OPENED, F_MEMORY, F_NONE, F_OS, M_ASKING, M_CONNECTING,
    M_DEAD, M_SHAKING, P_CONNECTING, P_HANDSHAKING_UPSTREAM, Conn, Shared, Side, Standing,
)
from uproxy.transport.native.loss cimport has_unread, pending_error
from uproxy.transport.native.relay cimport relay_begin
from uproxy.transport.native.handshake cimport begin_tls, shake, shake_on
from uproxy.transport.native.side cimport fail, let_go, mute, push_output, watch
from uproxy.transport.native.route_cache cimport still_stands
from uproxy.transport.native.system cimport (
    AF_UNIX, EPOLLERR, EPOLLHUP, EPOLLOUT, LISTEN, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM,
    SO_ERROR, SOL_SOCKET, clock_of, connect, getpeername, getsockname, getsockopt, setsockopt,
    sockaddr, sockaddr_storage, socket, word_set,
)


cdef inline void follow(Conn *conn, Standing *standing) noexcept nogil:
    """Go where the route that stands leads."""
    conn.standing = standing
    tell(conn, E_ADMITTED, False)
    decide(conn)  # afterwards: who closes the door then takes what was told
    if standing.far.ssl_ctx != NULL:
        conn.sides[1].shakes = standing.far
    dial(conn, -1, &standing.target, standing.target_size, standing.connect, standing.handshake)


cdef inline void dial(Conn *conn, int fd, sockaddr_storage *target, unsigned int size,
                      double limit, double handshake_limit) noexcept nogil:
    """Set out, or go on with `fd`, which is connected."""
    cdef Side *side = &conn.sides[1]
    conn.fault.what = F_NONE  # of the candidate before
    if side.fd >= 0:
        let_go(side, True)  # reached where a route led that was given before this one
    word_set(&conn.phase, P_CONNECTING)
    conn.mode = M_CONNECTING
    conn.limits[0] = handshake_limit
    side.fd = fd
    if fd < 0 and set_out(side, target, size) < 0:
        far_failed(conn)
        return
    if side.mask < 0 and side.shakes.ssl_ctx == NULL:
        ready(side)
        return
    watch_loss(conn)
    if conn.mode == M_DEAD:
        return
    if side.mask < 0:
        connected(side)
    elif start_patience(side, limit) < 0:
        far_failed(conn)


cdef inline int set_out(Side *side, sockaddr_storage *target, unsigned int size) noexcept nogil:
    """Watched where the connection isn't made at once."""
    cdef int error
    side.fd = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if side.fd < 0:
        return fail(side, F_OS, errno, 0)
    if target.ss_family != AF_UNIX and tune(side) < 0:
        return -1
    if connect(side.fd, <sockaddr *>target, size) == 0:
        return 0
    error = errno
    if error == EINPROGRESS:
        error = connect_error(side.fd)  # on this very machine it stands already
    if error == ENOTCONN:
        return watch(side, EPOLLOUT)
    return fail(side, F_OS, error, 0) if error else 0


cdef inline int tune(Side *side) noexcept nogil:
    cdef Shared *shared = side.conn.worker.shared
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
        far_failed(side.conn)
    else:
        connected(side)


cdef inline void connected(Side *side) noexcept nogil:
    cdef Conn *conn = side.conn
    if side.shakes.ssl_ctx == NULL:
        ready(side)
        return
    conn.mode = M_SHAKING
    word_set(&conn.phase, P_HANDSHAKING_UPSTREAM)
    conn.started = clock_of(CLOCK_MONOTONIC)
    if begin_tls(side) < 0 or start_patience(side, conn.limits[0]) < 0:
        far_failed(conn)
    else:
        far_stepped(side, shake(side, conn.worker.received, 0))


cdef inline void far_turn(Side *side) noexcept nogil:
    far_stepped(side, shake_on(side))


cdef inline void far_stepped(Side *side, int result) noexcept nogil:
    if result == 0:
        result = watch(side, EPOLLOUT if side.backlog_size else LISTEN)
        if result == 0:
            return
    if result == 1:
        ready(side)
    else:
        far_failed(side.conn)


cdef inline void ready(Side *side) noexcept nogil:
    """Both sides are: bytes pass at once where the route still stands, or else if the loop says
    so, which knows what has changed since."""
    cdef Conn *conn = side.conn
    cdef Standing *standing = conn.standing
    forget_deadline(conn)
    if standing == NULL or not still_stands(conn):
        if side.ssl != NULL and push_output(side) < 0:
            far_failed(conn)
            return
        mute(side)
        watch_loss(conn)
        if conn.mode != M_DEAD:
            ask(conn, E_FAR_READY)
        return
    conn.limits[0], conn.limits[1] = standing.idle, standing.half_close
    tell(conn, E_OPENED, False)
    relay_begin(conn, NULL, 0)


cdef inline void far_failed(Conn *conn) noexcept nogil:
    let_go(&conn.sides[1], True)
    if conn.sides[0].gone:
        die_of_near(conn)
        return
    conn.missed = conn.fault
    ask(conn, E_FAR_FAILED)


cdef inline int start_patience(Side *side, double limit) noexcept nogil:
    """`limit` seconds from now; 0 is no limit."""
    cdef Conn *conn = side.conn
    if set_deadline(conn, conn.worker.now + limit if limit else 0) < 0:
        return fail(side, F_MEMORY, 0, 0)
    return 0


# The near side, meanwhile.


cdef inline void watch_loss(Conn *conn) noexcept nogil:
    """Notice a reset of the near side while the far side is being reached."""
    if watch(&conn.sides[0], 0) < 0:
        die(conn, False)


cdef inline void near_lost(Side *side, uint32_t events) noexcept nogil:
    if events & EPOLLERR:
        near_gone(side)
    elif events & EPOLLHUP:  # bytes may be before it, which are read when they are wanted
        side.hung_up = True
        mute(side)
    else:
        watch_loss(side.conn)


cdef inline void near_gone(Side *side) noexcept nogil:
    """It was reset.  What it had said is still for a far side that is reached; nobody is dialled
    for it any more."""
    side.error = pending_error(side.fd)
    if is_reached(side.conn) and has_unread(side):
        side.gone = side.hung_up = True
        mute(side)
    else:
        die_of_near(side.conn)


cdef inline bint is_reached(Conn *conn) noexcept nogil:
    """Whether the far side is connected."""
    if conn.mode == M_ASKING:
        return conn.sides[1].fd >= 0
    return conn.phase == P_HANDSHAKING_UPSTREAM


cdef inline void die_of_near(Conn *conn) noexcept nogil:
    conn.fault.what = F_NONE  # of the candidate before
    fail(&conn.sides[0], F_OS, conn.sides[0].error, 0)
    die(conn, False)
