"""DATA frames as they come: judged when their header, and the length of their padding, is there;
then passed on piece by piece.

A function that returns bint returns False if the session has ended.
"""

from libc.stdint cimport int32_t, uint32_t

from uproxy.transport.native.frames cimport END_STREAM_FLAG
from uproxy.transport.native.budgets cimport (
    FLOOD_EMPTY_FRAMES, FLOOD_SMALL_DATA, SMALL_DATA, SMALL_DATA_ROOM,
)
from uproxy.transport.native.faults cimport (
    SF_DATA_EARLY, SF_DATA_ENDED, SF_FLOOD, SF_MEMORY, SF_NONE, SF_PADDING, SF_STREAM_WINDOW,
    SF_WINDOW,
)
from uproxy.transport.native.streams cimport (
    FATE_UNKNOWN_TO_PEER, PHASE_DATA, PHASE_HEADER, H2Stream, Session, fate_of, find_stream,
)
from uproxy.transport.native.windows cimport give_back_of, note_gone, take_window
from uproxy.transport.native.reading cimport add_to_run, pass_on
from uproxy.transport.native.sending cimport note_both_ends
from uproxy.transport.native.rules cimport (
    abort_stream, break_session, charge, check_replies, open_one, stray,
)
from uproxy.transport.native.blocks cimport end_receiving


cdef inline bint begin_payload(Session *session, uint32_t padding, uint32_t skipped) noexcept nogil:
    """The payload of a DATA frame begins: `skipped` bytes of it said how long the padding is."""
    cdef uint32_t length = session.frame.length
    cdef bint ends = session.frame.flags & END_STREAM_FLAG != 0
    cdef H2Stream *stream = open_one(session, session.frame.id)
    cdef int fault
    if padding + skipped > length:
        return break_session(session, SF_PADDING)
    if length == padding + skipped and not ends and not charge(session, FLOOD_EMPTY_FRAMES):
        return False
    if not take_window(session, length):
        return break_session(session, SF_WINDOW)
    session.phase, session.padding = PHASE_DATA, padding
    session.data_stream = NULL
    fault = judge_data(session, stream)
    if session.broken_by or (fault and not abort_stream(session, session.frame.id, fault)):
        return False
    if fault or stream == NULL:
        note_gone(session, skipped)
    else:
        session.data_stream = stream
        stream.receive_window -= <int32_t>length
        stream.unreturned += skipped + padding
        give_back_of(session, stream)
        note_gone(session, skipped)
        if not charge_small(session, stream, length - padding - skipped, ends):
            return False
    if session.left == 0:
        end_data(session)
    return not session.broken_by


cdef inline int judge_data(Session *session, H2Stream *stream) noexcept nogil:
    """Return the rule that DATA breaks on a stream; SF_NONE: it is taken, or to be ignored."""
    if stream == NULL:
        if not stray(session) or fate_of(session, session.frame.id) == FATE_UNKNOWN_TO_PEER:
            return SF_NONE
        return SF_DATA_ENDED
    if stream.receive_ended:
        return SF_DATA_ENDED
    if not session.server and not stream.is_answered:
        return SF_DATA_EARLY
    if session.frame.length and <int32_t>session.frame.length > stream.receive_window:
        return SF_STREAM_WINDOW
    return SF_NONE


cdef inline bint charge_small(Session *session, H2Stream *stream, uint32_t size,
                              bint ends) noexcept nogil:
    """Count by how much a DATA frame is shorter than it should be, until it is read."""
    if size >= SMALL_DATA or size == 0 or ends:
        return True
    stream.shortfall += SMALL_DATA - size
    session.budgets.small_data += SMALL_DATA - size
    if session.budgets.small_data > SMALL_DATA_ROOM:
        return break_session(session, SF_FLOOD + FLOOD_SMALL_DATA)
    return True


cdef inline size_t take_data(Session *session, char *data, size_t size) noexcept nogil:
    """Take bytes of a DATA frame: put them into the run, or drop them."""
    cdef uint32_t count = <uint32_t>min(size, <size_t>session.left)
    if session.left > session.padding:
        count = min(count, session.left - session.padding)
        if session.data_stream != NULL:
            add_to_run(session, session.data_stream, data, count)
        else:
            note_gone(session, count)
    else:
        session.padding -= count
        note_gone(session, count)
    session.left -= count
    if session.left == 0:
        end_data(session)
    return count


cdef inline void end_data(Session *session) noexcept nogil:
    """A DATA frame is complete."""
    cdef H2Stream *stream = session.data_stream
    session.phase = PHASE_HEADER
    session.data_stream = NULL
    check_replies(session)
    if stream == NULL or session.frame.flags & END_STREAM_FLAG == 0:
        return
    # the end is noted first: whoever reads the last bytes is told that it is behind them
    stream.receive_ended = True
    give_back_of(session, stream)
    note_both_ends(session, stream)
    if session.run_stream != NULL:
        if not pass_on(session):
            break_session(session, SF_MEMORY)
        stream = find_stream(session, session.frame.id)  # NULL: the callback has released it
    if stream != NULL and not stream.was_reset and not session.broken_by:
        end_receiving(session, stream)
