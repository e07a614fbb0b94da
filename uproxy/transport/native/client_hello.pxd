"""Whether a ClientHello is whole: the only thing read of it before anything is spent on it."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from uproxy.transport.native.types cimport (
    ALERT_ILLEGAL_PARAMETER, ALERT_RECORD_OVERFLOW, ALERT_UNEXPECTED_MESSAGE, MAX_CLIENT_HELLO, MAX_HELLO,
    Side,
)

cdef enum:
    MAX_RECORD = 16 * 1024  # bytes of content (RFC 8446 §5.1)
    HANDSHAKE_RECORD = 22
    CLIENT_HELLO = 1
    TLS_MAJOR = 3

cdef enum:  # reasons of OpenSSL's library 20, for the words of the error
    DATA_LENGTH_TOO_LONG = (20 << 23) | 146
    EXCESSIVE_MESSAGE_SIZE = (20 << 23) | 152
    UNEXPECTED_MESSAGE = (20 << 23) | 244


cdef inline bint hello_complete(Side *side, const uint8_t *said, size_t size) noexcept nogil:
    """Whether a whole ClientHello is there, or nothing that can become one (RFC 8446 §5.1, §4).
    Where a record can't be one of a ClientHello, or it is too long, `side.alert` says so; what isn't TLS at all is
    complete, and OpenSSL says what is wrong with it.  `said` is all that came so upstream; each whole
    record is looked at once."""
    cdef size_t length, there, at, known, whole
    cdef uint8_t message[4]
    while size - side.record_at >= 5:
        at = side.record_at
        length = (said[at + 3] << 8) | said[at + 4]
        if said[at + 1] != TLS_MAJOR:
            return True
        if said[at] != HANDSHAKE_RECORD or length == 0:
            return refuse_hello(side, ALERT_UNEXPECTED_MESSAGE, UNEXPECTED_MESSAGE)
        if length > MAX_RECORD:
            return refuse_hello(side, ALERT_RECORD_OVERFLOW, DATA_LENGTH_TOO_LONG)
        there = min(length, size - at - 5)
        known = min(<size_t>4, side.message_known + there)
        memcpy(message, side.message, 4)
        memcpy(message + side.message_known, said + at + 5, known - side.message_known)
        if known > 0 and message[0] != CLIENT_HELLO:
            return refuse_hello(side, ALERT_UNEXPECTED_MESSAGE, UNEXPECTED_MESSAGE)
        if known == 4:
            whole = 4 + <size_t>((message[1] << 16) | (message[2] << 8) | message[3])
            if whole > MAX_CLIENT_HELLO:
                return refuse_hello(side, ALERT_ILLEGAL_PARAMETER, EXCESSIVE_MESSAGE_SIZE)
            if side.message_size + there >= whole:
                return True
        if there < length:
            break
        memcpy(side.message, message, 4)
        side.message_known = known
        side.message_size += length
        side.record_at += 5 + length
    return size >= MAX_HELLO


cdef inline bint refuse_hello(Side *side, int alert, unsigned long code) noexcept nogil:
    side.alert, side.code = alert, code
    return True
