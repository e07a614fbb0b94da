"""One side of a connection: its socket, and its TLS if it has one.  Nothing here waits.

Functions that can fail return -1 and leave the reason in the connection (`fail`).
"""

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, ENOTCONN, EPIPE, ETIMEDOUT, errno
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from posix.unistd cimport close

from uproxy.transport.native.limits cimport mark_silent
from uproxy.transport.native.openssl cimport (
    SSL_ERROR_SYSCALL, SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN, SSL_RECEIVED_SHUTDOWN,
    BIO_get_mem_data, BIO_new, BIO_new_mem_buf, BIO_read, BIO_s_mem,
    BIO_set_mem_eof_return, ERR_clear_error, ERR_get_error, ERR_peek_error, SSL_do_handshake,
    SSL_free, SSL_get_error, SSL_get_shutdown,
    SSL_get_peer_certificate, SSL_read, SSL_set_bio, SSL_shutdown, SSL_write, X509_free,
    X509_set_pubkey, ossl_small_key,
)
from uproxy.transport.native.types cimport (
    F_MEMORY, F_NONE, F_OS, F_TLS, MAX_IDLE_OUTPUT, M_RELAYING, PLAINTEXT_SIZE, RECEIVE_SIZE, RECORD_SIZE, Connection, Side,
    Worker,
)
from uproxy.transport.native.system cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, MSG_MORE, MSG_NOSIGNAL, SHUT_WR, SHRINK_AFTER_S,
    SO_ERROR, SO_LINGER, SOL_SOCKET, epoll_ctl, epoll_event, getsockopt, linger, recv, send,
    setsockopt, shutdown,
)


cdef inline int fail(Side *side, int failure, int error, unsigned long code) noexcept nogil:
    """Remember why; the first reason stands.  -1, to be returned."""
    cdef Connection *connection = side.connection
    if connection.fault.what == F_NONE:
        connection.fault.what = failure
        connection.fault.side = side.index
        connection.fault.error = error
        connection.fault.code = code
    return -1


# Events.


cdef inline int watch(Side *side, int mask) noexcept nogil:
    """Report these events; errors and hang-ups always, a hang-up once."""
    cdef epoll_event event
    cdef int what
    if mask == 0 and side.hung_up:
        unwatch(side)
        return 0
    if mask == side.mask or side.fd < 0:
        return 0
    event.events = mask
    event.data.ptr = side
    what = EPOLL_CTL_MOD if side.mask >= 0 else EPOLL_CTL_ADD
    if epoll_ctl(side.connection.worker.epoll, what, side.fd, &event) != 0:
        return fail(side, F_OS, errno, 0)
    side.mask = mask
    return 0


cdef inline void unwatch(Side *side) noexcept nogil:
    """Report nothing, not even errors, until watched again."""
    if side.mask >= 0:
        epoll_ctl(side.connection.worker.epoll, EPOLL_CTL_DEL, side.fd, NULL)
        side.mask = -1


# Bytes in.


cdef inline ssize_t receive_raw(Side *side, size_t size) noexcept nogil:
    """Into the thread's buffer: bytes, 0 at the end, -2 not now, -1 failed (errno)."""
    cdef ssize_t got
    while True:
        got = recv(side.fd, side.connection.running_on.received, size, 0)
        if got >= 0:
            side.finished = got == 0
            return got
        if errno == EAGAIN:
            return -2
        if errno != EINTR:
            return -1


cdef inline int keep_early(Side *side, const char *data, size_t size) noexcept nogil:
    cdef char *bigger = <char *>realloc(side.early, side.early_size + size)
    if bigger == NULL:
        return fail(side, F_MEMORY, 0, 0)
    memcpy(bigger + side.early_size, data, size)
    side.early = bigger
    side.early_size += size
    return 0


# Bytes out: what the socket doesn't take stays behind, in the clear in a buffer of its own,
# under TLS in the session's output.


cdef inline ssize_t send_now(Side *side, const char *data, size_t size,
                             bint corked) noexcept nogil:
    """What the socket takes; -1 failed (errno).  Corked, it waits for our end."""
    cdef int flags = MSG_NOSIGNAL | MSG_MORE if corked else MSG_NOSIGNAL
    cdef ssize_t sent
    while True:
        sent = send(side.fd, data, size, flags)
        if sent >= 0:
            return sent
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            return -1


cdef inline int keep_unsent(Side *side, const char *data, size_t size) noexcept nogil:
    """Behind the backlog."""
    cdef char *bigger
    if side.backlog_at:
        bigger = <char *>malloc(side.unsent + size)
        if bigger != NULL:
            memcpy(bigger, side.backlog + side.backlog_at, side.unsent)
            free(side.backlog)
            side.backlog_at = 0
    else:
        bigger = <char *>realloc(side.backlog, side.unsent + size)
    if bigger == NULL:
        return fail(side, F_MEMORY, 0, 0)
    memcpy(bigger + side.unsent, data, size)
    side.backlog = bigger
    side.unsent += size
    return 0


cdef inline void drop_backlog(Side *side) noexcept nogil:
    free(side.backlog)
    side.backlog = NULL
    side.backlog_at = side.unsent = 0


cdef inline int send_or_keep(Side *side, const char *data, size_t size) noexcept nogil:
    """In the clear: send now what the socket takes, keep the rest."""
    cdef ssize_t sent = 0
    if side.unsent == 0:
        sent = send_now(side, data, size, side.corked)
        if sent < 0:
            return fail(side, F_OS, errno, 0)
    if <size_t>sent < size:
        return keep_unsent(side, data + sent, size - sent)
    return 0


cdef inline int send_output(Side *side) noexcept nogil:
    """Under TLS: send of the records made what the socket takes."""
    return send_records(side, False)


cdef inline int send_records(Side *side, bint corked) noexcept nogil:
    cdef char *data = NULL
    cdef long size = BIO_get_mem_data(side.output, &data)
    cdef ssize_t sent
    if size <= 0:
        side.unsent = 0
        return 0
    if size > MAX_IDLE_OUTPUT:
        note_large_output(side)
    sent = send_now(side, data, size, corked)
    if sent < 0:
        fail(side, F_OS, errno, 0)
        drop_records(side, size)
        side.unsent = 0
        return -1
    drop_records(side, sent)
    side.unsent = size - sent
    return 0


cdef inline void drop_records(Side *side, ssize_t size) noexcept nogil:
    """Take so much out of the output."""
    cdef char scratch[RECORD_SIZE]
    cdef int more
    while size > 0:
        more = BIO_read(side.output, scratch, <int>min(size, <ssize_t>RECORD_SIZE))
        if more <= 0:
            return
        size -= more


cdef inline int flush(Side *side) noexcept nogil:
    """Send more of the backlog."""
    cdef ssize_t sent
    if side.ssl != NULL:
        if send_output(side) < 0:
            return -1
        return shut_down_if_sent(side)
    sent = send_now(side, side.backlog + side.backlog_at, side.unsent, False)
    if sent < 0:
        return fail(side, F_OS, errno, 0)
    side.backlog_at += sent
    side.unsent -= sent
    if side.unsent == 0:
        drop_backlog(side)
    return shut_down_if_sent(side)


cdef inline int shut_down_if_sent(Side *side) noexcept nogil:
    cdef int error
    if not side.ending or side.unsent:
        return 0
    if shutdown(side.fd, SHUT_WR) != 0:
        # who said his end and closed at once, as Go does, answers a close_notify with a
        # reset: nothing is lost by it, and whether he did say it is still to be read
        if side.ssl == NULL or errno != ENOTCONN:
            return fail(side, F_OS, errno, 0)
    error = reset_error(side.fd) if side.corked else 0
    return fail(side, F_OS, error, 0) if error else 0


cdef inline int reset_error(int fd) noexcept nogil:
    """The errno with which what was sent has been refused by now; 0: it hasn't."""
    cdef int error = 0
    cdef unsigned int size = sizeof(error)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return errno
    # others may come from an ICMP message that TCP survives
    return error if error == ECONNRESET or error == EPIPE or error == ETIMEDOUT else 0


# An output buffer never shrinks (a memory BIO): one that has grown is replaced when its side
# has been quiet, so that a busy one needn't grow anew and an idle one doesn't keep its peak.


cdef inline void note_large_output(Side *side) noexcept nogil:
    cdef Worker *worker = side.connection.worker
    if side.connection.is_offloaded:
        return  # not this thread's list; it is shed when it has settled
    side.output_used = True
    if side.large_outputs:
        return
    side.large_outputs = True
    side.next_large_output = worker.large_outputs
    if worker.large_outputs == NULL:
        worker.shrink_at = worker.now + SHRINK_AFTER_S
    worker.large_outputs = side


cdef inline void forget_large_output(Side *side) noexcept nogil:
    cdef Side **at = &side.connection.worker.large_outputs
    if not side.large_outputs:
        return
    while at[0] != side:
        at = &at[0].next_large_output
    at[0] = side.next_large_output
    side.large_outputs = False


cdef inline void shrink_outputs(Worker *worker) noexcept nogil:
    """Shrink the outputs of those who were quiet since the last time."""
    cdef Side **at = &worker.large_outputs
    cdef Side *side
    while at[0] != NULL:
        side = at[0]
        if side.output_used or side.unsent:
            side.output_used = False
            at = &side.next_large_output
            continue
        at[0] = side.next_large_output
        side.large_outputs = False
        shrink_output(side)
    worker.shrink_at = worker.now + SHRINK_AFTER_S


cdef inline void shrink_output(Side *side) noexcept nogil:
    cdef void *smaller = BIO_new(BIO_s_mem())
    if smaller != NULL:
        side.output = smaller
        SSL_set_bio(side.ssl, NULL, smaller)


cdef inline void trim(Side *side) noexcept nogil:
    """Let go of what only the handshake needed: the peer's public key is a tenth of a
    connection's memory.  Costs as much time as a tenth of a handshake, so not for short ones."""
    cdef void *certificate
    if side.ssl == NULL:
        return
    certificate = SSL_get_peer_certificate(side.ssl)
    if certificate != NULL:
        X509_set_pubkey(certificate, ossl_small_key)
        X509_free(certificate)
    if not side.large_outputs and not side.unsent:
        shrink_output(side)


# TLS records.


cdef inline int begin_feed(Side *side, char *data, size_t size) noexcept nogil:
    """Let OpenSSL read `data`, in place, until `fed`: all of it is consumed in between."""
    cdef void *incoming
    ERR_clear_error()
    incoming = BIO_new_mem_buf(data, <int>size)
    if incoming == NULL:
        return fail(side, F_MEMORY, 0, 0)
    BIO_set_mem_eof_return(incoming, -1)  # its end is "not yet", not the stream's end
    SSL_set_bio(side.ssl, incoming, side.output)
    return 0


cdef inline void end_feed(Side *side) noexcept nogil:
    SSL_set_bio(side.ssl, NULL, side.output)


cdef inline void drop_output(Side *side) noexcept nogil:
    """Forget the records made that aren't sent."""
    cdef char *data = NULL
    drop_records(side, BIO_get_mem_data(side.output, &data))
    side.unsent = 0


cdef inline void send_clear_alert(Side *side, uint8_t description) noexcept nogil:
    """Send a fatal alert in the clear, where nothing is sealed yet, if the socket takes it."""
    cdef uint8_t alert[7]
    alert[0], alert[1], alert[2], alert[3], alert[4] = 21, 3, 3, 0, 2  # RFC 8446 §5.1
    alert[5], alert[6] = 2, description
    send_now(side, <char *>alert, sizeof(alert), False)


cdef inline int send_alert(Side *side) noexcept nogil:
    """Send an alert.  A caller refused in its handshake makes room when connections are full,
    from before it can know."""
    if side.index == 0 and side.connection.mode != M_RELAYING:
        mark_silent(side.connection)
    send_output(side)
    return -1


cdef inline int fail_tls(Side *side) noexcept nogil:
    """OpenSSL's oldest error, and its alert on the way."""
    fail(side, F_TLS, 0, ERR_get_error())
    return send_alert(side)


cdef inline bint ended_after_a_warning(Side *side, int why) noexcept nogil:
    """A close_notify behind another warning, as Java says it (user_canceled, RFC 8446 §6.1):
    OpenSSL calls that a failure without an error."""
    return (why == SSL_ERROR_SYSCALL and ERR_peek_error() == 0
            and (SSL_get_shutdown(side.ssl) & SSL_RECEIVED_SHUTDOWN) != 0)


cdef inline ssize_t decrypt(Side *side) noexcept nogil:
    """Decrypt all there is into the thread's plaintext buffer: bytes, or -1 if there are none and
    TLS has failed.  A failure behind good bytes is kept in `side.failed`."""
    cdef ssize_t size = 0
    cdef int got, why
    while not side.ended and size < PLAINTEXT_SIZE:
        got = SSL_read(side.ssl, side.connection.running_on.plain + size, <int>(PLAINTEXT_SIZE - size))
        if got > 0:
            size += got
            continue
        why = SSL_get_error(side.ssl, got)
        if why == SSL_ERROR_ZERO_RETURN or ended_after_a_warning(side, why):
            side.ended = True
        elif why == SSL_ERROR_WANT_READ:
            # 1 unless a message of TLS itself is incomplete; SSL_write would read the rest of
            # it first, and fail for good where there is nothing to read from
            side.midway = SSL_do_handshake(side.ssl) != 1
            break
        else:
            side.failed, side.code = F_TLS, ERR_get_error()
            side.midway = False
            return size if size else fail_read(side)
    return size


cdef inline int fail_read(Side *side) noexcept nogil:
    """What comes next from this side can't be read: -1.  The alert is sent."""
    end_feed(side)
    fail(side, side.failed, 0, side.code)
    return send_alert(side)


cdef inline int write_side(Side *side, const char *data, size_t size) noexcept nogil:
    """Application bytes, as records where there is TLS."""
    if side.ssl == NULL:
        return send_or_keep(side, data, size)
    ERR_clear_error()
    if SSL_write(side.ssl, data, <int>size) != <int>size:
        return fail_tls(side)
    return 0 if side.corked else send_output(side)


cdef inline int finish(Side *side) noexcept nogil:
    """We send no more: close_notify if there is TLS, then FIN behind the backlog."""
    if side.ssl != NULL:
        ERR_clear_error()
        if SSL_shutdown(side.ssl) < 0:
            return fail_tls(side)
        if send_records(side, True) < 0:
            return -1
    side.ending = True
    return shut_down_if_sent(side)


# The end.


cdef inline void free_tls(Side *side) noexcept nogil:
    forget_large_output(side)
    if side.ssl != NULL:
        SSL_free(side.ssl)  # its output BIO too
        side.ssl = side.output = NULL


cdef inline void close_side(Side *side, bint orderly) noexcept nogil:
    """Close; a reset unless orderly.  The side can be used for another socket then."""
    cdef linger now
    free_tls(side)
    drop_backlog(side)
    free(side.early)
    side.early = NULL
    side.early_size = 0
    if side.fd >= 0:
        unwatch(side)  # closing alone would do, but not while a forked child has a copy
        if orderly and not side.finished:
            receive_raw(side, RECEIVE_SIZE)  # the kernel would answer unread bytes with a reset
        elif not orderly:
            now.l_onoff, now.l_linger = 1, 0
            setsockopt(side.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
        close(side.fd)
    side.fd = -1
    side.hung_up = side.ending = side.corked = side.ended = side.finished = False
    side.gone = side.midway = False
    side.failed = F_NONE
