"""A stream of a tunnel, as a relay sees it: the functions of a side's `Carrier`.

Its end is END_STREAM each way, a reset RST_STREAM, back-pressure the window.  Bytes that came
before a reset are read before it is reported.  A RST_STREAM of ours goes the way of the bytes
before it and doesn't overtake them, so nothing of it is ever undelivered.
"""

from libc.errno cimport ECONNRESET, ENOLINK, ETIMEDOUT
from libc.stdlib cimport calloc, free

from uproxy.transport.native.frames cimport (
    H2_CANCEL, H2_CONNECT_ERROR, H2_NO_ERROR, H2_REFUSED_STREAM,
)
from uproxy.transport.native.streams cimport H2Stream
from uproxy.transport.native.reading cimport ends_here, is_readable, read_stream
from uproxy.transport.native.sending cimport finish_stream, send_data
from uproxy.transport.native.verbs cimport answer_stream, release_stream, reset_stream
from uproxy.transport.native.codes cimport (
    F_EVICTED, F_FULL, F_MEMORY, F_OS, F_SOURCE_FULL, MAX_STRANDINGS,
)
from uproxy.transport.native.types cimport (
    Carrier, Connection, Fault, Received, Side, Stream, Tunnel, Worker,
)
from uproxy.transport.native.side cimport (
    END_CERTAIN, END_UNKNOWN, READ_ENDED, READ_FAILED, READ_NOT_NOW, end_due, fail_side,
)
from uproxy.transport.native.relay cimport is_closing
from uproxy.transport.native.tunnel cimport mark_dirty, note_streams

cdef enum:  # HTTP statuses
    STATUS_OK = 200
    STATUS_UNAVAILABLE = 503
    STATUS_REFUSED = -1  # none: the stream is reset with REFUSED_STREAM


# A side becomes a stream, and ceases to be one.


cdef inline bint start_stream(Side *side, Worker *worker) noexcept nogil:
    """Make a side that has no socket a stream, on no tunnel yet.  False: no memory."""
    side.stream = <Stream *>calloc(1, sizeof(Stream))
    if side.stream == NULL:
        return False
    side.stream.carrier = &worker.shared.stream_calls
    return True


cdef inline void forget_stream(Side *side) noexcept nogil:
    """Free what a side has as a stream; it is none afterwards."""
    free(side.stream)
    side.stream = NULL


cdef inline void join_tunnel(Side *side, Tunnel *tunnel) noexcept nogil:
    """Let an upstream side, which is a stream, wait for a tunnel to be ready."""
    side.stream.tunnel = tunnel
    side.stream.before, side.stream.after = tunnel.last_waiting, NULL
    if tunnel.last_waiting != NULL:
        tunnel.last_waiting.stream.after = side
    else:
        tunnel.waiting = side
    tunnel.last_waiting = side
    tunnel.waiting_count += 1
    note_streams(tunnel)


cdef inline void leave_waiting(Side *side) noexcept nogil:
    """Take a side off the list of those that wait for its tunnel to be ready."""
    cdef Tunnel *tunnel = side.stream.tunnel
    if side.stream.before != NULL:
        side.stream.before.stream.after = side.stream.after
    else:
        tunnel.waiting = side.stream.after
    if side.stream.after != NULL:
        side.stream.after.stream.before = side.stream.before
    else:
        tunnel.last_waiting = side.stream.before
    tunnel.waiting_count -= 1
    side.stream.tunnel = NULL
    note_streams(tunnel)


cdef inline void begin_stream(Side *side, Tunnel *tunnel, H2Stream *h2) noexcept nogil:
    """Open a side, which is a stream, on a tunnel."""
    side.stream.tunnel, side.stream.h2 = tunnel, h2
    side.stream.read_at = side.connection.worker.now
    side.stream.before, side.stream.after = NULL, tunnel.open
    if tunnel.open != NULL:
        tunnel.open.stream.before = side
    tunnel.open = side
    h2.owner = side
    note_streams(tunnel)


cdef inline void end_stream(Side *side) noexcept nogil:
    """Take an open stream off its tunnel, and forget it; if it isn't over, it is reset."""
    cdef Tunnel *tunnel = side.stream.tunnel
    if side.stream.before != NULL:
        side.stream.before.stream.after = side.stream.after
    else:
        tunnel.open = side.stream.after
    if side.stream.after != NULL:
        side.stream.after.stream.before = side.stream.before
    release_stream(&tunnel.session, side.stream.h2)
    forget_stream(side)
    note_streams(tunnel)


# What happens to it.


cdef inline void answer_connect(Side *side) noexcept nogil:
    """Answer a caller's CONNECT with 200, if the side is a stream: bytes may pass."""
    if side.stream == NULL or side.stream.is_deaf:
        return
    answer_stream(&side.stream.tunnel.session, side.stream.h2, STATUS_OK, NULL, 0, False)
    mark_dirty(side.stream.tunnel)


cdef inline int error_of(Side *side) noexcept nogil:
    """Return the errno with which a stream is lost: of a reset, of a peer that has vanished, or
    (ENOLINK) of a tunnel that was lost with all its streams."""
    cdef Fault *fault
    if side.stream.h2 == NULL or side.stream.h2.was_reset:
        return ECONNRESET
    fault = &side.stream.tunnel.connection.fault
    return ETIMEDOUT if fault.what == F_OS and fault.error == ETIMEDOUT else ENOLINK


cdef inline void lose_stream(Side *side) noexcept nogil:
    """Note that the stream was reset, or its tunnel lost: what it holds is still read."""
    side.stream.is_deaf = side.stream.is_ready = True
    side.stream.unsent, side.stream.end_held_at = 0, 0
    side.channel.error = error_of(side)  # as a socket's, before the relay


cdef inline void strand(Side *side) noexcept nogil:
    """Note, of one of ours through an L7 proxy (only those have an `end_delay`), that its tunnel is
    lost, unless bytes or an end wait to be read.  One that was reset before has been refused."""
    cdef H2Stream *h2 = side.stream.h2
    side.stream.is_stranded = (
        side.index == 1 and side.stream.end_delay != 0 and not h2.unread
        and not h2.receive_ended and not h2.was_reset)


cdef inline bint is_movable(Connection *connection) noexcept nogil:
    """Whether another stream may take the place of one that is stranded: an L7 proxy answers a
    CONNECT before it dials, and neither a byte nor an end has passed."""
    cdef Stream *stream = connection.sides[1].stream
    return (
        stream != NULL and stream.is_stranded and connection.strandings < MAX_STRANDINGS
        and connection.counts[0] == 0 and connection.counts[1] == 0
        and not is_closing(connection))


cdef inline void content_stream(Side *side) noexcept nogil:
    """Note that the peer, which has ended, wants no more bytes: what is written is dropped.  Envoy
    says so with RST_STREAM(NO_ERROR) behind its end (RFC 9113 §8.1)."""
    side.stream.is_content = side.stream.is_finished = side.stream.is_ready = True
    side.stream.unsent, side.stream.end_held_at = 0, 0


cdef inline int fail_stream(Side *side) noexcept nogil:
    """Record that a stream can't be used any more.  Returns -1."""
    lose_stream(side)
    return fail_side(side, F_OS, side.channel.error)


cdef inline int fail_write(Side *side) noexcept nogil:
    """Record why the session has taken no bytes.  Returns -1."""
    if side.stream.tunnel.session.output.lost:
        return fail_side(side, F_MEMORY, 0)
    return fail_stream(side)


# What its carrier's functions do.


cdef inline ssize_t read_carried(Side *side, Received *received) noexcept nogil:
    """Read as `read_side` says."""
    cdef Stream *stream = side.stream
    cdef ssize_t size = READ_FAILED
    received.more, received.end = False, END_UNKNOWN
    if stream.h2 != NULL:
        # how long it took to read decides about the window, and the peer may have sent nothing
        stream.tunnel.session.now = side.connection.worker.now
        size = read_stream(&stream.tunnel.session, stream.h2, &received.data)
        stream.is_ready = is_readable(&stream.tunnel.session, stream.h2)
    if size > 0:
        stream.read_at = side.connection.worker.now
        received.more = stream.is_ready
        received.end = END_CERTAIN if ends_here(stream.h2) else END_UNKNOWN
        mark_dirty(stream.tunnel)  # windows are given back
        return size
    if size == READ_FAILED and stream.is_content:
        return READ_ENDED
    if size == READ_FAILED:
        fail_stream(side)
    return size


cdef inline int write_carried(Side *side, const char *data, size_t size,
                              int _end) noexcept nogil:
    """Write as `write_side` says."""
    cdef Stream *stream = side.stream
    if stream.is_content:
        return 0
    if stream.h2 == NULL or stream.is_deaf:
        return fail_stream(side)
    stream.wrote_at = side.connection.worker.now
    if send_data(&stream.tunnel.session, stream.h2, data, size) < 0:
        return fail_write(side)
    stream.unsent = stream.h2.waiting.size
    mark_dirty(stream.tunnel)
    return 0


cdef inline int finish_carried(Side *side) noexcept nogil:
    """Send END_STREAM, as `finish_side` says, unless it has to wait for the peer's.  An L7 proxy
    that gets our end while a request is in flight drops the answer; who has sent nothing has
    asked for none."""
    cdef Stream *stream = side.stream
    if stream.is_content:
        return 0
    if stream.h2 == NULL or stream.is_deaf:
        return fail_stream(side)
    if stream.end_delay and stream.wrote_at != 0 and not stream.h2.receive_ended:
        if stream.end_held_at == 0:
            stream.end_held_at = side.connection.worker.now
        if side.connection.worker.now < end_due(side):
            return 0
    stream.end_held_at = 0
    if finish_stream(&stream.tunnel.session, stream.h2) < 0:
        return fail_write(side)
    stream.is_finished = True
    stream.unsent = stream.h2.waiting.size
    mark_dirty(stream.tunnel)
    return 0


cdef inline int want_carried(Side *_side, bint _reading, bint _writing) noexcept nogil:
    """Return 0: what comes is always taken, the window bounds it."""
    return 0


cdef inline void abandon_carried(Side *side) noexcept nogil:
    """Write nothing any more."""
    lose_stream(side)


cdef inline void reset_carried(Side *side) noexcept nogil:
    """Send RST_STREAM: as a server CONNECT_ERROR, because our TCP connection has failed (RFC 9113
    §8.5), as a client CANCEL."""
    if side.stream.h2 != NULL:
        reset_stream(&side.stream.tunnel.session, side.stream.h2,
                     H2_CANCEL if side.index == 1 else H2_CONNECT_ERROR)
        mark_dirty(side.stream.tunnel)
    lose_stream(side)


cdef inline void close_carried(Side *side, bint orderly) noexcept nogil:
    """End the side as `close_side` says; a CONNECT without an answer gets one."""
    cdef Stream *stream = side.stream
    if stream.tunnel == NULL:
        forget_stream(side)
    elif stream.h2 == NULL:
        leave_waiting(side)
        forget_stream(side)
    else:
        if side.index == 0 and not stream.h2.is_answered:
            refuse_connect(side)
        elif not orderly:
            reset_carried(side)
        elif stream.h2.receive_ended and not stream.h2.send_ended:
            reset_stream(&stream.tunnel.session, stream.h2, H2_NO_ERROR)
        end_stream(side)


cdef inline void refuse_connect(Side *side) noexcept nogil:
    """Answer a CONNECT with the status of the refusal.  A limit's is REFUSED_STREAM, so that the
    peer may try again elsewhere (RFC 9113 §8.7)."""
    cdef Connection *connection = side.connection
    cdef int status = connection.refused_with_status
    cdef int why = connection.fault.what
    if why == F_FULL or why == F_SOURCE_FULL or why == F_EVICTED:
        status = STATUS_REFUSED
    if status == STATUS_REFUSED:
        reset_stream(&side.stream.tunnel.session, side.stream.h2, H2_REFUSED_STREAM)
    else:
        answer_stream(&side.stream.tunnel.session, side.stream.h2,
                      status if status else <int>STATUS_UNAVAILABLE, NULL, 0, True)


cdef inline void fill_stream_calls(Carrier *calls) noexcept nogil:
    """Set the functions of the sides that are streams."""
    calls.read, calls.write, calls.finish = read_carried, write_carried, finish_carried
    calls.want, calls.abandon = want_carried, abandon_carried
    calls.reset, calls.close = reset_carried, close_carried
