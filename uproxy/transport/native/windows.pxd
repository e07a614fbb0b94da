"""The windows of a session: how much the peer may send, on a stream and on all together.

A stream's window is given back as the stream is read, the connection's when bytes come, so that a
stream that isn't read stops only itself.  When all streams together keep UNREAD_WINDOWS times the
connection's window, that too is given back only as they are read.  Both are given back in halves.

A stream that is read quickly gets a larger window: twice as large whenever half of it was read
within FAST_MS.  The connection's grows with it, but by no more than is read: a stream that has
stalled holds nothing of another's.  Open streams have equal shares of what a session may grow by,
so that a stream grows little on a tunnel where many others wait behind its bytes.

A share bounds what a stream may still grow by.  One that has grown and is quiet keeps that until it
ends, because the peer may send it at any time.  So that such streams don't keep everything from
other sessions, each session leaves as much of what all may grow by as it has itself.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from uproxy.transport.native.system cimport word_add, word_get
from uproxy.transport.native.frames cimport WINDOW_UPDATE_FRAME, put_number_frame
from uproxy.transport.native.streams cimport H2Stream, Session, milliseconds

cdef enum:
    UNREAD_WINDOWS = 4
    LEAST_RETURNED = 4096  # bytes that the connection's window gets back at least
    EXTRA_WINDOWS = 4  # of the connection, by which the streams of a session grow at most
    MOST_EXTRA = 4 * 1024 * 1024  # bytes, however large that is
    MOST_EXTRA_OF_ALL = 16 * 1024 * 1024  # bytes, of all sessions that share `extra_of_all`
    FAST_MS = 250
    SLOW_MS = 1000  # in which half of a window isn't read: the stream loses what it has grown by


# The connection's.


cdef inline bint take_window(Session *session, uint32_t size) noexcept nogil:
    """Count bytes of DATA that the peer sends.  False: they exceed the connection's window."""
    if size > session.receive_window:
        return False
    session.receive_window -= size
    session.unread += size
    return True


cdef inline uint64_t unread_most(Session *session) noexcept nogil:
    """Return how much may be unread before the peer gets back only what is read."""
    return <uint64_t>UNREAD_WINDOWS * session.settings.connection_window + session.extra


cdef inline bint is_overfull(Session *session) noexcept nogil:
    """Whether so much is unread that the peer gets back only what is read."""
    return session.unread > unread_most(session)


cdef inline uint32_t owed(Session *session) noexcept nogil:
    """Return the unread bytes that the peer gets back when they are read: as many as windows have
    grown by, and those above `unread_most`."""
    cdef uint64_t most = unread_most(session)
    cdef uint32_t above = <uint32_t>(session.unread - most) if session.unread > most else 0
    return min(session.unread, session.extra) + above


cdef inline void give_back(Session *session) noexcept nogil:
    """Give the connection's window back, if it is time."""
    cdef int64_t whole = <int64_t>session.settings.connection_window + session.extra
    cdef int64_t unreturned = whole - session.receive_window - owed(session)
    if unreturned < max(session.receive_window, <uint32_t>LEAST_RETURNED) or session.broken_by:
        return
    session.budgets.replies += 1
    put_number_frame(&session.output, WINDOW_UPDATE_FRAME, 0, <uint32_t>unreturned)
    session.receive_window += <uint32_t>unreturned


cdef inline void note_gone(Session *session, uint32_t size) noexcept nogil:
    """Count received bytes that were read, or that nobody wants."""
    session.unread -= size
    give_back(session)


# A stream's.


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
    if stream.receive_ended or not stream.is_open or session.broken_by:
        if not stream.unread:
            drop_extra(session, stream)
        return
    if not stream.unreturned or stream.unreturned < stream.window // 2:
        return
    resize(session, stream)
    if not stream.unreturned:
        return
    session.budgets.replies += 1
    put_number_frame(&session.output, WINDOW_UPDATE_FRAME, stream.id, stream.unreturned)
    stream.receive_window += <int32_t>stream.unreturned
    stream.unreturned = 0


# What a stream's window has grown by is its `extra`.


cdef inline uint32_t extra_of(Session *session, H2Stream *stream) noexcept nogil:
    """Return the bytes by which a stream's window has grown."""
    return stream.window - session.own_window


cdef inline uint32_t most_extra(Session *session) noexcept nogil:
    """Return the bytes by which the windows of all streams may grow together."""
    return <uint32_t>min(
        <uint64_t>EXTRA_WINDOWS * session.settings.connection_window, <uint64_t>MOST_EXTRA)


cdef inline void resize(Session *session, H2Stream *stream) noexcept nogil:
    """Make a stream's window larger or smaller by how long it took to read half of it."""
    cdef uint32_t now = milliseconds(session.now)
    cdef uint32_t took = now - stream.returned_at
    cdef uint32_t before = extra_of(session, stream)
    cdef uint32_t extra = before
    stream.returned_at = now
    if took > SLOW_MS:
        extra = 0
    elif took < FAST_MS and not stream.unread:
        extra += stream.window
    extra = min(extra, most_extra(session) // max(session.open_streams, <uint32_t>1))
    if extra > before:
        grow(session, stream, extra - before)
    else:
        # no further than to what it would get back: the rest is out of our hands
        extra = min(before - extra, stream.unreturned)
        stream.unreturned -= extra
        shrink(session, stream, extra)


cdef inline uint32_t left_for(Session *session) noexcept nogil:
    """Return by how much a session may grow, and leave other sessions as much as it has then."""
    cdef int left = <int>MOST_EXTRA_OF_ALL - word_get(session.settings.extra_of_all)
    return <uint32_t>(max(left - <int>session.extra, 0) // 2)


cdef inline void grow(Session *session, H2Stream *stream, uint32_t by) noexcept nogil:
    """Let a stream's window grow, as far as those of all sessions together may."""
    cdef int *of_all = session.settings.extra_of_all
    cdef uint32_t above
    by = min(by, most_extra(session) - session.extra)
    if of_all != NULL:
        by = min(by, left_for(session))
        above = <uint32_t>max(word_add(of_all, <int>by) - <int>MOST_EXTRA_OF_ALL, 0)
        if above:
            above = min(above, by)
            word_add(of_all, -<int>above)
            by -= above
    session.extra += by
    stream.window += by
    stream.unreturned += by


cdef inline void shrink(Session *session, H2Stream *stream, uint32_t by) noexcept nogil:
    """Let other streams grow by what one has grown by."""
    session.extra -= by
    stream.window -= by
    if by and session.settings.extra_of_all != NULL:
        word_add(session.settings.extra_of_all, -<int>by)


cdef inline void drop_extra(Session *session, H2Stream *stream) noexcept nogil:
    """Let other streams grow by what one has grown by on which nothing more comes."""
    shrink(session, stream, extra_of(session, stream))
