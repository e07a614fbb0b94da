"""A channel's socket: epoll interest, bytes in, bytes out in the clear.  Nothing here waits.

A function that can fail returns -1, and has recorded the reason with `fail`.
"""

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, EPIPE, ETIMEDOUT, errno
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from uproxy.transport.native.system cimport (
    AF_UNIX, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, MSG_MORE, MSG_NOSIGNAL, MSG_PEEK,
    SIOCOUTQ, SOL_SOCKET, SO_DOMAIN, SO_ERROR, epoll_ctl, epoll_event, getsockopt, ioctl, recv,
    send,
)
from uproxy.transport.native.codes cimport F_MEMORY, F_NONE, F_OS
from uproxy.transport.native.types cimport Channel, Fault


cdef inline int record_fault(Fault *fault, int what, int side, int error,
                             unsigned long code) noexcept nogil:
    """Record why something failed, unless a reason is there already.  Returns -1."""
    if fault.what == F_NONE:
        fault.what, fault.side, fault.error, fault.code = what, side, error, code
    return -1


cdef inline int fail(Channel *channel, int what, int error, unsigned long code) noexcept nogil:
    """Record the first failure of a channel's owner: a Failure, an errno, OpenSSL's error.
    Returns -1."""
    cdef int side = 0 if channel.side == NULL else channel.side.index
    return record_fault(channel.fault, what, side, error, code)


# Epoll interest.


cdef inline int watch(Channel *channel, int mask) noexcept nogil:
    """Have epoll report these events; errors and hang-ups always, but a hang-up once only."""
    cdef epoll_event event
    cdef int operation
    if mask == 0 and channel.hung_up:
        unwatch(channel)
        return 0
    if mask == channel.mask or channel.fd < 0:
        return 0
    event.events = mask
    event.data.ptr = channel
    operation = EPOLL_CTL_MOD if channel.mask >= 0 else EPOLL_CTL_ADD
    if epoll_ctl(channel.worker.epoll, operation, channel.fd, &event) != 0:
        return fail(channel, F_OS, errno, 0)
    channel.mask = mask
    return 0


cdef inline void unwatch(Channel *channel) noexcept nogil:
    """Have epoll report nothing, not even errors, until `watch` is called."""
    if channel.mask >= 0:
        epoll_ctl(channel.worker.epoll, EPOLL_CTL_DEL, channel.fd, NULL)
        channel.mask = -1


# Bytes in.


cdef inline ssize_t receive_raw(Channel *channel, size_t size) noexcept nogil:
    """Receive into the thread's buffer.  Returns the number of bytes, 0 at the end, -2 if nothing
    is there now, -1 if the socket failed (errno; not recorded)."""
    return receive_with(channel, size, 0)


cdef inline ssize_t peek_byte(Channel *channel) noexcept nogil:
    """Receive one byte, which stays in the socket, and return what `receive_raw` does."""
    return receive_with(channel, 1, MSG_PEEK)


cdef inline ssize_t receive_with(Channel *channel, size_t size, int flags) noexcept nogil:
    """Receive with flags of recv(2), and return what `receive_raw` does."""
    cdef ssize_t got
    while True:
        got = recv(channel.fd, channel.running_on.received, size, flags)
        if got >= 0:
            channel.finished = got == 0
            return got
        if errno == EAGAIN:
            return -2
        if errno != EINTR:
            return -1


cdef inline int keep_early(Channel *channel, const char *data, size_t size) noexcept nogil:
    """Append bytes to `early`, for later."""
    cdef char *bigger = <char *>realloc(channel.early, channel.early_size + size)
    if bigger == NULL:
        return fail(channel, F_MEMORY, 0, 0)
    memcpy(bigger + channel.early_size, data, size)
    channel.early = bigger
    channel.early_size += size
    return 0


cdef inline char *take_early(Channel *channel, size_t *size) noexcept nogil:
    """Give `early` to the caller, who frees it; NULL if there is none."""
    cdef char *data = channel.early
    size[0] = channel.early_size
    channel.early = NULL
    channel.early_size = 0
    return data


cdef inline bint has_unread(Channel *channel) noexcept nogil:
    """Whether bytes of the peer wait, here or in the kernel."""
    cdef char byte
    return channel.early_size > 0 or recv(channel.fd, &byte, 1, MSG_PEEK) > 0


# Bytes out: what the socket doesn't take is kept, without TLS in `backlog`, with TLS in `output`.


cdef inline ssize_t send_now(Channel *channel, const char *data, size_t size,
                             bint corked) noexcept nogil:
    """Send what the socket takes, held back by the kernel if `corked`.  Returns the number of
    bytes, or -1 if the socket failed (errno; not recorded)."""
    cdef int flags = MSG_NOSIGNAL | MSG_MORE if corked else MSG_NOSIGNAL
    cdef ssize_t sent
    while True:
        sent = send(channel.fd, data, size, flags)
        if sent >= 0:
            return sent
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            return -1


cdef inline int keep_unsent(Channel *channel, const char *data, size_t size) noexcept nogil:
    """Append bytes to the backlog."""
    cdef char *bigger
    if channel.backlog_at:
        bigger = <char *>malloc(channel.unsent + size)
        if bigger != NULL:
            memcpy(bigger, channel.backlog + channel.backlog_at, channel.unsent)
            free(channel.backlog)
            channel.backlog_at = 0
    else:
        bigger = <char *>realloc(channel.backlog, channel.unsent + size)
    if bigger == NULL:
        return fail(channel, F_MEMORY, 0, 0)
    memcpy(bigger + channel.unsent, data, size)
    channel.backlog = bigger
    channel.unsent += size
    return 0


cdef inline void drop_backlog(Channel *channel) noexcept nogil:
    """Forget what is unsent without TLS."""
    free(channel.backlog)
    channel.backlog = NULL
    channel.backlog_at = channel.unsent = 0


cdef inline int send_or_keep(Channel *channel, const char *data, size_t size) noexcept nogil:
    """Send bytes in the clear, and keep what the socket doesn't take."""
    cdef ssize_t sent = 0
    if channel.unsent == 0:
        sent = send_now(channel, data, size, channel.corked)
        if sent < 0:
            return fail(channel, F_OS, errno, 0)
    if <size_t>sent < size:
        return keep_unsent(channel, data + sent, size - sent)
    return 0


cdef inline int send_backlog(Channel *channel) noexcept nogil:
    """Send more of the backlog."""
    cdef ssize_t sent = send_now(
        channel, channel.backlog + channel.backlog_at, channel.unsent, False)
    if sent < 0:
        return fail(channel, F_OS, errno, 0)
    channel.backlog_at += sent
    channel.unsent -= sent
    if channel.unsent == 0:
        drop_backlog(channel)
    return 0


cdef inline void send_clear_alert(Channel *channel, uint8_t description) noexcept nogil:
    """Send a fatal TLS alert in the clear, if the socket takes it: nothing is encrypted yet."""
    cdef uint8_t alert[7]
    alert[0], alert[1], alert[2], alert[3], alert[4] = 21, 3, 3, 0, 2  # RFC 8446 §5.1
    alert[5], alert[6] = 2, description
    send_now(channel, <char *>alert, sizeof(alert), False)


# What the kernel knows of the socket.


cdef inline int pending_error(Channel *channel) noexcept nogil:
    """Take the errno that the kernel keeps for the socket; ECONNRESET if it keeps none."""
    cdef int error = 0
    cdef unsigned int size = sizeof(error)
    if getsockopt(channel.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return errno
    return error if error else ECONNRESET


cdef inline int reset_error(Channel *channel) noexcept nogil:
    """Take the errno that the kernel keeps for the socket, and return it if the connection is lost:
    ECONNRESET, EPIPE or ETIMEDOUT.  Otherwise 0."""
    cdef int error = 0
    cdef unsigned int size = sizeof(error)
    if getsockopt(channel.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return errno
    # others may come from an ICMP message that TCP survives
    return error if error == ECONNRESET or error == EPIPE or error == ETIMEDOUT else 0


cdef inline int in_kernel(Channel *channel) noexcept nogil:
    """Return the bytes in the kernel's send queue, which the peer's kernel hasn't acknowledged: a
    reset drops them.  0 on a unix socket, whose bytes are in the reader's queue."""
    cdef int domain = 0, queued = 0
    cdef unsigned int size = sizeof(domain)
    if channel.fd < 0 or channel.gone:
        return 0
    if getsockopt(channel.fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 or domain == AF_UNIX:
        return 0
    return queued if ioctl(channel.fd, SIOCOUTQ, &queued) == 0 else 0
