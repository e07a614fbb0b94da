"""A TLS handshake on either side of a connection: one step at a time, the peer verified inside it.

`start_tls` returns 0 or -1; `handshake_step` and `continue_handshake` return 1 when the handshake
has finished and the peer is verified, 0 when more must come, -1 when it failed.  Failures are
recorded in `connection.fault`, and their alerts are sent.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset, strcmp
from posix.time cimport CLOCK_MONOTONIC

from uproxy.transport.native.system cimport (
    clock_of, handshaking_get, handshaking_set, long_set, pthread_mutex_lock, pthread_mutex_unlock,
)
from uproxy.transport.native.openssl cimport (
    ERR_LIB_SSL, SSL3_RT_HANDSHAKE, SSL_ERROR_WANT_READ, SSL_R_EXCESSIVE_MESSAGE_SIZE,
    SSL_VERIFY_PEER_AND_INSIST, X509_V_ERR_APPLICATION_VERIFICATION, X509_V_ERR_CERT_REJECTED,
    X509_V_ERR_UNSPECIFIED, X509_V_OK, BIO_free, BIO_new, BIO_s_mem, ERR_clear_error,
    ERR_get_error, ERR_peek_error, SSL_CIPHER_get_name, SSL_do_handshake, SSL_get0_group_name,
    SSL_get_current_cipher, SSL_get_error, SSL_get_version, SSL_new, SSL_session_reused,
    SSL_set_SSL_CTX, SSL_set_accept_state, SSL_set_bio, SSL_set_connect_state,
    SSL_set_tlsext_host_name, SSL_set_verify, X509_STORE_CTX_set_error,
)
from uproxy.transport.native.presented cimport (
    MAX_CLIENT_HELLO, MAX_REQUEST, X_MESSAGE, X_NONE, X_REQUEST, Presented, leave_leaf_only,
    read_presented,
)
from uproxy.transport.native.codes cimport (
    ALERT_HANDSHAKE_FAILURE, F_EXCESS, F_MEMORY, F_OS, F_SHORT_HANDSHAKE, F_TLS, F_UNASKED,
    F_UNPROVEN, F_VERIFY, RECEIVE_SIZE, V_ACCEPTED, V_DEFECT, V_NONE, V_REFUSED,
)
from uproxy.transport.native.types cimport Channel, Connection, Shared, Side
from uproxy.transport.native.limits cimport mark_silent
from uproxy.transport.native.verify_cache cimport find_verified
from uproxy.transport.native.channel cimport fail, keep_early, receive_raw, send_clear_alert
from uproxy.transport.native.tls cimport (
    begin_feed, decrypt, drop_output, end_feed, flush, send_output,
)

cdef enum:  # messages of a handshake (RFC 8446 §4)
    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    CERTIFICATE = 11
    CERTIFICATE_REQUEST = 13
    SERVER_HELLO_DONE = 14
    TLS13 = 0x0304


cdef inline int start_tls(Channel *channel) noexcept nogil:
    """Make the TLS session of a channel whose `tls_setup` is set."""
    ERR_clear_error()
    channel.ssl = SSL_new(channel.tls_setup.ssl_ctx)
    channel.output = BIO_new(BIO_s_mem())
    if channel.ssl == NULL or channel.output == NULL:
        if channel.ssl == NULL and channel.output != NULL:
            BIO_free(channel.output)
        channel.output = NULL
        return fail(channel, F_MEMORY, 0, 0)
    SSL_set_bio(channel.ssl, NULL, channel.output)
    if SSL_set_SSL_CTX(channel.ssl, channel.tls_setup.identity) == NULL:
        return fail(channel, F_MEMORY, 0, 0)
    SSL_set_verify(channel.ssl, SSL_VERIFY_PEER_AND_INSIST, on_verify)
    channel.own_certificate_asked = not channel.tls_setup.client  # a server's is never optional
    channel.hello_read = channel.tls12_server_done = channel.unasked = False
    if not channel.tls_setup.client:
        SSL_set_accept_state(channel.ssl)
        return 0
    SSL_set_connect_state(channel.ssl)
    if channel.tls_setup.server_name != NULL:
        SSL_set_tlsext_host_name(channel.ssl, channel.tls_setup.server_name)
        if ERR_peek_error():  # the wheel's binding keeps the result to itself
            return fail(channel, F_MEMORY, 0, 0)  # names that are too long don't come here
    return 0


# What OpenSSL calls inside SSL_do_handshake.


cdef inline int on_verify(int _preverified, void *store) noexcept nogil:
    """The callback of SSL_set_verify, called two or three times per handshake: 1 accepts.  The
    verdict was found when the Certificate message came; without one the peer is refused."""
    cdef Channel *channel = <Channel *>handshaking_get()
    if channel == NULL:
        return 0
    if (channel.verdict == V_ACCEPTED and not channel.own_certificate_asked
            and is_tls13(channel)):
        channel.unasked = True  # TLS 1.3 has the CertificateRequest before the Certificate
        channel.x509_error = X509_V_ERR_APPLICATION_VERIFICATION
    X509_STORE_CTX_set_error(store, channel.x509_error)
    return channel.verdict == V_ACCEPTED and not channel.unasked


cdef inline bint is_tls13(Channel *channel) noexcept nogil:
    return strcmp(SSL_get_version(channel.ssl), "TLSv1.3") == 0


cdef inline void on_message(int sent, int version, int kind, const void *content, size_t size,
                            void *_ssl, void *_arg) noexcept nogil:
    """The callback of SSL_CTX_set_msg_callback.  OpenSSL has hashed the message for the proof of
    possession when it calls this, and hasn't read it yet."""
    cdef Channel *channel = <Channel *>handshaking_get()
    cdef uint8_t *message = <uint8_t *>content  # written to by `spoil` and `leave_leaf_only`
    if sent or kind != SSL3_RT_HANDSHAKE or size < 4 or channel == NULL:
        return
    if message[0] == CERTIFICATE:
        on_certificates(channel, message + 4, size - 4, version >= TLS13)
    elif message[0] == CERTIFICATE_REQUEST and size > MAX_REQUEST:
        refuse_excess(channel, X_REQUEST, size)
        spoil(message + 4, size - 4)
    elif message[0] == CERTIFICATE_REQUEST:
        channel.own_certificate_asked = True
    elif message[0] == SERVER_HELLO_DONE:
        channel.tls12_server_done = True
    elif message[0] == CLIENT_HELLO and size > MAX_CLIENT_HELLO:
        spoil(message + 4, size - 4)  # the second one, after a HelloRetryRequest
    elif message[0] == CLIENT_HELLO or message[0] == SERVER_HELLO:
        channel.hello_read = True


cdef inline void on_certificates(Channel *channel, uint8_t *body, size_t size,
                                 bint is_tls13) noexcept nogil:
    """Verify the peer's certificates, and in TLS 1.3 leave OpenSSL the leaf only; `body` is that of
    a Certificate message.  A second such message is a defect."""
    cdef Presented them
    cdef size_t found = 0
    cdef int excess
    if channel.verdict != V_NONE:
        channel.verdict, channel.x509_error = V_DEFECT, X509_V_ERR_UNSPECIFIED
        return
    excess = read_presented(&them, body, size, is_tls13, &found)
    if excess < 0:
        return  # OpenSSL says what is wrong with it
    if excess != X_NONE:
        refuse_excess(channel, excess, found)
    else:
        find_verdict(channel, &them)
    if not (is_tls13 and leave_leaf_only(&them, body, size)) and excess != X_NONE:
        spoil(body, size)


cdef inline void find_verdict(Channel *channel, Presented *them) noexcept nogil:
    """Set the channel's verdict: from the verify cache, or by asking the verifier, with the GIL."""
    cdef Shared *shared = channel.worker.shared
    channel.verified_peer = find_verified(
        &shared.verify_cache, them.ders[0], them.sizes[0], channel.tls_setup.trust)
    if channel.verified_peer != NULL:
        channel.verdict, channel.x509_error = V_ACCEPTED, X509_V_OK
        return
    if channel.side.index == 0:
        long_set(&shared.uncached_came, <int64_t>(clock_of(CLOCK_MONOTONIC) * 1000))
    if not channel.side.connection.is_offloaded:
        shared.ask_verifier(channel, them)
        return
    pthread_mutex_lock(&shared.helpers.verifying)
    shared.ask_verifier(channel, them)
    pthread_mutex_unlock(&shared.helpers.verifying)


cdef inline void refuse_excess(Channel *channel, int excess, size_t found) noexcept nogil:
    """Refuse a peer that presents too much: an Excess, and how much there was."""
    channel.verdict, channel.x509_error = V_REFUSED, X509_V_ERR_CERT_REJECTED
    fail(channel, F_EXCESS, excess, found)


cdef inline void spoil(uint8_t *body, size_t size) noexcept nogil:
    """Overwrite a message that would cost OpenSSL too much to read.  The message callback can't
    return an error, but lengths that are impossible make OpenSSL stop with a decode_error
    (RFC 8446 §6.2)."""
    memset(body, 0xFF, size)


# Steps.


cdef inline int handshake_step(Side *side, char *data, size_t size) noexcept nogil:
    """Do one step with the bytes that came.  When it returns 1, the last records are still to be
    sent (`send_output`): a client's go with its first data."""
    cdef Channel *channel = &side.channel
    cdef int result, why
    if begin_feed(channel, data, size) < 0:
        return -1
    handshaking_set(channel)
    result = SSL_do_handshake(channel.ssl)
    handshaking_set(NULL)
    if result == 1:
        return finish_handshake(side)
    why = SSL_get_error(channel.ssl, result)
    end_feed(channel)
    if channel.verdict == V_REFUSED or channel.verdict == V_DEFECT:
        return refuse(side, F_VERIFY, 0)
    if channel.unasked:
        return refuse(side, F_UNASKED, 0)
    if why != SSL_ERROR_WANT_READ:
        if channel.hello_read and channel.verdict == V_NONE and is_too_large(ERR_peek_error()):
            fail(channel, F_EXCESS, X_MESSAGE, 0)
        return refuse(side, F_TLS, ERR_get_error())
    if channel.tls12_server_done and not channel.own_certificate_asked:
        # nothing of our turn in TLS 1.2 is sent yet: an alert in the clear takes its place
        drop_output(channel)
        send_clear_alert(channel, ALERT_HANDSHAKE_FAILURE)
        return refuse(side, F_UNASKED, 0)
    return send_output(channel)


cdef inline int refuse(Side *side, int why, unsigned long code) noexcept nogil:
    """Record why the handshake fails (a Failure, OpenSSL's error), and send the alert.  Returns -1.
    A refused caller counts as silent before the alert is sent: when it has read the alert, it may
    be evicted."""
    fail(&side.channel, why, 0, code)
    if side.index == 0:
        mark_silent(side.connection)
    send_output(&side.channel)
    return -1


cdef inline bint is_too_large(unsigned long code) noexcept nogil:
    """Whether this error of OpenSSL says that a message's header announces too much.  After the
    hellos no message but Certificate is ever so large."""
    return (code >> 23) & 0xFF == ERR_LIB_SSL and code & 0x7FFFFF == SSL_R_EXCESSIVE_MESSAGE_SIZE


cdef inline int finish_handshake(Side *side) noexcept nogil:
    """Check, when OpenSSL has finished, that the peer was verified, and keep in `early` the data
    that has come with the last records.  Returns 1 or -1."""
    cdef Channel *channel = &side.channel
    cdef ssize_t early
    # nobody passes whom the callback of this very handshake didn't accept
    if channel.verdict != V_ACCEPTED or SSL_session_reused(channel.ssl):
        end_feed(channel)
        return fail(channel, F_UNPROVEN, 0, 0)
    if not channel.own_certificate_asked:
        end_feed(channel)
        return fail(channel, F_UNASKED, 0, 0)
    early = decrypt(channel)
    end_feed(channel)
    if early < 0:
        return refuse(side, channel.failed, channel.code)
    if early > 0 and keep_early(channel, channel.running_on.plaintext, early) < 0:
        return -1
    record_facts(side)
    # an open connection keeps no key in memory
    if SSL_set_SSL_CTX(channel.ssl, channel.tls_setup.ssl_ctx) == NULL:
        return fail(channel, F_MEMORY, 0, 0)
    return 1


cdef inline void record_facts(Side *side) noexcept nogil:
    """Record version, cipher, group and duration of the handshake, for the loop."""
    cdef Connection *connection = side.connection
    cdef void *ssl = side.channel.ssl
    connection.version = SSL_get_version(ssl)
    connection.cipher = SSL_CIPHER_get_name(SSL_get_current_cipher(ssl))
    connection.group = SSL_get0_group_name(ssl)
    connection.handshake_seconds = clock_of(CLOCK_MONOTONIC) - connection.handshake_started


cdef inline int continue_handshake(Side *side) noexcept nogil:
    """Do the next step, when the socket can be read; or, while something is unsent, be written."""
    cdef Channel *channel = &side.channel
    cdef ssize_t size
    if channel.unsent:
        return flush(channel)
    size = receive_raw(channel, RECEIVE_SIZE)
    if size == -2:
        return 0
    if size < 0:
        return fail(channel, F_OS, errno, 0)
    if size == 0:
        return fail(channel, F_SHORT_HANDSHAKE, 0, 0)
    return handshake_step(side, channel.running_on.received, size)
