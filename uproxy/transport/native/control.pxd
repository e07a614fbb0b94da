"""Frames that carry neither headers nor data: SETTINGS, PING, GOAWAY, RST_STREAM, WINDOW_UPDATE,
PRIORITY; and what a session says about itself.

A function that returns bint returns False if the session has ended.  A frame's place and length are
checked (session.pxd) before it comes here.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc

from uproxy.transport.native.frames cimport (
    ACK_FLAG, DEFAULT_WINDOW, H2_NO_ERROR, H2_REFUSED_STREAM, MAX_FRAME, MAX_FRAME_SETTING, MAX_ID,
    MAX_WINDOW, SETTINGS_FRAME, SET_ENABLE_CONNECT_PROTOCOL, SET_ENABLE_PUSH, SET_HEADER_TABLE_SIZE,
    SET_INITIAL_WINDOW_SIZE, SET_MAX_CONCURRENT_STREAMS, SET_MAX_FRAME_SIZE,
    SET_MAX_HEADER_LIST_SIZE, WINDOW_UPDATE_FRAME, append, number_at, put_frame, put_goaway,
    put_number, put_number_frame, put_ping, put_setting,
)
from uproxy.transport.native.hpack_table cimport MAX_TABLE
from uproxy.transport.native.hpack cimport MAX_HEADER_LIST
from uproxy.transport.native.budgets cimport (
    FLOOD_PINGS, FLOOD_RESETS, FLOOD_SETTINGS, FLOOD_STRAYS, FLOOD_WINDOW_UPDATES, MAX_SETTINGS,
)
from uproxy.transport.native.faults cimport (
    SF_FLOOD, SF_LENGTH, SF_MEMORY, SF_NOT_SEEN, SF_NO_INCREMENT, SF_SETTING,
    SF_STREAM_NO_INCREMENT, SF_STREAM_WINDOW_GREW, SF_WINDOW_GREW, SF_WINDOW_SETTING,
)
from uproxy.transport.native.streams cimport H2Stream, Session
from uproxy.transport.native.sending cimport get_ready, leave_ready, send_waiting
from uproxy.transport.native.verbs cimport end_by_reset
from uproxy.transport.native.rules cimport abort_stream, break_session, charge, open_one, stray

cdef enum:
    PREFACE_SIZE = 24
    MAX_DEBUG = 160  # bytes of a peer's GOAWAY that are shown
    SETTING_SIZE = 6


cdef inline const char *preface() noexcept nogil:
    """Return the first bytes that a client sends (RFC 9113 §3.4)."""
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


# What we say.


cdef inline void greet(Session *session) noexcept nogil:
    """Send our preface, SETTINGS, and by how much the connection's window exceeds the default."""
    cdef uint8_t *at
    if not session.server:
        append(&session.output, preface(), PREFACE_SIZE)
    at = put_frame(&session.output, SETTINGS_FRAME, 0, 0, 3 * SETTING_SIZE)
    if at == NULL:
        return
    put_setting(at, SET_INITIAL_WINDOW_SIZE, session.settings.stream_window)
    put_setting(at + SETTING_SIZE, SET_MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST)
    at += 2 * SETTING_SIZE
    if session.server:
        put_setting(at, SET_MAX_CONCURRENT_STREAMS, session.settings.max_streams)
    else:
        put_setting(at, SET_ENABLE_PUSH, 0)
    if session.settings.connection_window > DEFAULT_WINDOW:
        put_number_frame(&session.output, WINDOW_UPDATE_FRAME, 0,
                         session.settings.connection_window - DEFAULT_WINDOW)
        session.receive_window = session.settings.connection_window


cdef inline void send_ping(Session *session) noexcept nogil:
    """Ask whether the peer is there: `on_pong` says that it is."""
    cdef uint8_t payload[8]
    if session.broken_by:
        return
    session.pings += 1
    session.ping_pending = True
    put_number(payload, 0)
    put_number(payload + 4, session.pings)
    put_ping(&session.output, <char *>payload, False)


cdef inline void go_away(Session *session, bint final) noexcept nogil:
    """Take no new streams: those on their way are still served until it is `final`."""
    cdef uint32_t last = 0  # a server opens none
    if session.broken_by:
        return
    session.is_going = True
    session.is_gone = session.is_gone or final
    if session.server:
        last = session.last_id if final else <uint32_t>MAX_ID
    put_goaway(&session.output, last, H2_NO_ERROR, b"")


# What the peer says.


cdef inline bint on_settings(Session *session, const uint8_t *payload) noexcept nogil:
    """SETTINGS, or the ACK of ours."""
    cdef uint32_t before = session.peer_window, at
    cdef uint32_t size = session.frame.length
    if not charge(session, FLOOD_SETTINGS):
        return False
    if session.frame.flags & ACK_FLAG:
        return confirm_settings(session)
    if size % SETTING_SIZE:
        return break_session(session, SF_LENGTH)
    if size > MAX_SETTINGS * SETTING_SIZE:
        return break_session(session, SF_FLOOD + FLOOD_SETTINGS)
    if not session.settings_received:
        session.peer_max_streams = MAX_ID  # a peer that says nothing of them has no limit
    session.settings_received = True
    for at in range(size // SETTING_SIZE):
        if not set_one(session, payload + at * SETTING_SIZE):
            return False
    if session.peer_window != before and not move_windows(session, before):
        return False
    session.budgets.replies += 1
    put_frame(&session.output, SETTINGS_FRAME, ACK_FLAG, 0, 0)
    send_waiting(session)
    session.calls.on_settings(session)
    return True


cdef inline bint set_one(Session *session, const uint8_t *at) noexcept nogil:
    """Follow the setting that is there (RFC 9113 §6.5.2; RFC 8441 §3)."""
    cdef uint32_t setting = <uint32_t>at[0] << 8 | at[1]
    cdef uint32_t value = number_at(at + 2)
    if setting == SET_INITIAL_WINDOW_SIZE:
        if value > MAX_WINDOW:
            return break_session(session, SF_WINDOW_SETTING)
        session.peer_window = value
    elif setting == SET_MAX_CONCURRENT_STREAMS:
        session.peer_max_streams = value
    elif setting == SET_HEADER_TABLE_SIZE:
        session.encoder_size = min(value, <uint32_t>MAX_TABLE)
        session.encoder_least = min(session.encoder_least, session.encoder_size)
    elif setting == SET_MAX_FRAME_SIZE:
        if not MAX_FRAME <= value <= MAX_FRAME_SETTING:
            return break_session(session, SF_SETTING)
    elif setting == SET_ENABLE_PUSH:
        if value > 1 or (value and not session.server):
            return break_session(session, SF_SETTING)
    elif setting == SET_ENABLE_CONNECT_PROTOCOL and value > 1:
        return break_session(session, SF_SETTING)
    return True


cdef inline bint move_windows(Session *session, uint32_t before) noexcept nogil:
    """Apply to open streams what INITIAL_WINDOW_SIZE has changed (RFC 9113 §6.9.2)."""
    cdef H2Stream *stream
    cdef int64_t window
    cdef uint32_t at
    for at in range(session.slot_count):
        stream = session.slots[at].stream
        if stream == NULL or not stream.is_open:
            continue
        window = <int64_t>stream.send_window + session.peer_window - before
        if window > MAX_WINDOW:
            return break_session(session, SF_STREAM_WINDOW_GREW)
        stream.send_window = <int32_t>window
        if window > 0:
            get_ready(session, stream)
        else:
            leave_ready(session, stream)
    return True


cdef inline bint confirm_settings(Session *session) noexcept nogil:
    """Our SETTINGS are in force: a window smaller than the default holds from here on."""
    cdef uint32_t at
    cdef int32_t by = <int32_t>session.settings.stream_window - <int32_t>session.own_window
    if session.frame.length:
        return break_session(session, SF_LENGTH)
    session.own_window = session.settings.stream_window
    if by:
        for at in range(session.slot_count):
            if session.slots[at].stream != NULL:
                session.slots[at].stream.receive_window += by
                session.slots[at].stream.window += by
    return True


cdef inline bint on_ping(Session *session, const uint8_t *payload) noexcept nogil:
    """PING, or the answer to ours."""
    if not session.frame.flags & ACK_FLAG:
        if not charge(session, FLOOD_PINGS):
            return False
        session.budgets.replies += 1
        put_ping(&session.output, <const char *>payload, True)
    elif (session.ping_pending and number_at(payload) == 0
          and number_at(payload + 4) == session.pings):
        session.ping_pending = False
        session.calls.on_pong(session)
    else:
        return charge(session, FLOOD_STRAYS)
    return True


cdef inline bint on_goaway(Session *session, const uint8_t *payload) noexcept nogil:
    """GOAWAY: streams that the peer didn't look at are over, the others go on (RFC 9113 §6.8)."""
    if not charge(session, FLOOD_STRAYS):
        return False
    session.went_away = True
    session.away_last = min(session.away_last, number_at(payload) & MAX_ID)
    session.calls.on_goaway(session, session.away_last, number_at(payload + 4),
                            <const char *>payload + 8,
                            min(session.frame.length - 8, <uint32_t>MAX_DEBUG))
    return session.server or drop_unseen(session)


cdef inline bint drop_unseen(Session *session) noexcept nogil:
    """End the streams above the last one of the peer's GOAWAY."""
    cdef uint32_t *unseen = <uint32_t *>malloc(sizeof(uint32_t) * (session.streams + 1))
    cdef uint32_t at, count = 0
    cdef H2Stream *stream
    if unseen == NULL:
        return break_session(session, SF_MEMORY)
    for at in range(session.slot_count):
        if session.slots[at].id > session.away_last:
            unseen[count] = session.slots[at].id
            count += 1
    for at in range(count):
        stream = open_one(session, unseen[at])  # a callback may have released it
        if stream != NULL:
            stream.reset_by_peer, stream.reset_why = True, SF_NOT_SEEN
            end_by_reset(session, stream, H2_REFUSED_STREAM)
            session.calls.on_reset(session, stream, H2_REFUSED_STREAM)
    free(unseen)
    return True


cdef inline bint on_rst_stream(Session *session, const uint8_t *payload) noexcept nogil:
    """RST_STREAM."""
    cdef H2Stream *stream = open_one(session, session.frame.id)
    if stream == NULL:
        return stray(session)
    if session.server and not stream.is_answered and not charge(session, FLOOD_RESETS):
        return False
    stream.reset_by_peer = True
    end_by_reset(session, stream, number_at(payload))
    session.calls.on_reset(session, stream, stream.reset_code)
    return True


cdef inline bint on_window_update(Session *session, const uint8_t *payload) noexcept nogil:
    """WINDOW_UPDATE."""
    cdef uint32_t increment = number_at(payload) & MAX_WINDOW
    cdef H2Stream *stream
    if not charge(session, FLOOD_WINDOW_UPDATES):
        return False
    if session.frame.id == 0:
        if increment == 0:
            return break_session(session, SF_NO_INCREMENT)
        if session.send_window + increment > MAX_WINDOW:
            return break_session(session, SF_WINDOW_GREW)
        session.send_window += increment
        send_waiting(session)
        return True
    stream = open_one(session, session.frame.id)
    if stream == NULL:
        return stray(session)
    if increment == 0:
        return abort_stream(session, stream.id, SF_STREAM_NO_INCREMENT)
    if <int64_t>stream.send_window + increment > MAX_WINDOW:
        return abort_stream(session, stream.id, SF_STREAM_WINDOW_GREW)
    stream.send_window += <int32_t>increment
    get_ready(session, stream)
    send_waiting(session)
    return True
