"""Header blocks as they come: requests, answers, and trailers.

A function that returns bint returns False if the session has ended.
"""

from libc.stdint cimport uint8_t, uint32_t

from uproxy.transport.native.frames cimport (
    END_HEADERS_FLAG, END_STREAM_FLAG, H2_NO_ERROR, PADDED_FLAG, PRIORITY_FLAG, RST_STREAM_FRAME,
    append, free_bytes, put_number_frame,
)
from uproxy.transport.native.hpack_table cimport HPACK_NO_MEMORY, HPACK_OK, HPACK_TOO_LARGE
from uproxy.transport.native.hpack cimport MAX_HEADER_LIST, decode_block, put_status
from uproxy.transport.native.budgets cimport (
    FLOOD_CONTINUATIONS, FLOOD_EMPTY_FRAMES, FLOOD_HEADERS, FLOOD_REFUSALS, FLOOD_STRAYS,
    MAX_CONTINUATIONS, MAX_INFORMATIONAL, allow_for_stream,
)
from uproxy.transport.native.faults cimport (
    SF_BACKWARDS, SF_BLOCK, SF_ENDED, SF_EVEN, SF_FLOOD, SF_HEADERS_ENDED, SF_MEMORY, SF_METHOD,
    SF_NO_ANSWER, SF_NO_BLOCK, SF_PADDING, SF_SHORT, SF_TOO_MANY, SF_TRAILERS, code_of,
)
from uproxy.transport.native.streams cimport (
    FATE_ENDED, FATE_UNKNOWN_TO_PEER, ConnectRequest, H2Stream, Session, add_stream, fate_of,
    remember,
)
from uproxy.transport.native.connect cimport check_trailers, read_answer, read_request
from uproxy.transport.native.windows cimport give_back_of
from uproxy.transport.native.sending cimport note_both_ends
from uproxy.transport.native.verbs cimport begin_headers_of, end_headers
from uproxy.transport.native.rules cimport (
    abort_stream, break_session, charge, charge_refused, open_one, stray,
)

cdef enum:
    PRIORITY_SIZE = 5
    BAD_REQUEST = 400


cdef inline bint on_headers(Session *session, const uint8_t *payload) noexcept nogil:
    """HEADERS: the whole block, or its beginning."""
    cdef uint32_t size = session.frame.length, skipped = 0, padding = 0
    cdef uint8_t flags = session.frame.flags
    if not session.frame.id & 1:
        return break_session(session, SF_EVEN)
    if flags & PADDED_FLAG:
        skipped = 1
        padding = payload[0] if size else 0
    if flags & PRIORITY_FLAG:
        skipped += PRIORITY_SIZE
    if skipped > size:
        return break_session(session, SF_SHORT)
    if skipped + padding > size:
        return break_session(session, SF_PADDING)
    session.block_id, session.block_flags = session.frame.id, flags
    session.continuations = 0
    return on_piece(session, <const char *>payload + skipped, size - skipped - padding)


cdef inline bint on_continuation(Session *session, const uint8_t *payload) noexcept nogil:
    """CONTINUATION: more of a block."""
    if session.block_id == 0:
        return break_session(session, SF_NO_BLOCK)
    session.continuations += 1
    if session.continuations > MAX_CONTINUATIONS:
        return break_session(session, SF_FLOOD + FLOOD_CONTINUATIONS)
    return on_piece(session, <const char *>payload, session.frame.length)


cdef inline bint on_piece(Session *session, const char *data, uint32_t size) noexcept nogil:
    """Take a piece of a block, and the block if that is the last."""
    cdef bint is_last = session.frame.flags & END_HEADERS_FLAG != 0
    cdef bint went_on
    if session.block.size + size > MAX_HEADER_LIST:
        return break_session(session, SF_FLOOD + FLOOD_HEADERS)
    if is_last and session.block.size == 0:
        return on_block(session, data, size)
    append(&session.block, data, size)
    if session.block.lost:
        return break_session(session, SF_MEMORY)
    if not is_last:
        # the frame's payload decides, as its padding is without content too
        return session.frame.length > 0 or charge(session, FLOOD_EMPTY_FRAMES)
    went_on = on_block(session, session.block.data, session.block.size)
    free_bytes(&session.block)
    return went_on


cdef inline bint on_block(Session *session, const char *data, size_t size) noexcept nogil:
    """A block is complete.  It is decoded in any case: the table for those that follow depends on
    it (RFC 9113 §4.3)."""
    cdef int result = decode_block(&session.decoder, data, size, session.scratch)
    cdef uint32_t id = session.block_id
    cdef H2Stream *stream = open_one(session, id)
    cdef int fate
    session.block_id = 0
    if result != HPACK_OK:
        return break_session(
            session, SF_FLOOD + FLOOD_HEADERS if result == HPACK_TOO_LARGE
            else SF_MEMORY if result == HPACK_NO_MEMORY else SF_BLOCK)
    if stream != NULL:
        return on_more(session, stream)
    if session.server and id > session.last_id:
        return on_request(session, id)
    if not stray(session):
        return False
    fate = fate_of(session, id)
    if not session.server or fate == FATE_UNKNOWN_TO_PEER:
        return True
    return break_session(session, SF_ENDED if fate == FATE_ENDED else SF_BACKWARDS)


cdef inline bint on_more(Session *session, H2Stream *stream) noexcept nogil:
    """An answer, or trailers, of which only the end is of interest."""
    cdef bint ends = session.block_flags & END_STREAM_FLAG != 0
    cdef int fault
    if stream.receive_ended:
        return abort_stream(session, stream.id, SF_HEADERS_ENDED)
    if not session.server and not stream.is_answered:
        return on_answer(session, stream, ends)
    fault = check_trailers(session.scratch)
    if fault or not ends:
        return abort_stream(session, stream.id, fault if fault else SF_TRAILERS)
    end_receiving(session, stream)
    return True


cdef inline void end_receiving(Session *session, H2Stream *stream) noexcept nogil:
    """The peer sends nothing more on a stream."""
    stream.receive_ended = True
    give_back_of(session, stream)
    note_both_ends(session, stream)
    session.calls.on_readable(session, stream)


cdef inline bint on_answer(Session *session, H2Stream *stream, bint ends) noexcept nogil:
    """An answer to our CONNECT, or an informational one, of which the caller isn't told."""
    cdef int status = 0
    cdef int fault = read_answer(session.scratch, &status)
    if fault:
        return abort_stream(session, stream.id, fault)
    if status < 200:
        stream.informational += 1
        if ends or stream.informational > MAX_INFORMATIONAL:
            return abort_stream(session, stream.id, SF_NO_ANSWER)
        return True
    stream.is_answered = True
    session.calls.on_answer(session, stream, status, ends)
    stream = open_one(session, session.frame.id)  # NULL: the callback has ended it
    if ends and stream != NULL:
        end_receiving(session, stream)
    return not session.broken_by


cdef inline bint on_request(Session *session, uint32_t id) noexcept nogil:
    """A client opens a stream."""
    cdef ConnectRequest request
    cdef H2Stream *stream
    cdef uint32_t most = session.settings.max_streams
    cdef int fault
    session.last_id = id
    if not charge_refused(session):
        return False
    if session.is_gone:
        remember(session, id, True)
        return charge(session, FLOOD_STRAYS)
    # streams that are over on the wire and held by their owner are bounded too
    if session.open_streams >= most or session.streams >= 2 * most:
        return refuse(session, id, SF_TOO_MANY)
    fault = read_request(session.scratch, &request)
    if fault:
        return refuse(session, id, fault)
    stream = add_stream(session, id)
    if stream == NULL:
        return break_session(session, SF_MEMORY)
    allow_for_stream(&session.budgets)
    request.ended = session.block_flags & END_STREAM_FLAG != 0
    session.calls.on_request(session, stream, &request)
    stream = open_one(session, id)
    if session.block_flags & END_STREAM_FLAG and stream != NULL:  # NULL: the callback has ended it
        end_receiving(session, stream)
    return not session.broken_by


cdef inline bint refuse(Session *session, uint32_t id, int fault) noexcept nogil:
    """End a stream that never was open, with RST_STREAM or the status 400."""
    cdef bint is_answered = fault >= SF_METHOD
    cdef bint ends = session.block_flags & END_STREAM_FLAG != 0
    cdef uint32_t at
    if not charge(session, FLOOD_REFUSALS):
        return False
    session.budgets.replies += is_answered + (not is_answered or not ends)
    remember(session, id, not (is_answered and ends))
    if is_answered:
        at = begin_headers_of(session, id, True)
        put_status(&session.output, BAD_REQUEST)
        end_headers(session, at)
    if not is_answered or not ends:
        put_number_frame(&session.output, RST_STREAM_FRAME, id,
                         H2_NO_ERROR if is_answered else code_of(fault))
    session.calls.on_refused(session, id, BAD_REQUEST if is_answered else 0, fault)
    return not session.broken_by
