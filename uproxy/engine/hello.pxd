"""Whether a ClientHello is whole: the only thing read of it before anything is spent on it."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from uproxy.engine.parts cimport MAX_HELLO, Side


cdef inline bint hello_complete(Side *side, const uint8_t *said, size_t size) noexcept nogil:
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
