"""What a session has received for its streams: passed on without a copy if the stream is read at
once, kept otherwise; and the windows, which bound it.

A stream's window is given back as the stream is read, the connection's when bytes come, so that a
stream that isn't read stops only itself.  When all streams together keep UNREAD_WINDOWS times the
connection's window, that too is given back only as they are read.  Both are given back in halves.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memmove

from uproxy.transport.native.frames cimport WINDOW_UPDATE_FRAME, put_number_frame
from uproxy.transport.native.streams cimport H2Stream, Session, free_queue, keep

cdef enum:
    UNREAD_WINDOWS = 4
    LEAST_RETURNED = 4096  # bytes that the connection's window gets back at least

cdef enum StreamRead:  # what `read_stream` returns, beside a number of bytes; as ReadResult
    STREAM_ENDED = 0
    STREAM_FAILED = -1
    STREAM_NOT_NOW = -2


# Windows.


cdef inline bint take_window(Session *session, uint32_t size) noexcept nogil:
    """Count bytes of DATA that the peer sends.  False: they exceed the connection's window."""
    if size > session.receive_window:
        return False
    session.receive_window -= size
    session.unread += size
    if is_overfull(session):
        session.owed += size
    else:
        session.unreturned += size
    return True


cdef inline bint is_overfull(Session *session) noexcept nogil:
    """Whether so much is unread that the peer gets back only what is read."""
    return session.unread > <uint64_t>UNREAD_WINDOWS * session.settings.connection_window


cdef inline void give_back(Session *session) noexcept nogil:
    """Give the connection's window back, if it is time."""
    cdef uint32_t least = max(session.receive_window, <uint32_t>LEAST_RETURNED)
    if session.unreturned < least or session.broken_by:
        return
    session.budgets.replies += 1
    put_number_frame(&session.output, WINDOW_UPDATE_FRAME, 0, session.unreturned)
    session.receive_window += session.unreturned
    session.unreturned = 0


cdef inline void note_gone(Session *session, uint32_t size) noexcept nogil:
    """Count received bytes that were read, or that nobody wants."""
    cdef uint32_t back = min(size, session.owed)
    session.unread -= size
    session.owed -= back
    session.unreturned += back
    give_back(session)


cdef inline void note_read(Session *session, H2Stream *stream, uint32_t size) noexcept nogil:
    """Count bytes of a stream that were read, and give its window back if it is time."""
    cdef uint32_t relief = <uint32_t>(<unsigned long>stream.shortfall * size // stream.unread)
    stream.shortfall -= relief
    session.budgets.small_data -= relief
    stream.unread -= size
    stream.unreturned += size
    give_back_of(session, stream)
    note_gone(session, size)


cdef inline void give_back_of(Session *session, H2Stream *stream) noexcept nogil:
    """Give a stream's window back, if it is time."""
    if (stream.unreturned and stream.unreturned >= session.settings.stream_window // 2
            and not stream.receive_ended and stream.is_open and not session.broken_by):
        session.budgets.replies += 1
        put_number_frame(&session.output, WINDOW_UPDATE_FRAME, stream.id, stream.unreturned)
        stream.receive_window += <int32_t>stream.unreturned
        stream.unreturned = 0


# Reading.


cdef inline uint32_t held_by(H2Stream *stream) noexcept nogil:
    """Return how many bytes of a stream were received and not read."""
    return stream.unread


cdef inline bint is_readable(H2Stream *stream) noexcept nogil:
    """Whether `read_stream` returns bytes, the end or a failure."""
    return stream.unread > 0 or stream.receive_ended or stream.was_reset


cdef inline bint ends_here(H2Stream *stream) noexcept nogil:
    """Whether the stream's end follows what was read last."""
    return stream.unread == 0 and stream.receive_ended


cdef inline ssize_t read_stream(Session *session, H2Stream *stream, char **data) noexcept nogil:
    """Read what has come on a stream.  Returns the number of bytes, or a StreamRead; the bytes are
    valid until the next call, and until the callback in which this is called returns."""
    cdef uint32_t size = stream.held.size
    if size:
        free(session.lent)
        session.lent = stream.held.data
        data[0] = stream.held.data + stream.held.at
        stream.held.data = NULL
        free_queue(&stream.held)
    elif session.run_stream == stream and session.run_size:
        size = <uint32_t>session.run_size
        data[0] = session.run
        session.run += size
        session.run_size = 0
    elif stream.receive_ended:
        return STREAM_ENDED
    else:
        return STREAM_FAILED if stream.was_reset or session.broken_by else STREAM_NOT_NOW
    note_read(session, stream, size)
    return size


cdef inline void drop_unread(Session *session, H2Stream *stream) noexcept nogil:
    """Forget what was received and not read."""
    cdef uint32_t size = stream.unread
    if session.run_stream == stream:
        session.run_stream, session.run_size = NULL, 0
    free_queue(&stream.held)
    if size:
        note_read(session, stream, size)


# A run: bytes of one stream that lie together in the buffer of `receive_frames`.


cdef inline void add_to_run(Session *session, H2Stream *stream, char *data,
                            size_t size) noexcept nogil:
    """Put bytes of a DATA frame behind the run, which is of the same stream, or empty."""
    stream.unread += <uint32_t>size
    if session.run_size == 0:
        session.run = data
    elif session.run + session.run_size != data:
        memmove(session.run + session.run_size, data, size)
    session.run_stream = stream
    session.run_size += size


cdef inline bint pass_on(Session *session) noexcept nogil:
    """Let the run be read, and keep what isn't.  False: there is no memory."""
    cdef H2Stream *stream = session.run_stream
    cdef bint is_kept = True
    if stream == NULL:
        return True
    session.calls.on_readable(session, stream)
    # NULL: released; less than before: read
    if session.run_stream != NULL and session.run_size:
        is_kept = keep(&stream.held, session.run, <uint32_t>session.run_size)
    session.run_stream = NULL
    session.run_size = 0
    return is_kept
