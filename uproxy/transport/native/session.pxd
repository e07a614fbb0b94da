"""One end of a tunnel (RFC 9113): the peer's bytes in, calls of its owner and bytes for it out.

Bytes may be cut anywhere.  The payload of DATA is passed on as it comes; that of other frames is
handled where it lies if it is whole, and kept until then otherwise.  Successive DATA frames of a
stream are moved together in the caller's buffer, so that its owner can send them at once.

A function that returns bint returns False if the session has ended.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from uproxy.transport.native.system cimport word_add
from uproxy.transport.native.frames cimport (
    ACK_FLAG, CONTINUATION_FRAME, DATA_FRAME, DEFAULT_WINDOW, FRAME_HEADER, GOAWAY_FRAME,
    HEADERS_FRAME, MAX_FRAME, MAX_ID, PADDED_FLAG, PING_FRAME, PUSH_PROMISE_FRAME, RST_STREAM_FRAME,
    SETTINGS_FRAME, WINDOW_UPDATE_FRAME, append, frame_header_at, free_bytes,
)
from uproxy.transport.native.hpack_table cimport MAX_TABLE, free_decoder
from uproxy.transport.native.hpack cimport Headers
from uproxy.transport.native.budgets cimport FLOOD_PRIORITIES, FLOOD_STRAYS, fill_budgets
from uproxy.transport.native.faults cimport (
    SF_IN_BLOCK, SF_LENGTH, SF_MEMORY, SF_NONE, SF_NOT_HTTP2, SF_PRIORITY_LENGTH, SF_PUSH, SF_SHORT,
    SF_STREAM_NAMED, SF_STREAM_ZERO, SF_TOO_LONG,
)
from uproxy.transport.native.streams cimport (
    PHASE_DATA, PHASE_HEADER, PHASE_IGNORED, PHASE_PAD_LENGTH, PHASE_PAYLOAD, PHASE_PREFACE,
    H2Stream, Session, SessionCalls, SessionSettings, free_queue,
)
from uproxy.transport.native.reading cimport pass_on
from uproxy.transport.native.sending cimport MAX_IDLE_OUTPUT_ROOM, MOST_BEFORE_SETTINGS
from uproxy.transport.native.rules cimport abort_stream, break_session, charge, check_replies
from uproxy.transport.native.control cimport (
    PREFACE_SIZE, greet, on_goaway, on_ping, on_rst_stream, on_settings, on_window_update, preface,
)
from uproxy.transport.native.blocks cimport on_continuation, on_headers
from uproxy.transport.native.data cimport begin_payload, take_data


# Its life.


cdef inline int start_session(Session *session, bint server, SessionSettings *settings,
                              SessionCalls *calls, Headers *scratch, void *owner,
                              double now) noexcept nogil:
    """Begin a session, whose output then has our SETTINGS.  Returns 0; -1: no memory."""
    memset(session, 0, sizeof(Session))
    session.server, session.calls, session.owner = server, calls, owner
    session.scratch, session.settings = scratch, settings[0]
    session.settings.connection_window = max(
        settings.connection_window, <uint32_t>DEFAULT_WINDOW)
    session.phase = PHASE_PREFACE if server else PHASE_HEADER
    session.decoder.most = MAX_TABLE
    session.encoder_most = session.encoder_least = session.encoder_size = MAX_TABLE
    session.send_window = session.receive_window = session.peer_window = DEFAULT_WINDOW
    # a smaller window holds when the peer has confirmed it
    session.own_window = max(settings.stream_window, <uint32_t>DEFAULT_WINDOW)
    session.peer_max_streams = MOST_BEFORE_SETTINGS
    session.away_last = MAX_ID
    session.now = now
    fill_budgets(&session.budgets, now)
    greet(session)
    return -1 if session.output.lost else 0


cdef inline void end_session(Session *session) noexcept nogil:
    """Free all that a session has, its streams too."""
    cdef H2Stream *stream
    cdef uint32_t at
    for at in range(session.slot_count):
        stream = session.slots[at].stream
        if stream != NULL:
            free_queue(&stream.waiting)
            free_queue(&stream.held)
            free(stream)
    if session.settings.extra_of_all != NULL:
        word_add(session.settings.extra_of_all, -<int>session.extra)
    free(session.slots)
    free(session.ended)
    free(session.lent)
    free_bytes(&session.partial)
    free_bytes(&session.block)
    free_bytes(&session.output)
    free_decoder(&session.decoder)
    session.slots, session.slot_count, session.ended, session.lent = NULL, 0, NULL, NULL


cdef inline void trim_session(Session *session) noexcept nogil:
    """Free the memory that a quiet session has no use for."""
    if session.output.size == 0 and session.output.room > MAX_IDLE_OUTPUT_ROOM:
        free_bytes(&session.output)
    free(session.lent)
    session.lent = NULL


# The peer's bytes.


cdef inline int receive_frames(Session *session, char *data, size_t size,
                               double now) noexcept nogil:
    """Take bytes of the peer, which may be moved within `data`.  Returns 0; -1: the session has
    ended, and `broken_by` says why."""
    cdef size_t at = 0
    if session.broken_by:
        return -1
    session.now = now
    while at < size and not session.broken_by:
        at += take_some(session, data + at, size - at)
    if not session.broken_by and not pass_on(session):
        break_session(session, SF_MEMORY)
    if session.output.lost and not session.broken_by:
        session.broken_by = SF_MEMORY
    return -1 if session.broken_by else 0


cdef inline size_t take_some(Session *session, char *data, size_t size) noexcept nogil:
    """Take bytes of the present phase, one at least.  Returns how many."""
    if session.phase == PHASE_HEADER:
        return take_header(session, data, size)
    if session.phase == PHASE_DATA:
        return take_data(session, data, size)
    if session.phase == PHASE_PAYLOAD:
        return take_payload(session, data, size)
    if session.phase == PHASE_PREFACE:
        return take_preface(session, data, size)
    if session.phase == PHASE_PAD_LENGTH:
        session.left -= 1
        begin_payload(session, <uint8_t>data[0], 1)
        return 1
    return take_ignored(session, size)


cdef inline size_t take_preface(Session *session, const char *data, size_t size) noexcept nogil:
    """Compare bytes with a client's preface."""
    cdef uint32_t count = <uint32_t>min(size, <size_t>(PREFACE_SIZE - session.head_size))
    if memcmp(data, preface() + session.head_size, count) != 0:
        break_session(session, SF_NOT_HTTP2)
    session.head_size += count
    if session.head_size == PREFACE_SIZE:
        session.phase, session.head_size = PHASE_HEADER, 0
    return count


cdef inline size_t take_header(Session *session, char *data, size_t size) noexcept nogil:
    """Take bytes of a frame's header; begin the frame if it is whole."""
    cdef uint32_t count = <uint32_t>min(size, <size_t>(FRAME_HEADER - session.head_size))
    memcpy(session.head + session.head_size, data, count)
    session.head_size += count
    if session.head_size == FRAME_HEADER:
        session.head_size = 0
        session.frame = frame_header_at(session.head)
        session.left = session.frame.length
        begin_frame(session)
    return count


cdef inline void begin_frame(Session *session) noexcept nogil:
    """The header of a frame has come: check it, and what follows it is known."""
    cdef int fault = check_header(session)
    cdef bint went_on
    if session.frame.type != DATA_FRAME or session.frame.id != run_id(session):
        if not pass_on(session):
            fault = SF_MEMORY
        if session.broken_by:
            return
    if fault:
        break_session(session, fault)
    elif session.frame.type == DATA_FRAME:
        if session.frame.flags & PADDED_FLAG == 0:
            begin_payload(session, 0, 0)
        elif session.left:
            session.phase = PHASE_PAD_LENGTH
        else:
            break_session(session, SF_SHORT)
    elif session.frame.type > CONTINUATION_FRAME:
        session.phase = PHASE_IGNORED if session.left else PHASE_HEADER
        charge(session, FLOOD_STRAYS)
    elif session.left:
        session.phase = PHASE_PAYLOAD
    else:
        dispatch(session, session.head)


cdef inline uint32_t run_id(Session *session) noexcept nogil:
    """Return the stream of the run; 0: there is none."""
    return session.run_stream.id if session.run_stream != NULL else 0


cdef inline int check_header(Session *session) noexcept nogil:
    """Check that a frame may come now, on its stream, with its length.  Returns SF_NONE, or the
    rule that is broken."""
    cdef int type = session.frame.type
    cdef uint32_t length = session.frame.length
    if not session.has_begun and (
            type != SETTINGS_FRAME or session.frame.flags & ACK_FLAG):
        return SF_NOT_HTTP2
    session.has_begun = True
    if length > MAX_FRAME:
        return SF_TOO_LONG
    if session.block_id and (
            type != CONTINUATION_FRAME or session.frame.id != session.block_id):
        return SF_IN_BLOCK
    if type == SETTINGS_FRAME or type == PING_FRAME or type == GOAWAY_FRAME:
        if session.frame.id:
            return SF_STREAM_NAMED
    elif type <= CONTINUATION_FRAME and type != WINDOW_UPDATE_FRAME and not session.frame.id:
        return SF_STREAM_ZERO
    if type == PUSH_PROMISE_FRAME:
        return SF_PUSH
    if type == RST_STREAM_FRAME or type == WINDOW_UPDATE_FRAME:
        return SF_NONE if length == 4 else SF_LENGTH
    if type == PING_FRAME:
        return SF_NONE if length == 8 else SF_LENGTH
    return SF_LENGTH if type == GOAWAY_FRAME and length < 8 else SF_NONE


cdef inline size_t take_payload(Session *session, const char *data, size_t size) noexcept nogil:
    """Take bytes of a payload, and handle the frame if it is whole."""
    cdef uint32_t count = <uint32_t>min(size, <size_t>session.left)
    cdef bint is_whole = count == session.frame.length
    session.left -= count
    if not is_whole:
        append(&session.partial, data, count)
        if session.partial.lost:
            break_session(session, SF_MEMORY)
            return count
    if session.left == 0:
        session.phase = PHASE_HEADER
        dispatch(session, <const uint8_t *>(data if is_whole else session.partial.data))
        if not is_whole:
            free_bytes(&session.partial)
    return count


cdef inline size_t take_ignored(Session *session, size_t size) noexcept nogil:
    """Skip bytes of a payload."""
    cdef uint32_t count = <uint32_t>min(size, <size_t>session.left)
    session.left -= count
    if session.left == 0:
        session.phase = PHASE_HEADER
    return count


cdef inline void dispatch(Session *session, const uint8_t *payload) noexcept nogil:
    """Handle a whole frame that isn't DATA."""
    cdef int type = session.frame.type
    if type == HEADERS_FRAME:
        on_headers(session, payload)
    elif type == WINDOW_UPDATE_FRAME:
        on_window_update(session, payload)
    elif type == RST_STREAM_FRAME:
        on_rst_stream(session, payload)
    elif type == SETTINGS_FRAME:
        on_settings(session, payload)
    elif type == PING_FRAME:
        on_ping(session, payload)
    elif type == GOAWAY_FRAME:
        on_goaway(session, payload)
    elif type == CONTINUATION_FRAME:
        on_continuation(session, payload)
    elif charge(session, FLOOD_PRIORITIES) and session.frame.length != 5:
        abort_stream(session, session.frame.id, SF_PRIORITY_LENGTH)
    # another PRIORITY is ignored: all streams are alike
    check_replies(session)
