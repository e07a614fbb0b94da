"""What a session has received for its streams: passed on without a copy if the stream is read at
once, kept otherwise.
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memmove

from uproxy.transport.native.streams cimport H2Stream, Session, free_queue, keep, take
from uproxy.transport.native.windows cimport note_read

cdef enum:
    MAX_LENT = 256 * 1024  # bytes that one read returns of those that were kept

cdef enum StreamRead:  # what `read_stream` returns, beside a number of bytes; as ReadResult
    STREAM_ENDED = 0
    STREAM_FAILED = -1
    STREAM_NOT_NOW = -2


# Reading.


cdef inline uint32_t held_by(H2Stream *stream) noexcept nogil:
    """Return how many bytes of a stream were received and not read."""
    return stream.unread


cdef inline bint is_readable(Session *session, H2Stream *stream) noexcept nogil:
    """Whether `read_stream` returns bytes, the end or a failure."""
    return (stream.unread > 0 or stream.receive_ended or stream.was_reset
            or session.broken_by != 0)


cdef inline bint ends_here(H2Stream *stream) noexcept nogil:
    """Whether the stream's end follows what was read last."""
    return stream.unread == 0 and stream.receive_ended


cdef inline ssize_t read_stream(Session *session, H2Stream *stream, char **data) noexcept nogil:
    """Read what has come on a stream.  Returns the number of bytes, or a StreamRead; the bytes are
    valid until the next call, and until the callback in which this is called returns."""
    cdef uint32_t size = stream.held.size
    if size > MAX_LENT:
        # what its reader doesn't take of these is kept again, on its side
        size = MAX_LENT
        data[0] = stream.held.data + stream.held.at
        take(&stream.held, size)
    elif size:
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
