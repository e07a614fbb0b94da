"""Receiving a ClientHello: it is complete before a handshake, or a slot for one, is spent on it."""

from libc.errno cimport ECONNRESET, errno
from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC

from uproxy.transport.native.system cimport clock_of
from uproxy.transport.native.presented cimport MAX_CLIENT_HELLO
from uproxy.transport.native.codes cimport (
    ALERT_ILLEGAL_PARAMETER, ALERT_RECORD_OVERFLOW, ALERT_UNEXPECTED_MESSAGE, F_NO_HELLO, F_OS,
    F_SHORT_HELLO, F_TLS, MAX_HELLO,
)
from uproxy.transport.native.types cimport Channel, Side
from uproxy.transport.native.channel cimport (
    fail, keep_early, peek_byte, receive_raw, send_clear_alert,
)

cdef enum:
    HELLO_BEGINS = 2  # results of `receive_hello`
    HELLO_ABSENT = 3

cdef enum:  # of RFC 8446 §5.1 and §4
    MAX_RECORD = 16 * 1024  # bytes of a record's content
    HANDSHAKE_RECORD = 22  # type of a record
    CLIENT_HELLO = 1  # type of a handshake message
    TLS_MAJOR = 3  # first byte of a record's version

cdef enum:  # OpenSSL's error codes (library 20) with which refusals are recorded
    DATA_LENGTH_TOO_LONG = (20 << 23) | 146
    EXCESSIVE_MESSAGE_SIZE = (20 << 23) | 152
    UNEXPECTED_MESSAGE = (20 << 23) | 244


cdef inline bint hello_complete(Channel *channel, const uint8_t *data, size_t size) noexcept nogil:
    """Return whether a whole ClientHello is there, or what can't become one (RFC 8446 §5.1, §4).
    Where a record can't be one of a ClientHello, or the message is too long, `channel.alert` is
    set.  Bytes that aren't TLS, and MAX_HELLO bytes of anything, count as complete: OpenSSL says
    what is wrong.  `data` is all that came so far; each whole record is looked at once."""
    cdef size_t length, there, at, known, whole
    cdef uint8_t message[4]
    while size - channel.record_at >= 5:
        at = channel.record_at
        length = (data[at + 3] << 8) | data[at + 4]
        if data[at + 1] != TLS_MAJOR:
            return True
        if data[at] != HANDSHAKE_RECORD or length == 0:
            return refuse_hello(channel, ALERT_UNEXPECTED_MESSAGE, UNEXPECTED_MESSAGE)
        if length > MAX_RECORD:
            return refuse_hello(channel, ALERT_RECORD_OVERFLOW, DATA_LENGTH_TOO_LONG)
        there = min(length, size - at - 5)
        known = min(<size_t>4, channel.message_known + there)
        memcpy(message, channel.message, 4)
        memcpy(message + channel.message_known, data + at + 5, known - channel.message_known)
        if known > 0 and message[0] != CLIENT_HELLO:
            return refuse_hello(channel, ALERT_UNEXPECTED_MESSAGE, UNEXPECTED_MESSAGE)
        if known == 4:
            whole = 4 + <size_t>((message[1] << 16) | (message[2] << 8) | message[3])
            if whole > MAX_CLIENT_HELLO:
                return refuse_hello(channel, ALERT_ILLEGAL_PARAMETER, EXCESSIVE_MESSAGE_SIZE)
            if channel.message_size + there >= whole:
                return True
        if there < length:
            break
        memcpy(channel.message, message, 4)
        channel.message_known = known
        channel.message_size += length
        channel.record_at += 5 + length
    return size >= MAX_HELLO


cdef inline bint refuse_hello(Channel *channel, int alert, unsigned long code) noexcept nogil:
    """Set the alert, and OpenSSL's error, that refuse the ClientHello.  Returns True."""
    channel.alert, channel.code = alert, code
    return True


cdef inline int receive_hello(Side *side, char **hello, size_t *size) noexcept nogil:
    """Receive more of the ClientHello.  Returns 1 if it is complete, and where it is: in the
    thread's buffer, or in `channel.early`; 0 if more must come; -1 if it failed (recorded);
    HELLO_BEGINS if it isn't known yet how to shake hands: a byte has come, and is still unread.
    HELLO_ABSENT if that byte shows that the caller speaks in clear, and it may."""
    cdef Channel *channel = &side.channel
    cdef bint is_known = (channel.tls_setup.ssl_ctx != NULL
                          and not side.connection.may_be_clear)
    cdef size_t most = MAX_HELLO - channel.early_size
    cdef ssize_t got = receive_raw(channel, most) if is_known else peek_byte(channel)
    if got == -2:
        return 0
    if got < 0 and errno == ECONNRESET and not channel.early_size:
        return fail(channel, F_NO_HELLO, 0, 0)  # a probe of a load balancer or a kubelet
    if got < 0:
        return fail(channel, F_OS, errno, 0)
    if got == 0:
        return fail(channel, F_SHORT_HELLO if channel.early_size else F_NO_HELLO, 0, 0)
    if side.connection.may_be_clear:
        side.connection.may_be_clear = False
        if <uint8_t>channel.running_on.received[0] != HANDSHAKE_RECORD:
            return HELLO_ABSENT
        return receive_hello(side, hello, size) if channel.tls_setup.ssl_ctx != NULL \
            else HELLO_BEGINS
    if not is_known:
        return HELLO_BEGINS
    if side.connection.handshake_started == 0:
        side.connection.handshake_started = clock_of(CLOCK_MONOTONIC)
    hello[0], size[0] = channel.running_on.received, got
    if channel.early_size or not hello_complete(channel, <uint8_t *>hello[0], got):
        if keep_early(channel, hello[0], got) < 0:
            return -1
        hello[0], size[0] = channel.early, channel.early_size
        if not hello_complete(channel, <uint8_t *>hello[0], size[0]):
            return 0
    return check_hello(channel)


cdef inline int check_hello(Channel *channel) noexcept nogil:
    """Send the alert that `hello_complete` has set, and record why.  Returns -1; 1 if there is
    none."""
    if not channel.alert:
        return 1
    fail(channel, F_TLS, 0, channel.code)
    send_clear_alert(channel, channel.alert)
    return -1
