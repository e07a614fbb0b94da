"""A channel's TLS: records in and out, alerts, memory; and what is the same with and without TLS
(write, flush, finish, close).  Nothing here waits.

OpenSSL reads from the thread's receive buffer (`begin_feed` … `end_feed`), and writes to a memory
BIO (`output`), from which records are sent.  A function that can fail returns -1, and has
recorded the reason with `fail`.
"""

from libc.errno cimport ENOTCONN, errno
from libc.stdlib cimport free
from posix.unistd cimport close

from uproxy.transport.native.system cimport (
    SHRINK_AFTER_S, SHUT_WR, SOL_SOCKET, SO_LINGER, linger, setsockopt, shutdown,
)
from uproxy.transport.native.openssl cimport (
    SSL_ERROR_SYSCALL, SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN, SSL_RECEIVED_SHUTDOWN,
    BIO_get_mem_data, BIO_new, BIO_new_mem_buf, BIO_read, BIO_s_mem, BIO_set_mem_eof_return,
    ERR_clear_error, ERR_get_error, ERR_peek_error, SSL_do_handshake, SSL_free, SSL_get_error,
    SSL_get_peer_certificate, SSL_get_shutdown, SSL_read, SSL_set_bio, SSL_shutdown, SSL_write,
    X509_free, X509_set_issuer_name, X509_set_pubkey, X509_set_subject_name, ossl_empty_name,
    ossl_small_key,
)
from uproxy.transport.native.codes cimport (
    F_MEMORY, F_NONE, F_OS, F_TLS, MAX_IDLE_OUTPUT, PLAINTEXT_SIZE, RECEIVE_SIZE,
)
from uproxy.transport.native.types cimport Channel, Worker
from uproxy.transport.native.channel cimport (
    drop_backlog, fail, receive_raw, reset_error, send_backlog, send_now, send_or_keep, unwatch,
)


# Records out.


cdef inline int send_output(Channel *channel) noexcept nogil:
    """Send what the socket takes of the records made."""
    return send_records(channel, False)


cdef inline int send_records(Channel *channel, bint corked) noexcept nogil:
    """Send what the socket takes of the records made, held back by the kernel if `corked`."""
    cdef char *data = NULL
    cdef long size = BIO_get_mem_data(channel.output, &data)
    cdef ssize_t sent
    if size <= 0:
        channel.unsent = 0
        return 0
    if size > MAX_IDLE_OUTPUT:
        note_large_output(channel)
    sent = send_now(channel, data, size, corked)
    if sent < 0:
        fail(channel, F_OS, errno, 0)
        drop_records(channel, data, size)
        channel.unsent = 0
        return -1
    drop_records(channel, data, sent)
    channel.unsent = size - sent
    return 0


cdef inline void drop_records(Channel *channel, char *data, ssize_t size) noexcept nogil:
    """Remove so many bytes from the front of the output, which is at `data`."""
    BIO_read(channel.output, data, <int>size)  # to where they are: there is no call that only drops


cdef inline void drop_output(Channel *channel) noexcept nogil:
    """Forget all records that aren't sent."""
    cdef char *data = NULL
    cdef long size = BIO_get_mem_data(channel.output, &data)
    drop_records(channel, data, size)
    channel.unsent = 0


# A memory BIO never shrinks.  One that has grown is replaced when its channel was quiet for
# SHRINK_AFTER_S, so that a busy one needn't grow again and an idle one doesn't keep its peak.


cdef inline void note_large_output(Channel *channel) noexcept nogil:
    """Put the channel in the worker's list of large outputs."""
    cdef Worker *worker = channel.worker
    if channel.running_on != worker:
        return  # not this thread's list; `trim` comes later
    channel.output_used = True
    if channel.has_large_output:
        return
    channel.has_large_output = True
    channel.next_large_output = worker.large_outputs
    if worker.large_outputs == NULL:
        worker.shrink_at = worker.now + SHRINK_AFTER_S
    worker.large_outputs = channel


cdef inline void forget_large_output(Channel *channel) noexcept nogil:
    """Take the channel out of the worker's list of large outputs."""
    cdef Channel **at = &channel.worker.large_outputs
    if not channel.has_large_output:
        return
    while at[0] != channel:
        at = &at[0].next_large_output
    at[0] = channel.next_large_output
    channel.has_large_output = False


cdef inline void shrink_outputs(Worker *worker) noexcept nogil:
    """Replace the large outputs that weren't used since the last call."""
    cdef Channel **at = &worker.large_outputs
    cdef Channel *channel
    while at[0] != NULL:
        channel = at[0]
        if channel.output_used or channel.unsent:
            channel.output_used = False
            at = &channel.next_large_output
            continue
        at[0] = channel.next_large_output
        channel.has_large_output = False
        replace_output(channel)
    worker.shrink_at = worker.now + SHRINK_AFTER_S


cdef inline void replace_output(Channel *channel) noexcept nogil:
    """Give the session a new output; the old one must be empty."""
    cdef void *smaller = BIO_new(BIO_s_mem())
    if smaller != NULL:
        channel.output = smaller
        SSL_set_bio(channel.ssl, NULL, smaller)


cdef inline void trim(Channel *channel) noexcept nogil:
    """Free what only the handshake needed: public key and names of the peer's certificate, an
    eighth of a connection's memory, and the output buffer that has grown.  It takes as long as a
    tenth of a handshake, so short connections aren't trimmed."""
    cdef void *certificate
    if channel.ssl == NULL:
        return
    certificate = SSL_get_peer_certificate(channel.ssl)
    if certificate != NULL:
        X509_set_pubkey(certificate, ossl_small_key)
        X509_set_subject_name(certificate, ossl_empty_name)
        X509_set_issuer_name(certificate, ossl_empty_name)
        X509_free(certificate)
    if not channel.has_large_output and not channel.unsent:
        replace_output(channel)


cdef inline void free_tls(Channel *channel) noexcept nogil:
    """Free the session, and its output."""
    forget_large_output(channel)
    if channel.ssl != NULL:
        SSL_free(channel.ssl)
        channel.ssl = channel.output = NULL


# Records in.


cdef inline int begin_feed(Channel *channel, char *data, size_t size) noexcept nogil:
    """Let OpenSSL read `data` in place.  All of it must be consumed before `end_feed`."""
    cdef void *incoming
    ERR_clear_error()
    incoming = BIO_new_mem_buf(data, <int>size)
    if incoming == NULL:
        return fail(channel, F_MEMORY, 0, 0)
    BIO_set_mem_eof_return(incoming, -1)  # its end is "not yet", not the end of the stream
    SSL_set_bio(channel.ssl, incoming, channel.output)
    return 0


cdef inline char *plaintext_of(Channel *channel) noexcept nogil:
    """Return where bytes are decrypted to, PLAINTEXT_SIZE at most."""
    if channel.plaintext != NULL:
        return channel.plaintext
    return channel.running_on.plaintext


cdef inline void end_feed(Channel *channel) noexcept nogil:
    """Take the bytes of `begin_feed` away from OpenSSL, whose buffer is used again."""
    SSL_set_bio(channel.ssl, NULL, channel.output)


cdef inline int fail_tls(Channel *channel) noexcept nogil:
    """Record OpenSSL's oldest error, and send its alert.  Returns -1."""
    fail(channel, F_TLS, 0, ERR_get_error())
    send_output(channel)
    return -1


cdef inline int fail_read(Channel *channel) noexcept nogil:
    """Record `channel.failed`, for which nothing more is decrypted, and send OpenSSL's alert.
    Returns -1."""
    end_feed(channel)
    fail(channel, channel.failed, 0, channel.code)
    send_output(channel)
    return -1


cdef inline bint ended_after_a_warning(Channel *channel, int why) noexcept nogil:
    """Whether the peer sent close_notify behind another warning, as Java does (user_canceled,
    RFC 8446 §6.1): OpenSSL returns a failure without an error for it."""
    return (why == SSL_ERROR_SYSCALL and ERR_peek_error() == 0
            and (SSL_get_shutdown(channel.ssl) & SSL_RECEIVED_SHUTDOWN) != 0)


cdef inline ssize_t decrypt(Channel *channel) noexcept nogil:
    """Decrypt the bytes of `begin_feed` to `plaintext_of` the channel.  Returns the number of
    application bytes, 0 if there were none (`channel.ended`: the peer's end has come), -1 if there
    were none and TLS has failed; a failure behind good bytes is left in `channel.failed`.  Nothing
    is recorded, and no alert sent: `fail_read` does both."""
    cdef char *plaintext = plaintext_of(channel)
    cdef ssize_t size = 0
    cdef int got, why
    while not channel.ended and size < PLAINTEXT_SIZE:
        got = SSL_read(channel.ssl, plaintext + size, <int>(PLAINTEXT_SIZE - size))
        if got > 0:
            size += got
            continue
        why = SSL_get_error(channel.ssl, got)
        if why == SSL_ERROR_ZERO_RETURN or ended_after_a_warning(channel, why):
            channel.ended = True
        elif why == SSL_ERROR_WANT_READ:
            # 1 unless a handshake message (KeyUpdate) is incomplete; SSL_write would read the
            # rest of it first, and fail for good where there is nothing to read from
            channel.midway = SSL_do_handshake(channel.ssl) != 1
            break
        else:
            channel.failed, channel.code = F_TLS, ERR_get_error()
            channel.midway = False
            return size if size else -1
    return size


# With and without TLS.


cdef inline int write_channel(Channel *channel, const char *data, size_t size) noexcept nogil:
    """Send application bytes, as records where there is TLS; what the socket doesn't take is
    unsent.  Records of a corked channel wait for `send_output`."""
    if channel.ssl == NULL:
        return send_or_keep(channel, data, size)
    ERR_clear_error()
    if SSL_write(channel.ssl, data, <int>size) != <int>size:
        return fail_tls(channel)
    return 0 if channel.corked else send_output(channel)


cdef inline int flush(Channel *channel) noexcept nogil:
    """Send more of what is unsent; a FIN behind it, if `finish_channel` was called."""
    if (send_backlog(channel) if channel.ssl == NULL else send_output(channel)) < 0:
        return -1
    return shut_down_if_sent(channel)


cdef inline int finish_channel(Channel *channel) noexcept nogil:
    """Send our end behind what is unsent: close_notify where there is TLS, then FIN."""
    if channel.ssl != NULL:
        ERR_clear_error()
        if SSL_shutdown(channel.ssl) < 0:
            return fail_tls(channel)
        if send_records(channel, True) < 0:
            return -1
    channel.ending = True
    return shut_down_if_sent(channel)


cdef inline int shut_down_if_sent(Channel *channel) noexcept nogil:
    """Send a FIN if `finish_channel` was called and nothing is unsent."""
    cdef int error
    if not channel.ending or channel.unsent:
        return 0
    if shutdown(channel.fd, SHUT_WR) != 0:
        # a peer that sent its end and closed at once, as Go does, answers a close_notify with a
        # reset: nothing is lost by it, and whether its end came is still to be read
        if channel.ssl == NULL or errno != ENOTCONN:
            return fail(channel, F_OS, errno, 0)
    # the held-back bytes leave with the FIN: no later send would return the error that they meet
    error = reset_error(channel) if channel.corked else 0
    return fail(channel, F_OS, error, 0) if error else 0


cdef inline void close_channel(Channel *channel, bint orderly) noexcept nogil:
    """Close the socket, with a reset unless `orderly`.  The channel can then have another one."""
    cdef linger now
    free_tls(channel)
    drop_backlog(channel)
    free(channel.early)
    channel.early = NULL
    channel.early_size = 0
    if channel.fd >= 0:
        unwatch(channel)  # closing alone would do, but not while a forked child has a copy
        if orderly and not channel.finished:
            receive_raw(channel, RECEIVE_SIZE)  # the kernel answers unread bytes with a reset
        elif not orderly:
            now.l_onoff, now.l_linger = 1, 0
            setsockopt(channel.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
        close(channel.fd)
    channel.fd = -1
    channel.hung_up = channel.ending = channel.corked = channel.ended = channel.finished = False
    channel.gone = channel.midway = False
    channel.failed = F_NONE
