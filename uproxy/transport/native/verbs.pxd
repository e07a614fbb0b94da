"""What the owner of a session does with streams: open, answer, reset and release one; and take the
output.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from uproxy.transport.native.frames cimport (
    END_HEADERS_FLAG, END_STREAM_FLAG, FRAME_HEADER, H2_CANCEL, H2_NO_ERROR, H2_REFUSED_STREAM,
    HEADERS_FRAME, MAX_FRAME, MAX_ID, RST_STREAM_FRAME, append, put_frame, put_number,
    put_number_frame,
)
from uproxy.transport.native.hpack cimport put_connect, put_integer, put_status
from uproxy.transport.native.budgets cimport allow_for_stream
from uproxy.transport.native.streams cimport (
    H2Stream, Session, add_stream, free_queue, remove_stream,
)
from uproxy.transport.native.windows cimport drop_extra
from uproxy.transport.native.reading cimport drop_unread
from uproxy.transport.native.sending cimport (
    forget_moved, is_sending, leave_ready, note_both_ends, send_waiting,
)

cdef enum:
    BLOCK_ROOM = 64  # bytes of a block beside an authority and extra fields


# Headers.


cdef inline void put_table_size(Session *session) noexcept nogil:
    """Confirm the size of the peer's table, which none of our fields uses (RFC 7541 §4.2)."""
    if session.encoder_least < min(session.encoder_most, session.encoder_size):
        put_integer(&session.output, 0x20, 5, session.encoder_least)
        session.encoder_most = session.encoder_least
    if session.encoder_size != session.encoder_most:
        put_integer(&session.output, 0x20, 5, session.encoder_size)
    session.encoder_most = session.encoder_least = session.encoder_size


cdef inline uint32_t begin_headers_of(Session *session, uint32_t id,
                                   bint end) noexcept nogil:
    """Begin a HEADERS frame.  Returns where, for `end_headers`."""
    cdef uint32_t at = <uint32_t>session.output.size
    cdef uint8_t flags = END_HEADERS_FLAG | (END_STREAM_FLAG if end else 0)
    put_frame(&session.output, HEADERS_FRAME, flags, id, 0)
    put_table_size(session)
    return at


cdef inline int end_headers(Session *session, uint32_t at) noexcept nogil:
    """End the HEADERS frame that begins at `at`.  Returns 0; -1: no memory."""
    cdef size_t size = session.output.size - at - FRAME_HEADER
    if session.output.lost:
        return -1
    put_number(<uint8_t *>session.output.data + at, <uint32_t>size << 8 | HEADERS_FRAME)
    return 0


cdef inline uint32_t session_room(Session *session) noexcept nogil:
    """Return how many streams a client may open now."""
    cdef uint32_t most = min(session.peer_max_streams, session.settings.streams_per_connection)
    if (session.server or session.broken_by or session.went_away or session.is_going
            or session.open_streams >= most):
        return 0
    return min((MAX_ID - session.last_id) >> 1, most - session.open_streams)


cdef inline H2Stream *open_stream(Session *session, const char *authority, size_t size,
                                  const char *extra, size_t extra_size,
                                  void *owner) noexcept nogil:
    """Send a CONNECT; `extra` has fields written by `put_field`.  NULL: there is no room, the
    fields are too long, or there is no memory."""
    cdef H2Stream *stream
    cdef uint32_t at
    if session_room(session) == 0 or size + extra_size + BLOCK_ROOM > MAX_FRAME:
        return NULL
    stream = add_stream(session, session.last_id + 2 if session.last_id else 1)
    if stream == NULL:
        return NULL
    session.last_id = stream.id
    allow_for_stream(&session.budgets)
    stream.owner = owner
    at = begin_headers_of(session, stream.id, False)
    put_connect(&session.output, authority, size)
    append(&session.output, extra, extra_size)
    end_headers(session, at)
    return stream


cdef inline int answer_stream(Session *session, H2Stream *stream, int status, const char *extra,
                              size_t extra_size, bint end) noexcept nogil:
    """Answer a CONNECT; with `end` the stream is over.  Returns 0; -1: the stream was reset, the
    fields are too long, or there is no memory."""
    cdef uint32_t at
    if (not is_sending(session, stream) or stream.is_answered
            or extra_size + BLOCK_ROOM > MAX_FRAME):
        return -1
    stream.is_answered = True
    session.budgets.replies += 1
    at = begin_headers_of(session, stream.id, end)
    put_status(&session.output, status)
    append(&session.output, extra, extra_size)
    if end_headers(session, at) < 0:
        return -1
    if end:
        session.budgets.denied += 400 <= status < 500
        stream.send_ended = True
        note_both_ends(session, stream)
        reset_stream(session, stream, H2_NO_ERROR)  # where the client hasn't ended (RFC 9113 §8.1)
    return 0


# The end of a stream.


cdef inline void end_by_reset(Session *session, H2Stream *stream, uint32_t code) noexcept nogil:
    """A stream is over: nothing is sent on it or received any more."""
    stream.was_reset, stream.reset_code = True, code
    stream.finishing = False
    free_queue(&stream.waiting)
    leave_ready(session, stream)
    if session.data_stream == stream:
        session.data_stream = NULL
    if stream.is_open:
        stream.is_open = False
        session.open_streams -= 1


cdef inline void reset_stream(Session *session, H2Stream *stream, uint32_t code) noexcept nogil:
    """End a stream with RST_STREAM, and forget what waits; what is held can still be read."""
    if not stream.is_open or session.broken_by:
        return
    session.budgets.replies += 1
    session.budgets.refused += code == H2_REFUSED_STREAM
    put_number_frame(&session.output, RST_STREAM_FRAME, stream.id, code)
    end_by_reset(session, stream, code)


cdef inline void release_stream(Session *session, H2Stream *stream) noexcept nogil:
    """Free a stream; one that isn't over is reset with CANCEL."""
    reset_stream(session, stream, H2_CANCEL)
    if stream.is_open:
        end_by_reset(session, stream, H2_CANCEL)  # of a session that has ended itself
    drop_unread(session, stream)
    leave_ready(session, stream)
    forget_moved(session, stream)
    if session.data_stream == stream:
        session.data_stream = NULL
    drop_extra(session, stream)
    remove_stream(session, stream)


# The output.


cdef inline size_t output_of(Session *session, char **data) noexcept nogil:
    """Return what is to be sent: how many bytes, and where."""
    data[0] = session.output.data
    return session.output.size


cdef inline void drop_output_of(Session *session) noexcept nogil:
    """Forget what `output_of` has returned, because it is sent, and let waiting streams go on."""
    session.output.size = 0
    session.turn += 1
    session.budgets.replies = 0
    if not session.broken_by:
        send_waiting(session)


cdef inline uint32_t unacknowledged(Session *session, H2Stream *stream) noexcept nogil:
    """Return the bytes that were sent on a stream and that its window hasn't got back: a reset may
    drop them.  Peers give back in halves, so that it needn't become 0."""
    cdef int64_t sent = <int64_t>session.peer_window - stream.send_window
    return <uint32_t>sent if sent > 0 else 0
