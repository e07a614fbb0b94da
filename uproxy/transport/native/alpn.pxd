"""A server's choice of the application protocol, inside the handshake (RFC 7301 section 3.2)."""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp


cdef enum:
    SSL_TLSEXT_ERR_OK = 0
    SSL_TLSEXT_ERR_ALERT_FATAL = 2


cdef inline const uint8_t *offered_name(const uint8_t *name, const uint8_t *offered,
                                        unsigned int size) noexcept nogil:
    """Return the entry of the client's list (`offered`, of `size` bytes) that equals `name`, or
    NULL; each name stands behind a byte with its length."""
    cdef unsigned int at = 0
    while at < size and offered[at] < size - at:
        if offered[at] == name[0] and memcmp(offered + at + 1, name + 1, name[0]) == 0:
            return offered + at
        at += 1 + offered[at]
    return NULL


cdef inline int choose_protocol(void *_ssl, const uint8_t **chosen, uint8_t *chosen_size,
                                const uint8_t *offered, unsigned int size,
                                void *ours) noexcept nogil:
    """The callback of SSL_CTX_set_alpn_select_cb: choose our first name that the client offers, or
    answer with the alert no_application_protocol.  `ours` has our names, each behind a byte with
    its length, and ends with a length of 0.  Returns SSL_TLSEXT_ERR_OK or …_ALERT_FATAL."""
    cdef const uint8_t *name = <const uint8_t *>ours
    cdef const uint8_t *found
    while name[0]:
        found = offered_name(name, offered, size)
        if found != NULL:
            chosen[0], chosen_size[0] = found + 1, found[0]
            return SSL_TLSEXT_ERR_OK
        name += 1 + name[0]
    return SSL_TLSEXT_ERR_ALERT_FATAL
