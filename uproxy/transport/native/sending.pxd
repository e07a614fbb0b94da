"""What a session sends: everything goes to one growing output, which its caller sends in one piece.

Bytes of an application become DATA frames as far as the windows allow, and while the output is
shorter than MAX_OUTPUT; the rest waits in the stream, and the streams that wait take turns.  A
DATA frame that is the last in the output grows by what follows on its stream, and one that is
still there takes the END_STREAM: peers charge for small and empty frames.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from uproxy.transport.native.frames cimport (
    DATA_FRAME, END_STREAM_FLAG, FRAME_HEADER, MAX_FRAME, append, put_frame, put_number,
)
from uproxy.transport.native.budgets cimport FLOOD_WINDOW_UPDATES, UPDATES_PER_DATA, allow_more
from uproxy.transport.native.streams cimport H2Stream, Session, keep, take

cdef enum:
    MAX_OUTPUT = 256 * 1024  # bytes, from which on no DATA frames are added
    MAX_STREAK = 4 * MAX_FRAME  # of one stream: who receives them can pass them on in one piece
    MAX_IDLE_OUTPUT_ROOM = 4 * 1024  # bytes that an output keeps when its tunnel is quiet

    MOST_BEFORE_SETTINGS = 100  # streams, before the peer has said how many (RFC 9113 §6.5.2)
    SILLY = 256  # bytes


cdef inline bint can_send(Session *session, H2Stream *stream) noexcept nogil:
    """Whether DATA may still be sent on a stream."""
    return is_sending(session, stream) and (stream.is_answered or not session.server)


cdef inline bint is_sending(Session *session, H2Stream *stream) noexcept nogil:
    """Whether frames may still be sent on a stream."""
    return not (stream.was_reset or stream.send_ended or stream.finishing or session.broken_by)


# The list of streams that send when the connection's window and the output have room.


cdef inline void get_ready(Session *session, H2Stream *stream) noexcept nogil:
    """Put a stream at the end of the list, if it has something to send and may."""
    if stream.is_ready or not stream.waiting.size or stream.send_window <= 0:
        return
    stream.is_ready = True
    stream.ready_before, stream.ready_after = session.last_ready, NULL
    if session.last_ready == NULL:
        session.first_ready = stream
    else:
        session.last_ready.ready_after = stream
    session.last_ready = stream


cdef inline void leave_ready(Session *session, H2Stream *stream) noexcept nogil:
    """Take a stream out of the list."""
    if not stream.is_ready:
        return
    stream.is_ready = False
    if stream.ready_before == NULL:
        session.first_ready = stream.ready_after
    else:
        stream.ready_before.ready_after = stream.ready_after
    if stream.ready_after == NULL:
        session.last_ready = stream.ready_before
    else:
        stream.ready_after.ready_before = stream.ready_before


# DATA.


cdef inline void count_data(Session *session, H2Stream *stream, uint32_t size) noexcept nogil:
    """Take so many bytes from the windows."""
    stream.send_window -= <int32_t>size
    session.send_window -= size


cdef inline uint32_t grow_data(Session *session, H2Stream *stream, const char *data,
                               uint32_t most) noexcept nogil:
    """Add bytes to the stream's last frame, if it is the last in the output.  Returns how many."""
    cdef uint32_t size
    if (stream.last_data_turn != session.turn or not stream.last_data_size
            or stream.last_data + FRAME_HEADER + stream.last_data_size != session.output.size):
        return 0
    size = min(most, MAX_FRAME - stream.last_data_size)
    append(&session.output, data, size)
    if session.output.lost:
        return 0
    stream.last_data_size += size
    put_number(<uint8_t *>session.output.data + stream.last_data,
               stream.last_data_size << 8 | DATA_FRAME)
    count_data(session, stream, size)
    return size


cdef inline void begin_data(Session *session, H2Stream *stream, const char *data,
                            uint32_t size) noexcept nogil:
    """Add a DATA frame."""
    stream.last_data = <uint32_t>session.output.size
    stream.last_data_size, stream.last_data_turn = size, session.turn
    put_frame(&session.output, DATA_FRAME, 0, stream.id, 0)
    append(&session.output, data, size)
    if session.output.lost:
        return
    put_number(<uint8_t *>session.output.data + stream.last_data, size << 8 | DATA_FRAME)
    count_data(session, stream, size)


cdef inline void allow_updates(Session *session, int frames, size_t sent,
                               size_t size) noexcept nogil:
    """Let the peer send the WINDOW_UPDATEs that belong to some DATA frames with `sent` bytes of
    `size`.  Who allows less than SILLY at a time, where there is more, gets none for it."""
    if sent == size or sent >= SILLY:
        allow_more(&session.budgets, FLOOD_WINDOW_UPDATES, UPDATES_PER_DATA * frames)


cdef inline uint32_t sendable(Session *session, H2Stream *stream, size_t size) noexcept nogil:
    """Return how many of `size` bytes may be sent in one frame now."""
    cdef int64_t most = min(<int64_t>stream.send_window, session.send_window)
    if session.output.size >= MAX_OUTPUT or session.output.lost or most <= 0:
        return 0
    return <uint32_t>min(min(<int64_t>size, most), <int64_t>MAX_FRAME)


cdef inline size_t send_some(Session *session, H2Stream *stream, const char *data,
                             size_t size) noexcept nogil:
    """Send as much as may be sent.  Returns how many bytes."""
    cdef size_t sent = 0
    cdef uint32_t most = sendable(session, stream, size)
    cdef int frames = 0
    if most:
        sent = grow_data(session, stream, data, most)
    while sent < size:
        most = sendable(session, stream, size - sent)
        if most == 0:
            break
        begin_data(session, stream, data + sent, most)
        sent += most
        frames += 1
    allow_updates(session, frames, sent, size)
    return sent


cdef inline int send_data(Session *session, H2Stream *stream, const char *data,
                          size_t size) noexcept nogil:
    """Take bytes of an application, all of them: what can't be sent now waits.  Returns 0; -1: the
    stream takes none any more, or there is no memory."""
    cdef size_t sent = 0
    if not can_send(session, stream):
        return -1
    if not stream.waiting.size:
        sent = send_some(session, stream, data, size)
    if sent < size:
        if not keep(&stream.waiting, data + sent, <uint32_t>(size - sent)):
            session.output.lost = True
        get_ready(session, stream)
    return -1 if session.output.lost else 0


cdef inline int finish_stream(Session *session, H2Stream *stream) noexcept nogil:
    """Send END_STREAM behind all that waits.  Returns 0; -1: the stream was reset, or there is no
    memory."""
    if stream.send_ended or stream.finishing:
        return 0
    if not can_send(session, stream):
        return -1
    stream.finishing = True
    if not stream.waiting.size:
        put_end(session, stream)
    return -1 if session.output.lost else 0


cdef inline void put_end(Session *session, H2Stream *stream) noexcept nogil:
    """Send END_STREAM, on the stream's last frame if that is in the output."""
    stream.finishing, stream.send_ended = False, True
    if stream.last_data_turn == session.turn and stream.last_data_size:
        session.output.data[stream.last_data + 4] |= END_STREAM_FLAG
    else:
        put_frame(&session.output, DATA_FRAME, END_STREAM_FLAG, stream.id, 0)
    note_both_ends(session, stream)


cdef inline void note_both_ends(Session *session, H2Stream *stream) noexcept nogil:
    """Stop counting a stream of which both ends have passed."""
    if stream.is_open and stream.send_ended and stream.receive_ended:
        stream.is_open = False
        session.open_streams -= 1


cdef inline void send_waiting(Session *session) noexcept nogil:
    """Send what waits as far as windows and output have room, MAX_STREAK of one stream and then of
    another; then tell the streams of which less waits."""
    cdef H2Stream *stream
    cdef size_t size
    while session.first_ready != NULL:
        stream = session.first_ready
        size = send_some(session, stream, stream.waiting.data + stream.waiting.at,
                         min(stream.waiting.size, <uint32_t>MAX_STREAK))
        if size == 0:
            break  # a stream without a window isn't in the list: this is the connection's
        leave_ready(session, stream)
        take(&stream.waiting, <uint32_t>size)
        if stream.waiting.size:
            get_ready(session, stream)
        elif stream.finishing:
            put_end(session, stream)
        note_moved(session, stream)
    tell_moved(session)


cdef inline void note_moved(Session *session, H2Stream *stream) noexcept nogil:
    """Put a stream in the list of those to be told that less waits."""
    if not stream.has_moved:
        stream.has_moved = True
        stream.moved_after = session.first_moved
        session.first_moved = stream


cdef inline void forget_moved(Session *session, H2Stream *stream) noexcept nogil:
    """Take a stream out of that list."""
    cdef H2Stream **at = &session.first_moved
    if not stream.has_moved:
        return
    while at[0] != stream:
        at = &at[0].moved_after
    at[0] = stream.moved_after
    stream.has_moved = False


cdef inline void tell_moved(Session *session) noexcept nogil:
    """Tell the streams in that list."""
    cdef H2Stream *stream
    while session.first_moved != NULL:
        stream = session.first_moved
        forget_moved(session, stream)
        session.calls.on_writable(session, stream)
