"""Dialling the upstream side: a socket, its options, a connect that doesn't wait; and watching the
downstream side meanwhile."""

from libc.errno cimport ECONNREFUSED, EINPROGRESS, ENOTCONN, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy, memset

from uproxy.transport.native.system cimport (
    AF_INET, AF_INET6, AF_UNIX, EPOLLERR, EPOLLHUP, EPOLLOUT, SOCK_CLOEXEC, SOCK_NONBLOCK,
    SOCK_STREAM, SOL_SOCKET, SO_ERROR, connect, getpeername, getsockname, getsockopt, setsockopt,
    sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socket,
)
from uproxy.transport.native.codes cimport F_OS, S_HANDSHAKING_UPSTREAM, W_LOOP
from uproxy.transport.native.types cimport Channel, Connection, Endpoint, Shared, Side
from uproxy.transport.native.channel cimport fail, has_unread, pending_error, unwatch, watch


cdef inline int start_dial(Side *side, int fd, sockaddr_storage *target,
                           unsigned int size) noexcept nogil:
    """Connect a new socket, or take `fd`, which is connected (-1: none).  Returns 1 if it is
    connected, 0 if `finish_dial` is to be called when it can be written, -1 if it failed
    (recorded)."""
    cdef Channel *channel = &side.channel
    cdef int error
    memset(&side.connection.dialled_from, 0, sizeof(Endpoint))  # of the candidate before
    channel.fd = fd
    if fd >= 0:
        connect_error(side)  # notes our address
        return 1
    channel.fd = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if channel.fd < 0:
        return fail(channel, F_OS, errno, 0)
    if target.ss_family != AF_UNIX and set_options(channel) < 0:
        return -1
    if connect(channel.fd, <sockaddr *>target, size) == 0:
        return 1
    error = errno
    if error == EINPROGRESS:
        error = connect_error(side)  # on the same machine it is connected already
    if error == ENOTCONN:
        return watch(channel, EPOLLOUT)
    return fail(channel, F_OS, error, 0) if error else 1


cdef inline int finish_dial(Side *side) noexcept nogil:
    """Look what came of a connect whose socket can be written now.  Returns 1 if it is connected,
    -1 if it failed (recorded)."""
    cdef int error = connect_error(side)
    return fail(&side.channel, F_OS, error, 0) if error else 1


cdef inline int set_options(Channel *channel) noexcept nogil:
    """Set the socket options that the engine was made with.  Returns 0 or -1."""
    cdef Shared *shared = channel.worker.shared
    cdef int at
    for at in range(shared.option_count):
        if setsockopt(channel.fd, shared.options[at].level, shared.options[at].name,
                      &shared.options[at].value, sizeof(int)) != 0:
            return fail(channel, F_OS, errno, 0)
    return 0


cdef inline int connect_error(Side *side) noexcept nogil:
    """Return the errno that a connect ended with; 0: connected, ENOTCONN: not ended.  Connected,
    our own address is noted in `dialled_from`.  A connection to itself (TCP's simultaneous open)
    counts as refused: nobody listens at the port, and the kernel has picked that very port to dial
    from."""
    cdef int error = 0, fd = side.channel.fd
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
    endpoint_of(&here, &side.connection.dialled_from)
    if here.ss_family == AF_UNIX or here_size != there_size:
        return 0
    return ECONNREFUSED if memcmp(&here, &there, here_size) == 0 else 0


cdef inline void endpoint_of(sockaddr_storage *name, Endpoint *place) noexcept nogil:
    """Write an IP address and its port to `place`, which is left as it is for a unix socket."""
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


cdef inline bint is_mapped(Endpoint *place) noexcept nogil:
    """Whether an address is an IPv4 one, mapped into IPv6."""
    cdef int at
    for at in range(10):
        if place.host[at]:
            return False
    return place.host[10] == 0xFF and place.host[11] == 0xFF


cdef inline int watch_loss(Side *downstream) noexcept nogil:
    """Have nothing but a reset or a hang-up of the downstream side reported.  Returns 0 or -1."""
    return watch(&downstream.channel, 0)


cdef inline int notice_loss(Side *downstream, uint32_t events, bint is_connected) noexcept nogil:
    """Look at the `events` that epoll has reported of the downstream side, which isn't read now.
    Returns -1 if it was reset (the errno is in `channel.error`) and the connection is to end; 0
    if not: an upstream that `is_connected` still gets what downstream had sent before."""
    cdef Channel *channel = &downstream.channel
    if events & EPOLLERR:
        channel.error = pending_error(channel)
        if not is_connected or not has_unread(channel):
            return -1
        channel.gone = channel.hung_up = True
        unwatch(channel)
    elif events & EPOLLHUP:  # bytes may be before it, which are read when they are wanted
        channel.hung_up = True
        unwatch(channel)
    elif watch_loss(downstream) < 0:
        channel.error = downstream.connection.fault.error
        return -1
    return 0


cdef inline bint is_connected(Connection *connection) noexcept nogil:
    """Whether the upstream socket is connected; a stream, whether its CONNECT was sent."""
    if connection.sides[1].stream != NULL:
        return connection.sides[1].stream.h2 != NULL
    if connection.waits_for == W_LOOP:
        return connection.sides[1].channel.fd >= 0
    return connection.state == S_HANDSHAKING_UPSTREAM
