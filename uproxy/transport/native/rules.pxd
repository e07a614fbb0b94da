"""What happens where a peer breaks a rule or does too much of something: the session ends with
GOAWAY, or a stream with RST_STREAM.

A function that returns bint returns False if the session has ended; nothing more is received then.
"""

from libc.stdint cimport int64_t, uint32_t

from uproxy.transport.native.frames cimport (
    RST_STREAM_FRAME, free_bytes, put_goaway, put_number_frame,
)
from uproxy.transport.native.budgets cimport (
    FLOOD_DENIALS, FLOOD_REFUSALS, FLOOD_REPLIES, FLOOD_RESETS, FLOOD_STRAYS, MAX_REPLIES, spend,
)
from uproxy.transport.native.faults cimport (
    SF_CLOSED, SF_FLOOD, SF_IDLE, SF_LOST, code_of, fault_words,
)
from uproxy.transport.native.streams cimport H2Stream, Session, find_stream, remember
from uproxy.transport.native.verbs cimport end_by_reset


cdef inline void end_with(Session *session, int fault, uint32_t code) noexcept nogil:
    """End the session with GOAWAY, once."""
    if session.broken_by:
        return
    session.broken_by, session.broken_code = fault, code
    session.data_stream = NULL
    put_goaway(&session.output, session.last_id if session.server else 0, code,
               fault_words(fault))


cdef inline bint break_session(Session *session, int fault) noexcept nogil:
    """End the session for a rule that the peer broke.  Returns False."""
    end_with(session, fault, code_of(fault))
    return False


cdef inline void close_session(Session *session, uint32_t code) noexcept nogil:
    """End the session with an error code of ours."""
    end_with(session, SF_CLOSED, code)


cdef inline void lose_session(Session *session) noexcept nogil:
    """End the session because its socket has failed: nothing is sent any more, and what was
    received can still be read."""
    if not session.broken_by:
        session.broken_by = SF_LOST
    session.data_stream = NULL
    free_bytes(&session.output)


cdef inline bint charge(Session *session, int flood) noexcept nogil:
    """Count one of what there may be too much of."""
    if spend(&session.budgets, flood, session.now):
        return True
    return break_session(session, SF_FLOOD + flood)


cdef inline bint charge_refused(Session *session) noexcept nogil:
    """Count the streams that their owner has refused since this was called last."""
    cdef bint goes_on = True
    while goes_on and session.budgets.refused:
        session.budgets.refused -= 1
        goes_on = charge(session, FLOOD_REFUSALS)
    while goes_on and session.budgets.denied:
        session.budgets.denied -= 1
        goes_on = charge(session, FLOOD_DENIALS)
    return goes_on


cdef inline bint check_replies(Session *session) noexcept nogil:
    """Check how many frames that the peer has caused wait in the output: many only if it doesn't
    take what we send."""
    if session.budgets.replies > <int64_t>MAX_REPLIES + 2 * <int64_t>session.settings.max_streams:
        return break_session(session, SF_FLOOD + FLOOD_REPLIES)
    return True


cdef inline bint is_idle(Session *session, uint32_t id) noexcept nogil:
    """Whether nobody has opened such a stream; those of servers don't exist."""
    return id > session.last_id or not id & 1


cdef inline H2Stream *open_one(Session *session, uint32_t id) noexcept nogil:
    """Return the stream of this number, if it is open; otherwise NULL."""
    cdef H2Stream *stream = find_stream(session, id)
    return stream if stream != NULL and stream.is_open else NULL


cdef inline bint stray(Session *session) noexcept nogil:
    """Ignore the present frame, whose stream isn't open; that nobody has opened it is an error of
    the connection (RFC 9113 §5.1)."""
    if is_idle(session, session.frame.id):
        return break_session(session, SF_IDLE)
    return charge(session, FLOOD_STRAYS)


cdef inline bint abort_stream(Session *session, uint32_t id, int fault) noexcept nogil:
    """End a stream, open or not, on which the peer broke a rule."""
    cdef H2Stream *stream = open_one(session, id)
    if stream == NULL:
        if is_idle(session, id):
            return True
        remember(session, id, True)
    elif session.server and not charge(session, FLOOD_RESETS):
        return False
    session.budgets.replies += 1
    put_number_frame(&session.output, RST_STREAM_FRAME, id, code_of(fault))
    if stream != NULL:
        stream.reset_why = fault
        end_by_reset(session, stream, code_of(fault))
        session.calls.on_reset(session, stream, code_of(fault))
    return True
