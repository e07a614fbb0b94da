"""Accepting connections, and giving each to the worker with the fewest."""

from libc.errno cimport EAGAIN, EBUSY, ECONNABORTED, EINTR, ENOMEM, EPERM, errno
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close

from uproxy.transport.native.system cimport (
    CAPTURE_MARK, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP,
    EPOLL_CTL_DEL, EPROTO, IPPROTO_IPV6, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_IP, SOL_SOCKET, SO_MARK,
    SO_ORIGINAL_DST,
    accept4, clock_of, epoll_ctl, getsockname, getsockopt, pthread_mutex_lock,
    pthread_mutex_unlock, sockaddr, sockaddr_storage, word_add, word_get,
)
from uproxy.transport.native.codes cimport C_ADOPT, K_CHANNEL, MAX_UNREPORTED, RECEIVE_SIZE
from uproxy.transport.native.types cimport (
    Command, Connection, DoorState, Endpoint, Listener, Shared, Side, Worker,
)
from uproxy.transport.native.queues cimport new_command, ring_loop, send_command
from uproxy.transport.native.dial cimport endpoint_of, is_mapped

cdef enum Accepted:
    A_MINE  # a connection for the calling worker
    A_OTHERS  # a connection for another worker, which got a command
    A_GONE  # none: a connection ended before it was taken, or there was no memory for it
    A_NONE  # nobody waits, or nothing is accepted now
    A_SHORT  # the kernel had no descriptor or memory, or we had no memory


cdef inline bint is_gone(int error) noexcept nogil:
    """Whether an errno of accept(2) belongs to the connection, not to the listener."""
    return (error == ECONNABORTED or error == EPROTO or error == ENOPROTOOPT
            or error == EHOSTDOWN or error == ENONET or error == EHOSTUNREACH
            or error == EOPNOTSUPP or error == ENETUNREACH or error == ENETDOWN
            or error == EPERM or error == EINTR)


cdef inline Connection *new_connection(int fd) noexcept nogil:
    """Make a connection whose downstream side has the socket.  NULL without memory."""
    cdef Connection *connection = <Connection *>calloc(1, sizeof(Connection))
    cdef int index
    if connection == NULL:
        return NULL
    connection.heap = -1
    for index in range(2):
        start_side(connection, index)
    connection.sides[0].channel.fd = fd
    return connection


cdef inline void start_side(Connection *connection, int index) noexcept nogil:
    """Set what a side has from the start: no socket, no TLS."""
    cdef Side *side = &connection.sides[index]
    side.connection, side.index = connection, index
    side.channel.kind, side.channel.side = K_CHANNEL, side
    side.channel.fault = &connection.fault
    side.channel.fd = side.channel.mask = -1
    side.channel.x509_error = 1
    side.channel.receive_size = RECEIVE_SIZE


cdef inline void set_worker(Connection *connection, Worker *worker) noexcept nogil:
    """Give a connection to the thread that moves it from now on."""
    cdef int index
    connection.worker = worker
    for index in range(2):
        connection.sides[index].channel.worker = worker
        connection.sides[index].channel.running_on = worker


cdef inline int accept_connection(Listener *listener, Connection **made, int *error) noexcept nogil:
    """Take one connection from the kernel's queue.  Returns an Accepted; `made` is the connection,
    `error` the errno of A_SHORT.  The caller has the listener's lock: without it the listener might
    be closed, and its descriptor be another socket's."""
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
    return A_MINE


cdef inline Worker *least_loaded(Shared *shared, Worker *mine) noexcept nogil:
    """Return the worker with the fewest connections; `mine`, where there is one, if it has an
    eighth more at most, because a connection that is handed over wakes another thread."""
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
                                  Connection **made, int *error) noexcept nogil:
    """Accept one connection, and give it to the least loaded worker. Returns an Accepted; `made` is
    the connection of A_MINE, `error` the errno of A_SHORT."""
    cdef Connection *connection = NULL
    cdef Command *command = new_command(C_ADOPT, NULL)  # before it could be too late
    cdef int result
    if command == NULL:
        error[0] = ENOMEM
        return A_SHORT
    pthread_mutex_lock(&listener.lock)
    result = accept_connection(listener, &connection, error)
    if result == A_MINE:
        word_add(&shared.alive, 1)  # under the lock: who has closed the listener counts on it
    pthread_mutex_unlock(&listener.lock)
    if result != A_MINE:
        free(command)
        return result
    set_local(connection)
    if connection.door_state.captured:
        set_original(connection)
        choose_handshake(connection)
    connection.accepted_at = clock_of(CLOCK_MONOTONIC)
    set_worker(connection, least_loaded(shared, mine))
    word_add(&connection.worker.load, 1)
    if connection.worker == mine:
        free(command)
        made[0] = connection
        return A_MINE
    command.connection = connection
    send_command(connection.worker, command)
    return A_OTHERS


cdef inline void set_local(Connection *connection) noexcept nogil:
    """Note the address at which the connection arrived, unless it is a unix socket's."""
    cdef sockaddr_storage name
    cdef unsigned int size = sizeof(name)
    if connection.source.known and getsockname(
            connection.sides[0].channel.fd, <sockaddr *>&name, &size) == 0:
        endpoint_of(&name, &connection.local)


cdef inline uint16_t port_of(int fd) noexcept nogil:
    """Return the port of a socket in network order; 0 for a unix socket."""
    cdef sockaddr_storage name
    cdef unsigned int size = sizeof(name)
    cdef Endpoint here
    here.port = 0
    if getsockname(fd, <sockaddr *>&name, &size) == 0:
        endpoint_of(&name, &here)
    return here.port


cdef inline bint is_marked(int fd) noexcept nogil:
    """Whether a socket has the mark of captured connections."""
    cdef uint32_t mark = 0
    cdef unsigned int size = sizeof(mark)
    return getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &size) == 0 and mark == CAPTURE_MARK


cdef inline void set_original(Connection *connection) noexcept nogil:
    """Note the address to which a captured connection was made: that of its socket where eBPF has
    given it to the listener, or the one that netfilter has rewritten to the listener's.  A dial of
    our own that came back has none."""
    cdef sockaddr_storage name
    cdef unsigned int size = sizeof(name)
    cdef bint is_ipv4 = is_mapped(&connection.local)
    cdef int level = SOL_IP if is_ipv4 else IPPROTO_IPV6, fd = connection.sides[0].channel.fd
    connection.meant = connection.local
    if (connection.local.known and connection.local.port == connection.listener.port
            and getsockopt(fd, level, SO_ORIGINAL_DST, &name, &size) == 0):
        endpoint_of(&name, &connection.meant)
    if connection.door_state.unmarked and is_marked(fd):
        connection.meant.known, connection.meant.port = False, 0


cdef inline void choose_handshake(Connection *connection) noexcept nogil:
    """Find out whether a captured connection makes a handshake, by what it was meant for."""
    cdef DoorState *door_state = connection.door_state
    cdef int at
    if not door_state.by_port:
        return
    connection.in_clear = True
    for at in range(door_state.tls_port_count):
        if door_state.tls_ports[at] == connection.meant.port:
            connection.in_clear = False
            connection.may_be_clear = at < door_state.migrating_count


cdef inline bint is_behind(Shared *shared) noexcept nogil:
    """Whether too many ended connections wait for the loop to release them.  A flood of
    connections, each refused at once, would otherwise fill the memory, and delay the loop's other
    answers."""
    return word_get(&shared.alive) > <int64_t>word_get(&shared.limits.most) + MAX_UNREPORTED


cdef inline void pause(Shared *shared, Listener *listener, int error) noexcept nogil:
    """Accept nothing on any thread until `ListenerHandle.resume`; `error` is the errno that says
    why.  The kernel would return it again if it were asked at once."""
    cdef int at
    pthread_mutex_lock(&listener.lock)
    if not listener.closed and not listener.paused:
        listener.paused, listener.shortage = True, error
        for at in range(shared.count):
            epoll_ctl(shared.workers[at].epoll, EPOLL_CTL_DEL, listener.fd, NULL)
    pthread_mutex_unlock(&listener.lock)
    ring_loop(&shared.reports)
