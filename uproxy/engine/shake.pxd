"""A handshake, on either side: one step at a time, and the peer judged inside it."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t
from posix.time cimport CLOCK_MONOTONIC

from uproxy.engine.lending cimport strangers_came
from uproxy.engine.openssl cimport (
    SSL_ERROR_WANT_READ, SSL_VERIFY_PEER_AND_INSIST, X509_V_ERR_UNSPECIFIED, X509_V_OK,
    BIO_free, BIO_get_mem_data, BIO_new, BIO_s_mem, ERR_clear_error, ERR_peek_error, SSL_CIPHER_get_name,
    SSL_do_handshake, SSL_get0_group_name, SSL_get_current_cipher, SSL_get_error,
    SSL_get_version, SSL_new, SSL_session_reused, SSL_set_accept_state, SSL_set_bio,
    SSL_set_cert_cb, SSL_set_connect_state, SSL_set_tlsext_host_name, SSL_set_verify,
    X509_STORE_CTX_get0_cert,
    X509_STORE_CTX_set_error, i2d_X509_bio,
)
from uproxy.engine.parts cimport (
    F_MEMORY, F_OS, F_SHORT_HANDSHAKE, F_UNASKED, F_UNPROVEN, F_VERIFY, RECEIVE, V_ACCEPTED,
    V_DEFECT, V_NONE, V_REFUSED, Conn, Side, Worker,
)
from uproxy.engine.side cimport (
    fail, fail_tls, fed, feed, flush, keep_early, push_last_words, push_output, read_plain,
    receive_raw,
)
from uproxy.engine.system cimport clock_of, shaking_get, shaking_set
from uproxy.engine.verified cimport table_find


cdef inline int begin_tls(Side *side) noexcept nogil:
    ERR_clear_error()
    side.ssl = SSL_new(side.shakes.ssl_ctx)
    side.output = BIO_new(BIO_s_mem())
    if side.ssl == NULL or side.output == NULL:
        if side.ssl == NULL and side.output != NULL:
            BIO_free(side.output)
        side.output = NULL
        return fail(side, F_MEMORY, 0, 0)
    SSL_set_bio(side.ssl, NULL, side.output)
    SSL_set_verify(side.ssl, SSL_VERIFY_PEER_AND_INSIST, on_verify)
    side.asked = not side.shakes.client
    SSL_set_cert_cb(side.ssl, on_request, side)
    if not side.shakes.client:
        SSL_set_accept_state(side.ssl)
        return 0
    SSL_set_connect_state(side.ssl)
    if side.shakes.server_name != NULL:
        SSL_set_tlsext_host_name(side.ssl, side.shakes.server_name)
        if ERR_peek_error():  # the wheel's binding keeps the result to itself
            return fail(side, F_MEMORY, 0, 0)  # names that are too long don't come here
    return 0


cdef inline int on_verify(int _preverified, void *store) noexcept nogil:
    """OpenSSL's question, two or three times per handshake: the first answer stands."""
    cdef Side *side = <Side *>shaking_get()
    if side == NULL:
        return 0
    if side.verdict == V_NONE:
        judge_leaf(side, store)
    X509_STORE_CTX_set_error(store, side.x509_error)
    return side.verdict == V_ACCEPTED


cdef inline int on_request(void *_ssl, void *side) noexcept nogil:
    """A client is called here only when the server has sent a CertificateRequest."""
    (<Side *>side).asked = True
    return 1


cdef inline void judge_leaf(Side *side, void *store) noexcept nogil:
    cdef Worker *worker = side.conn.hands
    cdef char *leaf = NULL
    cdef long size
    side.verdict, side.x509_error = V_DEFECT, X509_V_ERR_UNSPECIFIED
    if worker.der != NULL:  # what an error may have left
        BIO_free(worker.der)
    worker.der = BIO_new(BIO_s_mem())
    if worker.der == NULL:
        return
    if i2d_X509_bio(worker.der, X509_STORE_CTX_get0_cert(store)) != 1:
        return
    size = BIO_get_mem_data(worker.der, &leaf)
    if size <= 0:
        return
    side.entry = table_find(&worker.shared.table, <uint8_t *>leaf, size, side.shakes.trust)
    if side.entry != NULL:
        side.verdict, side.x509_error = V_ACCEPTED, X509_V_OK
        return
    if side.index == 0:
        strangers_came(worker.shared)
    worker.shared.judge(side, store, <uint8_t *>leaf, size)


cdef inline int shake(Side *side, char *data, size_t size) noexcept nogil:
    """One step: 1 finished and the peer verified (its last words are still to be pushed: a
    client's go with its first bytes), 0 more is needed, -1 failed."""
    cdef int result, why
    if feed(side, data, size) < 0:
        return -1
    shaking_set(side)
    result = SSL_do_handshake(side.ssl)
    shaking_set(NULL)
    if result == 1:
        return shaken(side)
    why = SSL_get_error(side.ssl, result)
    fed(side)
    if side.verdict == V_REFUSED or side.verdict == V_DEFECT:
        fail(side, F_VERIFY, 0, 0)
        return push_last_words(side)
    if why != SSL_ERROR_WANT_READ:
        return fail_tls(side)
    return push_output(side)


cdef inline int shaken(Side *side) noexcept nogil:
    cdef ssize_t early
    # nobody passes whom this very handshake's callback didn't accept
    if side.verdict != V_ACCEPTED or SSL_session_reused(side.ssl):
        fed(side)
        return fail(side, F_UNPROVEN, 0, 0)
    if not side.asked:
        fed(side)
        return fail(side, F_UNASKED, 0, 0)
    early = read_plain(side)
    if early < 0:
        return -1
    fed(side)
    if early > 0 and keep_early(side, side.conn.hands.plain, early) < 0:
        return -1
    note_facts(side)
    return 1


cdef inline void note_facts(Side *side) noexcept nogil:
    cdef Conn *conn = side.conn
    conn.version = SSL_get_version(side.ssl)
    conn.cipher = SSL_CIPHER_get_name(SSL_get_current_cipher(side.ssl))
    conn.group = SSL_get0_group_name(side.ssl)
    conn.shook = clock_of(CLOCK_MONOTONIC) - conn.started


cdef inline int shake_on(Side *side) noexcept nogil:
    """The socket is ready: the next step."""
    cdef ssize_t size
    if side.backlog_size:
        return flush(side)
    size = receive_raw(side, RECEIVE)
    if size == -2:
        return 0
    if size < 0:
        return fail(side, F_OS, errno, 0)
    if size == 0:
        return fail(side, F_SHORT_HANDSHAKE, 0, 0)
    return shake(side, side.conn.hands.received, size)
