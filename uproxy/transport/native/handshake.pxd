"""A handshake, on either side: one step at a time, and the peer judged inside it."""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset, strcmp
from posix.time cimport CLOCK_MONOTONIC

from uproxy.transport.native.openssl cimport (
    ERR_LIB_SSL, SSL3_RT_HANDSHAKE, SSL_ERROR_WANT_READ, SSL_R_EXCESSIVE_MESSAGE_SIZE,
    SSL_VERIFY_PEER_AND_INSIST, X509_V_ERR_APPLICATION_VERIFICATION, X509_V_ERR_CERT_REJECTED,
    X509_V_ERR_UNSPECIFIED, X509_V_OK,
    BIO_free, BIO_new, BIO_s_mem, ERR_clear_error, ERR_peek_error, SSL_CIPHER_get_name,
    SSL_do_handshake, SSL_get0_group_name, SSL_get_current_cipher, SSL_get_error,
    SSL_get_version, SSL_new, SSL_session_reused, SSL_set_SSL_CTX, SSL_set_accept_state,
    SSL_set_bio, SSL_set_connect_state, SSL_set_tlsext_host_name, SSL_set_verify,
    X509_STORE_CTX_set_error,
)
from uproxy.transport.native.types cimport (
    ALERT_HANDSHAKE_FAILURE, F_EXCESS, F_MEMORY, F_OS, F_SHORT_HANDSHAKE, F_UNASKED,
    F_UNPROVEN, F_VERIFY, MAX_CLIENT_HELLO, MAX_REQUEST, RECEIVE_SIZE, V_ACCEPTED, V_DEFECT, V_NONE, V_REFUSED, X_MESSAGE, X_NONE, X_REQUEST,
    Connection, Presented, Shared, Side,
)
from uproxy.transport.native.presented cimport leave_leaf_only, read_presented
from uproxy.transport.native.side cimport (
    drop_output, fail, fail_tls, end_feed, begin_feed, flush, keep_early, send_alert, send_output,
    decrypt, receive_raw, send_clear_alert,
)
from uproxy.transport.native.system cimport (
    clock_of, long_set, pthread_mutex_lock, pthread_mutex_unlock, handshaking_get, handshaking_set,
)
from uproxy.transport.native.verify_cache cimport find_verified

cdef enum:  # messages of a handshake (RFC 8446 §4)
    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    CERTIFICATE = 11
    CERTIFICATE_REQUEST = 13
    SERVER_HELLO_DONE = 14
    TLS13 = 0x0304


cdef inline int start_tls(Side *side) noexcept nogil:
    ERR_clear_error()
    side.ssl = SSL_new(side.tls_setup.ssl_ctx)
    side.output = BIO_new(BIO_s_mem())
    if side.ssl == NULL or side.output == NULL:
        if side.ssl == NULL and side.output != NULL:
            BIO_free(side.output)
        side.output = NULL
        return fail(side, F_MEMORY, 0, 0)
    SSL_set_bio(side.ssl, NULL, side.output)
    if SSL_set_SSL_CTX(side.ssl, side.tls_setup.identity) == NULL:
        return fail(side, F_MEMORY, 0, 0)
    SSL_set_verify(side.ssl, SSL_VERIFY_PEER_AND_INSIST, on_verify)
    side.own_certificate_asked = not side.tls_setup.client
    side.hello_read = side.tls12_server_done = side.unasked = False
    if not side.tls_setup.client:
        SSL_set_accept_state(side.ssl)
        return 0
    SSL_set_connect_state(side.ssl)
    if side.tls_setup.server_name != NULL:
        SSL_set_tlsext_host_name(side.ssl, side.tls_setup.server_name)
        if ERR_peek_error():  # the wheel's binding keeps the result to itself
            return fail(side, F_MEMORY, 0, 0)  # names that are too long don't come here
    return 0


# What OpenSSL calls inside SSL_do_handshake.


cdef inline int on_verify(int _preverified, void *store) noexcept nogil:
    """OpenSSL's question, two or three times per handshake.  The answer was found when the
    Certificate message came; without one nobody is believed."""
    cdef Side *side = <Side *>handshaking_get()
    if side == NULL:
        return 0
    if side.verdict == V_ACCEPTED and not side.own_certificate_asked and speaks_tls13(side):
        side.unasked = True  # TLS 1.3 has the CertificateRequest before the Certificate
        side.x509_error = X509_V_ERR_APPLICATION_VERIFICATION
    X509_STORE_CTX_set_error(store, side.x509_error)
    return side.verdict == V_ACCEPTED and not side.unasked


cdef inline bint speaks_tls13(Side *side) noexcept nogil:
    return strcmp(SSL_get_version(side.ssl), "TLSv1.3") == 0


cdef inline void on_message(int sent, int version, int kind, const void *content, size_t size,
                            void *_ssl, void *_arg) noexcept nogil:
    """SSL_CTX_set_msg_callback's.  OpenSSL has hashed a message for the proof of possession when
    it is called, and hasn't read it yet."""
    cdef Side *side = <Side *>handshaking_get()
    cdef uint8_t *message = <uint8_t *>content  # to be written to: see `spoil`, `leave_leaf_only`
    if sent or kind != SSL3_RT_HANDSHAKE or size < 4 or side == NULL:
        return
    if message[0] == CERTIFICATE:
        on_certificates(side, message + 4, size - 4, version >= TLS13)
    elif message[0] == CERTIFICATE_REQUEST and size > MAX_REQUEST:
        refuse_excess(side, X_REQUEST, size)
        spoil(message + 4, size - 4)
    elif message[0] == CERTIFICATE_REQUEST:
        side.own_certificate_asked = True
    elif message[0] == SERVER_HELLO_DONE:
        side.tls12_server_done = True
    elif message[0] == CLIENT_HELLO and size > MAX_CLIENT_HELLO:
        spoil(message + 4, size - 4)  # the second one, after a HelloRetryRequest
    elif message[0] == CLIENT_HELLO or message[0] == SERVER_HELLO:
        side.hello_read = True


cdef inline void on_certificates(Side *side, uint8_t *body, size_t size,
                                 bint is_tls13) noexcept nogil:
    """Judge who sends these, and leave OpenSSL the leaf."""
    cdef Presented them
    cdef size_t found = 0
    cdef int what
    if side.verdict != V_NONE:
        side.verdict, side.x509_error = V_DEFECT, X509_V_ERR_UNSPECIFIED
        return
    what = read_presented(&them, body, size, is_tls13, &found)
    if what < 0:
        return  # OpenSSL says what is wrong with it
    if what != X_NONE:
        refuse_excess(side, what, found)
    else:
        find_verdict(side, &them)
    if not (is_tls13 and leave_leaf_only(&them, body, size)) and what != X_NONE:
        spoil(body, size)


cdef inline void find_verdict(Side *side, Presented *them) noexcept nogil:
    cdef Shared *shared = side.connection.worker.shared
    side.verified_peer = find_verified(&shared.verify_cache, them.ders[0], them.sizes[0], side.tls_setup.trust)
    if side.verified_peer != NULL:
        side.verdict, side.x509_error = V_ACCEPTED, X509_V_OK
        return
    if side.index == 0:
        long_set(&shared.uncached_came, <int64_t>(clock_of(CLOCK_MONOTONIC) * 1000))
    if not side.connection.is_offloaded:
        shared.judge(side, them)
        return
    pthread_mutex_lock(&shared.helpers.verifying)
    shared.judge(side, them)
    pthread_mutex_unlock(&shared.helpers.verifying)


cdef inline void refuse_excess(Side *side, int what, size_t found) noexcept nogil:
    side.verdict, side.x509_error = V_REFUSED, X509_V_ERR_CERT_REJECTED
    fail(side, F_EXCESS, what, found)


cdef inline void spoil(uint8_t *body, size_t size) noexcept nogil:
    """Make OpenSSL stop before it reads a message that costs too much, which its callback has no
    other way to say: lengths that can't be are a decode_error (RFC 8446 §6.2)."""
    memset(body, 0xFF, size)


# Steps.


cdef inline int handshake_step(Side *side, char *data, size_t size) noexcept nogil:
    """One step: 1 finished and the peer verified (its last words are still to be pushed: a
    client's go with its first bytes), 0 more is needed, -1 failed."""
    cdef int result, why
    if begin_feed(side, data, size) < 0:
        return -1
    handshaking_set(side)
    result = SSL_do_handshake(side.ssl)
    handshaking_set(NULL)
    if result == 1:
        return on_finished(side)
    why = SSL_get_error(side.ssl, result)
    end_feed(side)
    if side.verdict == V_REFUSED or side.verdict == V_DEFECT:
        fail(side, F_VERIFY, 0, 0)
        return send_alert(side)
    if side.unasked:
        return refuse_not_asked(side)
    if why != SSL_ERROR_WANT_READ:
        if side.hello_read and side.verdict == V_NONE and is_too_large(ERR_peek_error()):
            fail(side, F_EXCESS, X_MESSAGE, 0)
        return fail_tls(side)
    if side.tls12_server_done and not side.own_certificate_asked:
        # nothing of our turn in TLS 1.2 is sent yet: an alert in the clear takes its place
        drop_output(side)
        send_clear_alert(side, ALERT_HANDSHAKE_FAILURE)
        return refuse_not_asked(side)
    return send_output(side)


cdef inline int refuse_not_asked(Side *side) noexcept nogil:
    fail(side, F_UNASKED, 0, 0)
    return send_alert(side)


cdef inline bint is_too_large(unsigned long code) noexcept nogil:
    """OpenSSL has seen from its header that a message is larger than it takes: of those that come
    after a hello only the Certificate message is ever so large."""
    return (code >> 23) & 0xFF == ERR_LIB_SSL and code & 0x7FFFFF == SSL_R_EXCESSIVE_MESSAGE_SIZE


cdef inline int on_finished(Side *side) noexcept nogil:
    cdef ssize_t early
    # nobody passes whom this very handshake's callback didn't accept
    if side.verdict != V_ACCEPTED or SSL_session_reused(side.ssl):
        end_feed(side)
        return fail(side, F_UNPROVEN, 0, 0)
    if not side.own_certificate_asked:
        end_feed(side)
        return fail(side, F_UNASKED, 0, 0)
    early = decrypt(side)
    if early < 0:
        return -1
    end_feed(side)
    if early > 0 and keep_early(side, side.connection.running_on.plain, early) < 0:
        return -1
    record_facts(side)
    # an open connection keeps no key in memory
    if SSL_set_SSL_CTX(side.ssl, side.tls_setup.ssl_ctx) == NULL:
        return fail(side, F_MEMORY, 0, 0)
    return 1


cdef inline void record_facts(Side *side) noexcept nogil:
    cdef Connection *connection = side.connection
    connection.version = SSL_get_version(side.ssl)
    connection.cipher = SSL_CIPHER_get_name(SSL_get_current_cipher(side.ssl))
    connection.group = SSL_get0_group_name(side.ssl)
    connection.handshake_seconds = clock_of(CLOCK_MONOTONIC) - connection.started


cdef inline int continue_handshake(Side *side) noexcept nogil:
    """The socket is ready: the next step."""
    cdef ssize_t size
    if side.unsent:
        return flush(side)
    size = receive_raw(side, RECEIVE_SIZE)
    if size == -2:
        return 0
    if size < 0:
        return fail(side, F_OS, errno, 0)
    if size == 0:
        return fail(side, F_SHORT_HANDSHAKE, 0, 0)
    return handshake_step(side, side.connection.running_on.received, size)
