# One side of a connection: its socket, and its TLS if it has one.  Nothing here waits.
# Functions that can fail return -1 and leave the reason in the connection (`fail`).


cdef int fail(Side *side, int failure, int error=0, unsigned long code=0) noexcept nogil:
    """Remember why; the first reason stands.  -1, to be returned."""
    cdef Conn *conn = side.conn
    if conn.failure == F_NONE:
        conn.failure = failure
        conn.failed_side = side.index
        conn.failed_errno = error
        conn.failed_code = code
    return -1


cdef int watch(Side *side, int mask) noexcept nogil:
    """Report these events; errors and hang-ups always, a hang-up once."""
    cdef epoll_event event
    cdef int what
    if mask == 0 and side.hung_up:
        mute(side)
        return 0
    if mask == side.mask or side.fd < 0:
        return 0
    event.events = mask
    event.data.ptr = side
    what = EPOLL_CTL_MOD if side.mask >= 0 else EPOLL_CTL_ADD
    if epoll_ctl(side.conn.worker.epoll, what, side.fd, &event) != 0:
        return fail(side, F_OS, errno)
    side.mask = mask
    return 0


cdef void mute(Side *side) noexcept nogil:
    """Report nothing, not even errors, until watched again."""
    if side.mask >= 0:
        epoll_ctl(side.conn.worker.epoll, EPOLL_CTL_DEL, side.fd, NULL)
        side.mask = -1


cdef ssize_t receive_raw(Side *side, size_t size) noexcept nogil:
    """Into the worker's buffer: bytes, 0 at the end, -2 not now, -1 failed (errno)."""
    cdef ssize_t got
    while True:
        got = recv(side.fd, side.conn.worker.received, size, 0)
        if got >= 0:
            return got
        if errno == EAGAIN:
            return -2
        if errno != EINTR:
            return -1


cdef int keep(Side *side, const char *data, size_t size) noexcept nogil:
    """Behind the backlog."""
    cdef char *bigger
    if side.backlog_at:
        bigger = <char *>malloc(side.backlog_size + size)
        if bigger != NULL:
            memcpy(bigger, side.backlog + side.backlog_at, side.backlog_size)
            free(side.backlog)
            side.backlog_at = 0
    else:
        bigger = <char *>realloc(side.backlog, side.backlog_size + size)
    if bigger == NULL:
        return fail(side, F_MEMORY)
    memcpy(bigger + side.backlog_size, data, size)
    side.backlog = bigger
    side.backlog_size += size
    return 0


cdef ssize_t send_now(Side *side, const char *data, size_t size) noexcept nogil:
    """What the socket takes; -1 failed (errno)."""
    cdef ssize_t sent
    while True:
        sent = send(side.fd, data, size, MSG_NOSIGNAL)
        if sent >= 0:
            return sent
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            return -1


cdef int push(Side *side, const char *data, size_t size) noexcept nogil:
    """Send now what the socket takes, keep the rest."""
    cdef ssize_t sent = 0
    if side.backlog_size == 0:
        sent = send_now(side, data, size)
        if sent < 0:
            return fail(side, F_OS, errno)
    if <size_t>sent < size:
        return keep(side, data + sent, size - sent)
    return 0


cdef int end_if_sent(Side *side) noexcept nogil:
    if side.ending and side.backlog_size == 0 and shutdown(side.fd, SHUT_WR) != 0:
        # who said his end and closed at once, as Go does, answers a close_notify with a
        # reset: nothing is lost by it, and whether he did say it is still to be read
        if side.ssl == NULL or errno != ENOTCONN:
            return fail(side, F_OS, errno)
    return 0


cdef int flush(Side *side) noexcept nogil:
    """Send more of the backlog."""
    cdef ssize_t sent = send_now(side, side.backlog + side.backlog_at, side.backlog_size)
    if sent < 0:
        return fail(side, F_OS, errno)
    side.backlog_at += sent
    side.backlog_size -= sent
    if side.backlog_size == 0:
        drop_backlog(side)
    return end_if_sent(side)


cdef void drop_backlog(Side *side) noexcept nogil:
    free(side.backlog)
    side.backlog = NULL
    side.backlog_at = side.backlog_size = 0


cdef void drop_early(Side *side) noexcept nogil:
    free(side.early)
    side.early = NULL
    side.early_size = 0


cdef int keep_early(Side *side, const char *data, size_t size) noexcept nogil:
    cdef char *bigger = <char *>realloc(side.early, side.early_size + size)
    if bigger == NULL:
        return fail(side, F_MEMORY)
    memcpy(bigger + side.early_size, data, size)
    side.early = bigger
    side.early_size += size
    return 0


cdef void let_go(Side *side, bint orderly) noexcept nogil:
    """Close; a reset unless orderly.  The side can be used for another socket then."""
    cdef linger now
    if side.ssl != NULL:
        ossl.SSL_free(side.ssl)  # its output BIO too
        side.ssl = side.output = NULL
    drop_backlog(side)
    drop_early(side)
    if side.fd >= 0:
        mute(side)
        if orderly:
            receive_raw(side, RECEIVE)  # the kernel would answer unread bytes with a reset
        else:
            now.l_onoff, now.l_linger = 1, 0
            setsockopt(side.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
        close(side.fd)
    side.fd = -1
    side.hung_up = side.ending = side.ended = False


# TLS.


cdef int begin_tls(Side *side) noexcept nogil:
    ossl.ERR_clear_error()
    side.ssl = ossl.SSL_new(side.ssl_ctx)
    side.output = ossl.BIO_new(ossl.BIO_s_mem())
    if side.ssl == NULL or side.output == NULL:
        if side.ssl == NULL and side.output != NULL:
            ossl.BIO_free(side.output)
        side.output = NULL
        return fail(side, F_MEMORY)
    ossl.SSL_set_bio(side.ssl, NULL, side.output)
    ossl.SSL_set_verify(side.ssl, SSL_VERIFY_PEER_AND_INSIST, on_verify)
    side.asked = not side.client
    ossl.SSL_set_cert_cb(side.ssl, on_request, side)
    if side.client:
        ossl.SSL_set_connect_state(side.ssl)
    else:
        ossl.SSL_set_accept_state(side.ssl)
    return 0


cdef int feed(Side *side, char *data, size_t size) noexcept nogil:
    """Let OpenSSL read `data`, in place, until `fed`: all of it is consumed in between."""
    cdef void *incoming
    ossl.ERR_clear_error()
    incoming = ossl.BIO_new_mem_buf(data, <int>size)
    if incoming == NULL:
        return fail(side, F_MEMORY)
    ossl.BIO_set_mem_eof_return(incoming, -1)  # its end is "not yet", not the stream's end
    ossl.SSL_set_bio(side.ssl, incoming, side.output)
    return 0


cdef void fed(Side *side) noexcept nogil:
    ossl.SSL_set_bio(side.ssl, NULL, side.output)


cdef int push_output(Side *side) noexcept nogil:
    """Send the records made.  Whatever happens, none is left for later."""
    cdef char *data = NULL
    cdef long size = ossl.BIO_get_mem_data(side.output, &data)
    cdef int result, at = 0, more
    cdef char scratch[KEPT_OUTPUT]
    if size <= 0:
        return 0
    result = push(side, data, size)
    if size > KEPT_OUTPUT:
        # a memory BIO never shrinks: an idle connection would keep its peak
        side.output = ossl.BIO_new(ossl.BIO_s_mem())
        ossl.SSL_set_bio(side.ssl, NULL, side.output)
        return result if side.output != NULL else fail(side, F_MEMORY)
    while at < size:
        more = ossl.BIO_read(side.output, scratch, KEPT_OUTPUT)
        if more <= 0:
            break
        at += more
    return result


cdef int fail_tls(Side *side) noexcept nogil:
    """OpenSSL's oldest error, and its alert on the way."""
    cdef unsigned long code = ossl.ERR_get_error()
    fail(side, F_TLS, 0, code)
    push_output(side)
    return -1


cdef ssize_t read_plain(Side *side) noexcept nogil:
    """All there is, into the worker's plaintext buffer: nothing may stay behind in the step."""
    cdef ssize_t size = 0
    cdef int got, why
    while not side.ended and size < PLAIN:
        got = ossl.SSL_read(side.ssl, side.conn.worker.plain + size, <int>(PLAIN - size))
        if got > 0:
            size += got
            continue
        why = ossl.SSL_get_error(side.ssl, got)
        if why == SSL_ERROR_ZERO_RETURN:
            side.ended = True
        elif why == SSL_ERROR_WANT_READ:
            break
        else:
            fed(side)
            return fail_tls(side)
    return size


cdef int send_plain(Side *side, const char *data, size_t size) noexcept nogil:
    """Application bytes, as records where there is TLS."""
    if side.ssl == NULL:
        return push(side, data, size)
    ossl.ERR_clear_error()
    if ossl.SSL_write(side.ssl, <void *>data, <int>size) != <int>size:
        return fail_tls(side)
    return push_output(side)


cdef int finish(Side *side) noexcept nogil:
    """We send no more: close_notify if there is TLS, then FIN behind the backlog."""
    if side.ssl != NULL:
        ossl.ERR_clear_error()
        if ossl.SSL_shutdown(side.ssl) < 0:
            return fail_tls(side)
        if push_output(side) < 0:
            return -1
    side.ending = True
    return end_if_sent(side)


# The handshake.


cdef int on_verify(int _preverified, void *store) noexcept nogil:
    """OpenSSL's question, two or three times per handshake: the first answer stands."""
    cdef Side *side = <Side *>shaking_get()
    if side == NULL:
        return 0
    if side.verdict == V_NONE:
        judge_leaf(side, store)
    ossl.X509_STORE_CTX_set_error(store, side.x509_error)
    return side.verdict == V_ACCEPTED


cdef int on_request(void *_ssl, void *side) noexcept nogil:
    """A client is called here only when the server has sent a CertificateRequest."""
    (<Side *>side).asked = True
    return 1


cdef void judge_leaf(Side *side, void *store) noexcept nogil:
    cdef Worker *worker = side.conn.worker
    cdef char *leaf = NULL
    cdef long size
    side.verdict, side.x509_error = V_DEFECT, 1  # X509_V_ERR_UNSPECIFIED
    if worker.der != NULL:  # what an error may have left
        ossl.BIO_free(worker.der)
    worker.der = ossl.BIO_new(ossl.BIO_s_mem())
    if worker.der == NULL:
        return
    if ossl.i2d_X509_bio(worker.der, ossl.X509_STORE_CTX_get0_cert(store)) != 1:
        return
    size = ossl.BIO_get_mem_data(worker.der, &leaf)
    if size <= 0:
        return
    side.entry = table_find(worker.table, <uint8_t *>leaf, size, side.plan)
    if side.entry != NULL:
        side.verdict, side.x509_error = V_ACCEPTED, 0
        return
    with gil:
        ask_verifier(side, store, <uint8_t *>leaf, size)


cdef int shake(Side *side, char *data, size_t size) noexcept nogil:
    """One step: 1 finished and the peer verified, 0 more is needed, -1 failed."""
    cdef Conn *conn = side.conn
    cdef int result, why
    cdef ssize_t early
    if feed(side, data, size) < 0:
        return -1
    shaking_set(side)
    result = ossl.SSL_do_handshake(side.ssl)
    shaking_set(NULL)
    if result != 1:
        why = ossl.SSL_get_error(side.ssl, result)
        fed(side)
        if side.verdict == V_REFUSED or side.verdict == V_DEFECT:
            fail(side, F_VERIFY)
            push_output(side)
            return -1
        if why != SSL_ERROR_WANT_READ:
            return fail_tls(side)
        return push_output(side)
    # nobody passes whom this very handshake's callback didn't accept
    if side.verdict != V_ACCEPTED or ossl.SSL_session_reused(side.ssl):
        fed(side)
        return fail(side, F_UNPROVEN)
    if not side.asked:
        fed(side)
        return fail(side, F_UNASKED)
    early = read_plain(side)
    if early < 0:
        return -1
    fed(side)
    if early > 0 and keep_early(side, conn.worker.plain, early) < 0:
        return -1
    if push_output(side) < 0:
        return -1
    note_facts(side)
    return 1


cdef void note_facts(Side *side) noexcept nogil:
    cdef Conn *conn = side.conn
    copy_text(conn.version, ossl.SSL_get_version(side.ssl), sizeof(conn.version))
    copy_text(
        conn.cipher,
        ossl.SSL_CIPHER_get_name(ossl.SSL_get_current_cipher(side.ssl)),
        sizeof(conn.cipher),
    )
    copy_text(conn.group, ossl.SSL_get0_group_name(side.ssl), sizeof(conn.group))
    conn.shook = clock_of(CLOCK_MONOTONIC) - conn.started


cdef void copy_text(char *to, const char *text, size_t room) noexcept nogil:
    to[0] = 0
    if text != NULL:
        strncpy(to, text, room - 1)
        to[room - 1] = 0


cdef bint hello_complete(Side *side, const uint8_t *said, size_t size) noexcept nogil:
    """Whether a whole ClientHello is there, or nothing that can become one (RFC 8446 §5.1, §4).
    What isn't the beginning of TLS is complete: OpenSSL says what is wrong with it.  `said` is
    all that came so far; each whole record is looked at once."""
    cdef size_t length, there, at, known
    cdef uint8_t message[4]
    while side.record_at < size:
        at = side.record_at
        if said[at] != 22:
            return True
        if size - at < 5:
            break
        length = (said[at + 3] << 8) | said[at + 4]
        there = min(length, size - at - 5)
        known = min(<size_t>4, side.message_known + there)
        memcpy(message, side.message, 4)
        memcpy(message + side.message_known, said + at + 5, known - side.message_known)
        if length == 0 or (known > 0 and message[0] != 1):
            return True
        if known == 4 and side.message_size + there >= 4 + <size_t>(
                (message[1] << 16) | (message[2] << 8) | message[3]):
            return True
        if there < length:
            break
        memcpy(side.message, message, 4)
        side.message_known = known
        side.message_size += length
        side.record_at += 5 + length
    return size >= MAX_HELLO
