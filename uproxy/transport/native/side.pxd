"""A side: one end of a relay, as the relay sees it.

A side owns its channel, or borrows one that a carrier shares among many: then each call goes to
the carrier's function of the same name, which returns the same.  No page above this one asks
which of the two it is.

    read_side    number of application bytes; READ_ENDED, READ_FAILED, READ_NOT_NOW, READ_NOT_DATA
    write_side   0; -1: the side has failed, call `abandon_side`
    finish_side  the same
    want         0; -1: the connection can't go on

A failure's reason is recorded in `connection.fault` by whoever returns it.
"""

from libc.errno cimport errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from uproxy.transport.native.system cimport (
    END_DELAY_ANSWERED_S, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, READ_EVENTS)
from uproxy.transport.native.codes cimport (
    F_NONE, F_OS, F_TRUNCATED, LARGE_RECEIVE_SIZE, RECEIVE_SIZE, RECORD_SIZE, SMALL_RECEIVE_SIZE,
)
from uproxy.transport.native.types cimport Channel, Received, Side, Stream
from uproxy.transport.native.channel cimport (
    drop_backlog, fail, in_kernel, pending_error, receive_raw, record_fault, take_early, watch,
)
from uproxy.transport.native.tls cimport (
    begin_feed, close_channel, decrypt, end_feed, fail_read, finish_channel, flush, plaintext_of,
    send_output, trim, write_channel,
)

cdef enum ReadResult:
    READ_ENDED = 0  # the side's end was read
    READ_FAILED = -1  # nothing more can be read; all that came before was returned earlier
    READ_NOT_NOW = -2  # nothing is there
    READ_NOT_DATA = -3  # what came was part of a record, or a message of TLS itself

cdef enum End:  # whether the side's end follows the bytes that were read
    END_UNKNOWN
    END_LIKELY  # the socket's end is behind them, unless it is reset
    END_CERTAIN  # it has been read

cdef enum Ready:  # what a side is ready for; bits
    CAN_READ = 1
    CAN_WRITE = 2
    ENDS = 4  # its end is behind what can be read
    HUNG_UP = 8
    BROKEN = 16


cdef inline int fail_side(Side *side, int what, int error) noexcept nogil:
    """Record the first failure of a connection: a Failure and an errno.  Returns -1."""
    return record_fault(&side.connection.fault, what, side.index, error, 0)


cdef inline int readiness(uint32_t events) noexcept nogil:
    """Return the Ready bits of epoll's events."""
    return ((CAN_READ if events & EPOLLIN else 0) | (CAN_WRITE if events & EPOLLOUT else 0)
            | (ENDS if events & EPOLLRDHUP else 0) | (HUNG_UP if events & EPOLLHUP else 0)
            | (BROKEN if events & EPOLLERR else 0))


# How far it has come.


cdef inline size_t unsent(Side *side) noexcept nogil:
    """Return the bytes accepted by `write_side` that aren't sent."""
    return side.channel.unsent if side.stream == NULL else side.stream.unsent


cdef inline bint is_blocked(Side *side) noexcept nogil:
    """Whether nothing may be written before more has been read."""
    return side.channel.midway if side.stream == NULL else side.stream.is_blocked


cdef inline bint is_deaf(Side *side) noexcept nogil:
    """Whether nothing can be written any more."""
    if side.stream != NULL:
        return side.stream.is_deaf
    return side.channel.gone or side.channel.failed != F_NONE


cdef inline bint is_ready(Side *side) noexcept nogil:
    """Whether to call `read_side` without an event: it has bytes, the end or a failure by now."""
    if side.stream != NULL:
        return side.stream.is_ready
    return (side.channel.early_size or side.channel.ended or side.channel.failed != F_NONE
            or side.channel.gone)


cdef inline size_t undelivered(Side *side) noexcept nogil:
    """Return the bytes that a reset of the side would drop in the kernel."""
    return in_kernel(&side.channel) if side.stream == NULL else side.stream.undelivered


cdef inline int receive_size(Side *side) noexcept nogil:
    """Return for how many bytes the next `read_side` counts where they are bounded: those that it
    asks for, RECEIVE_SIZE at least."""
    return max(side.channel.receive_size, <int>RECEIVE_SIZE)


# Reading.


cdef inline ssize_t read_side(Side *side, Received *received, int ready) noexcept nogil:
    """Read application bytes, one receive's worth; `ready` has what epoll says of the side."""
    if side.stream != NULL:
        return side.stream.carrier.read(side, received)
    return read_channel(&side.channel, received, ready)


cdef inline ssize_t read_channel(Channel *channel, Received *received,
                                 int ready) noexcept nogil:
    """Read from a channel of its own.  Returns as `read_side`."""
    cdef ssize_t size
    received.more = False
    received.end = END_UNKNOWN
    if channel.early_size:
        received.data = plaintext_of(channel)
        size = read_early(channel)
    elif channel.ended:
        return READ_ENDED
    elif channel.failed != F_NONE:
        return fail_read(channel)
    else:
        size = receive(channel, received)
        if size <= 0:
            return size
    if channel.ssl != NULL:
        received.end = END_CERTAIN if channel.ended else END_UNKNOWN
    elif ready & ENDS and not ready & BROKEN and not received.more:
        received.end = END_LIKELY
    return size


cdef inline ssize_t read_early(Channel *channel) noexcept nogil:
    """Move `early` to `plaintext_of` the channel.  Returns the number of bytes."""
    cdef size_t size
    cdef char *early = take_early(channel, &size)
    memcpy(plaintext_of(channel), early, size)
    free(early)
    return size


cdef inline ssize_t receive(Channel *channel, Received *received) noexcept nogil:
    """Read from the socket, and decrypt where there is TLS.  Returns as `read_side`."""
    cdef ssize_t most = channel.receive_size
    cdef ssize_t size = receive_raw(channel, most)
    if size == -1:
        fail(channel, F_OS, errno, 0)
        abandon_channel(channel)
        return READ_FAILED
    received.data = channel.running_on.received
    received.more = size == most
    channel.receive_size = LARGE_RECEIVE_SIZE if size >= RECEIVE_SIZE else RECEIVE_SIZE
    if size <= 0 and channel.gone:
        return READ_FAILED  # its error was taken from the kernel, which calls this the end now
    if channel.ssl == NULL or size == READ_NOT_NOW:
        return size
    if size == 0:
        return fail(channel, F_TRUNCATED, 0, 0)
    return receive_records(channel, received, size, most)


cdef inline ssize_t receive_records(Channel *channel, Received *received, ssize_t got,
                                    ssize_t most) noexcept nogil:
    """Decrypt the `got` bytes in the thread's receive buffer.  Returns as `read_side`."""
    cdef ssize_t size
    if begin_feed(channel, channel.running_on.received, got) < 0:
        return READ_FAILED
    size = decrypt(channel)
    if size < 0:
        return fail_read(channel)
    end_feed(channel)
    if 2 * size < got and (got > RECORD_SIZE or most == SMALL_RECEIVE_SIZE):
        channel.receive_size = SMALL_RECEIVE_SIZE  # mostly neither data nor part of a record
    if channel.failed != F_NONE:
        fail(channel, channel.failed, 0, channel.code)
    if not channel.gone and send_output(channel) < 0:  # the answer to a KeyUpdate
        abandon_channel(channel)
    received.data = plaintext_of(channel)
    if size == 0 and not channel.ended:
        return READ_NOT_DATA
    return size


cdef inline int discard(Side *side) noexcept nogil:
    """Read one receive's worth of what can't be passed on, and forget it.  Returns the number of
    bytes, or what `read_side` returns.  Without a carrier no failure is recorded."""
    cdef Channel *channel = &side.channel
    cdef Received received
    cdef size_t early_size
    cdef ssize_t size = 0
    if side.stream != NULL:
        return <int>side.stream.carrier.read(side, &received)
    free(take_early(channel, &early_size))
    if not channel.ended and channel.failed == F_NONE:
        size = receive_raw(channel, RECEIVE_SIZE)
    if size == READ_NOT_NOW and channel.gone:
        return READ_ENDED
    return <int>size


cdef inline void limit_receive(Side *side) noexcept nogil:
    """Have the next receive ask for RECEIVE_SIZE at most: the other side didn't take more."""
    side.channel.receive_size = min(side.channel.receive_size, <int>RECEIVE_SIZE)


# Writing.


cdef inline int write_side(Side *side, const char *data, size_t size, int end) noexcept nogil:
    """Write application bytes; what can't be sent now is `unsent`.  `end` (an End) says whether our
    end follows at once: then the bytes wait for it, and share its segment.  END_LIKELY is enough
    under TLS, where `uncork` can send them; without, the kernel holds them until the end."""
    if side.stream != NULL:
        return side.stream.carrier.write(side, data, size, end)
    side.channel.corked = end == (END_CERTAIN if side.channel.ssl == NULL else END_LIKELY)
    return write_channel(&side.channel, data, size)


cdef inline int uncork(Side *side) noexcept nogil:
    """Send what `write_side` held back and no end has followed.  Returns 0 or -1."""
    cdef Channel *channel = &side.channel
    if not channel.corked or channel.ending or channel.ssl == NULL:
        return 0
    channel.corked = False
    return send_output(channel)


cdef inline int flush_side(Side *side) noexcept nogil:
    """Send more of what is unsent.  Returns 0 or -1."""
    if side.stream != NULL:
        return -1 if side.stream.is_deaf else 0  # its carrier sends by itself
    return flush(&side.channel)


cdef inline int flush_handshake(Side *side) noexcept nogil:
    """Send the last records of the handshake, if no data has taken them along.  Returns 0 or -1."""
    if side.channel.ssl == NULL or side.channel.gone:
        return 0
    return send_output(&side.channel)


cdef inline int finish_side(Side *side) noexcept nogil:
    """Send our end behind what is unsent; of some streams it is held until `end_due`."""
    if side.stream != NULL:
        return side.stream.carrier.finish(side)
    return finish_channel(&side.channel)


cdef inline double end_due(Side *side) noexcept nogil:
    """Return when `finish_side` is to be called again, because our end is held; 0: it isn't."""
    cdef Stream *stream = side.stream
    if stream == NULL or stream.end_held_at == 0:
        return 0
    if stream.read_at >= stream.wrote_at:  # what was asked is being answered, or was
        return stream.read_at + min(stream.end_delay, END_DELAY_ANSWERED_S)
    return max(stream.end_held_at, stream.read_at) + stream.end_delay


# Events.


cdef inline int want(Side *side, bint reading, bint writing) noexcept nogil:
    """Have epoll report the side when it can be read (`reading`), or written."""
    if side.stream != NULL:
        return side.stream.carrier.want(side, reading, writing)
    return watch(
        &side.channel, (READ_EVENTS if reading else 0) | (EPOLLOUT if writing else 0))


cdef inline bint take_failure(Side *side, int ready) noexcept nogil:
    """Note that a side has hung up that is neither read nor written now.  Returns whether it has
    failed (BROKEN); the reason is then recorded."""
    side.channel.hung_up = True
    if not ready & BROKEN:
        return False
    if side.stream == NULL:
        fail(&side.channel, F_OS, pending_error(&side.channel), 0)
    return True


# The end.


cdef inline void abandon_channel(Channel *channel) noexcept nogil:
    """Note that the socket takes no more bytes, and forget those that are unsent."""
    channel.gone = channel.hung_up = True
    channel.midway = channel.corked = False
    drop_backlog(channel)


cdef inline void abandon_side(Side *side) noexcept nogil:
    """Write nothing any more, and forget what is unsent; what came before is still read."""
    if side.stream != NULL:
        side.stream.carrier.abandon(side)
    else:
        abandon_channel(&side.channel)


cdef inline void reset_side(Side *side) noexcept nogil:
    """End the side with a reset: nothing is read or written any more."""
    if side.stream != NULL:
        side.stream.carrier.reset(side)
        return
    close_channel(&side.channel, False)
    side.channel.gone = side.channel.hung_up = True


cdef inline void stop_reading(Side *side) noexcept nogil:
    """Note that nothing more is read: a TLS message of which a part has come blocks no writing."""
    if side.stream == NULL:
        side.channel.midway = False


cdef inline bint is_finished(Side *side) noexcept nogil:
    """Whether our end was sent."""
    if side.stream != NULL:
        return side.stream.is_finished and side.stream.unsent == 0
    return side.channel.ending and side.channel.unsent == 0


cdef inline void record_failure(Side *side) noexcept nogil:
    """Record why the side has failed, if it has and nothing is recorded yet."""
    if side.channel.failed != F_NONE:
        fail(&side.channel, side.channel.failed, 0, side.channel.code)
    elif side.channel.gone:
        fail(&side.channel, F_OS, side.channel.error, 0)


cdef inline unsigned long alert_of(Side *side) noexcept nogil:
    """Return OpenSSL's error if the side has failed by an alert that the peer sent; or 0."""
    cdef unsigned long code = side.channel.code
    if side.channel.failed == F_NONE:
        return 0
    # ERR_LIB_SSL, and a reason above SSL_AD_REASON_OFFSET
    return code if ((code >> 23) & 0xFF) == 20 and 1000 <= (code & 0x7FFFFF) < 1256 else 0


cdef inline bint is_tls_client(Side *side) noexcept nogil:
    """Whether we are the TLS client on this side."""
    return side.channel.tls_setup.client


cdef inline void trim_side(Side *side) noexcept nogil:
    """Free what only the handshake needed."""
    trim(&side.channel)
