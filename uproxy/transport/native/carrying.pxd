"""What a tunnel does for its streams: what comes on one moves its relay, and a tunnel's end is told
to all of them.

`carry` reads when epoll says so.  `settle_tunnels` ends the thread's turn: it sends what the
streams of each tunnel have given it, and looks whether one is done.
"""

from libc.errno cimport ECONNRESET
from libc.stdint cimport uint32_t

from uproxy.transport.native.system cimport EPOLLOUT
from uproxy.transport.native.frames cimport (
    H2_ENHANCE_YOUR_CALM, H2_NO_ERROR, H2_REFUSED_STREAM,
)
from uproxy.transport.native.streams cimport H2Stream, Session, SessionCalls
from uproxy.transport.native.windows cimport is_overfull
from uproxy.transport.native.verbs cimport reset_stream
from uproxy.transport.native.codes cimport (
    F_AFTER_HANDSHAKE, F_HELD, F_HTTP2, F_NONE, F_OS, F_STATUS, F_STREAM_REFUSED, F_STREAM_RESET,
    S_CLOSING, S_OPENING_STREAM, S_RELAYING, W_EVENT,
)
from uproxy.transport.native.types cimport Connection, Side, Tunnel, Worker
from uproxy.transport.native.channel cimport record_fault
from uproxy.transport.native.tls cimport flush
from uproxy.transport.native.side cimport (
    BROKEN, CAN_READ, CAN_WRITE, alert_of, fail_side, is_ready, readiness,
)
from uproxy.transport.native.relay cimport relay_turn
from uproxy.transport.native.dial cimport is_connected
from uproxy.transport.native.state cimport state_of
from uproxy.transport.native.tunnel cimport (
    TUNNEL_ENDED, TUNNEL_FAILED, TUNNEL_GOES_ON, drain_channel, has_streams, is_alive_due,
    keep_alive, mark_dirty, mark_occupied, plan_trim, receive_tunnel, send_tunnel, watch_tunnel,
)
from uproxy.transport.native.goodbye cimport (
    close_if_done, finish_if_sent, forgive_silence, linger_on, lose_tunnel,
)
from uproxy.transport.native.stream cimport (
    content_stream, is_movable, leave_waiting, lose_stream, strand,
)
from uproxy.transport.native.pool cimport is_unproven, leave_if_useless, leave_pool, note_limit
from uproxy.transport.native.connection cimport (
    after_relay, end_by_downstream, end_connection, on_failed, on_stranded, on_tunnel_ready,
    on_upstream_ready, stay_carrying,
)
from uproxy.transport.native.arrival cimport note_refused, take_request


# Something comes on a stream.


cdef inline bint is_relaying(Connection *connection) noexcept nogil:
    """Whether bytes of a connection are being relayed."""
    cdef int state = state_of(connection)
    return connection.waits_for == W_EVENT and (state == S_RELAYING or state == S_CLOSING)


cdef inline void turn_stream(Side *side, int ready) noexcept nogil:
    """Move bytes from or to a stream; `ready` has its Ready bits."""
    if is_relaying(side.connection):
        after_relay(side.connection, relay_turn(side, ready), False)


cdef inline void take_bytes(Session *session, H2Stream *h2) noexcept nogil:
    """`on_readable` of a session: bytes, or the end."""
    cdef Side *side = <Side *>h2.owner
    if side != NULL:
        side.stream.is_ready = True
        turn_stream(side, CAN_READ)


cdef inline void take_room(Session *session, H2Stream *h2) noexcept nogil:
    """`on_writable` of a session: some of what waited is sent."""
    cdef Side *side = <Side *>h2.owner
    if side == NULL or side.stream.is_deaf or side.stream.is_content:
        return
    side.stream.unsent = h2.waiting.size
    side.connection.last_moved = side.connection.worker.now
    turn_stream(side, CAN_WRITE)


cdef inline void take_answer(Session *session, H2Stream *h2, int status,
                             bint _ended) noexcept nogil:
    """`on_answer` of a session: 200 opens the stream."""
    cdef Side *side = <Side *>h2.owner
    (<Tunnel *>session.owner).has_answered = True
    if side == NULL or not is_opening(side.connection):
        return
    if status == 200:
        on_upstream_ready(side.connection)
    else:
        fail_side(side, F_STATUS, status)
        on_failed(side)


cdef inline bint is_opening(Connection *connection) noexcept nogil:
    """Whether a connection waits for the answer to the CONNECT that we sent for it."""
    return connection.waits_for == W_EVENT and state_of(connection) == S_OPENING_STREAM


cdef inline void take_reset(Session *session, H2Stream *h2, uint32_t code) noexcept nogil:
    """`on_reset` of a session: a stream is over."""
    cdef Side *side = <Side *>h2.owner
    if side == NULL:
        return
    if code == H2_NO_ERROR and h2.receive_ended and h2.reset_by_peer:
        content_stream(side)
        turn_stream(side, CAN_READ | CAN_WRITE)
    elif code == H2_REFUSED_STREAM:
        tell_lost(side, F_STREAM_REFUSED, code)
    elif h2.reset_why:
        tell_lost(side, F_HTTP2, h2.reset_why)
    else:
        tell_lost(side, F_STREAM_RESET, code)


cdef inline void tell_lost(Side *side, int what, int error) noexcept nogil:
    """A stream is lost.  One that is relayed ends when what it holds is passed on; a caller's that
    isn't yet, at once; one that is being opened fails for this reason (a Failure, its number)."""
    cdef Connection *connection = side.connection
    lose_stream(side)
    if is_relaying(connection):
        fail_side(side, F_OS, side.channel.error)
        turn_stream(side, CAN_READ | BROKEN)
    elif side.index == 0:
        if not is_connected(connection) or not side.stream.h2.unread:
            end_by_downstream(connection)
    elif is_opening(connection):
        fail_side(side, what, error)
        on_failed(side)
    # otherwise the loop is asked whether bytes may pass, and the relay will find it lost


cdef inline void note_goaway(Session *session, uint32_t _last, uint32_t _code,
                             const char *_debug, size_t _size) noexcept nogil:
    """`on_goaway` of a session: the peer takes no new streams."""
    cdef Tunnel *tunnel = <Tunnel *>session.owner
    leave_pool(tunnel)
    mark_dirty(tunnel)


cdef inline void note_pong(Session *session) noexcept nogil:
    """`on_pong` of a session: the peer is there."""
    cdef Tunnel *tunnel = <Tunnel *>session.owner
    tunnel.is_proving = False
    mark_dirty(tunnel)


cdef inline void note_settings(Session *session) noexcept nogil:
    """`on_settings` of a session: the peer has said how many streams it allows."""
    cdef Tunnel *tunnel = <Tunnel *>session.owner
    if tunnel.connection.is_pooled:
        note_limit(tunnel)
    mark_dirty(tunnel)


cdef inline void fill_session_calls(SessionCalls *calls) noexcept nogil:
    """Fill in the functions that an HTTP/2 session calls when something comes."""
    calls.on_request, calls.on_refused, calls.on_answer = take_request, note_refused, take_answer
    calls.on_readable, calls.on_writable, calls.on_reset = take_bytes, take_room, take_reset
    calls.on_goaway, calls.on_pong, calls.on_settings = note_goaway, note_pong, note_settings


# The tunnel's turn.


cdef inline void carry(Tunnel *tunnel, uint32_t events) noexcept nogil:
    """Epoll has reported `events` of a tunnel's socket: flush, read; `settle_tunnels` follows."""
    cdef int result = TUNNEL_GOES_ON
    mark_dirty(tunnel)
    if tunnel.is_over:
        linger_on(tunnel, events)
        return
    if events & EPOLLOUT and tunnel.side.channel.unsent and flush(&tunnel.side.channel) < 0:
        result = drain_channel(tunnel)
    elif events & ~EPOLLOUT:
        result = receive_tunnel(tunnel, readiness(events))
    if result != TUNNEL_GOES_ON:
        end_streams(tunnel, result)


cdef inline void settle_tunnels(Worker *worker) noexcept nogil:
    """Look at each tunnel that has something to be sent, or whose streams have changed."""
    cdef Tunnel *tunnel
    worker.settling, worker.dirty = worker.dirty, NULL
    while worker.settling != NULL:
        tunnel = worker.settling
        worker.settling = tunnel.next_dirty
        tunnel.is_dirty = False
        settle(tunnel)


cdef inline void settle(Tunnel *tunnel) noexcept nogil:
    """End a thread's turn for one tunnel: open the streams that waited, send, end the tunnel if it
    is done, and ask epoll for what is awaited."""
    cdef Connection *connection = tunnel.connection
    cdef int result = TUNNEL_GOES_ON
    if tunnel.is_ready and not tunnel.is_over:
        serve_waiting(tunnel)
        leave_if_useless(tunnel)
        end_the_stalled(tunnel)
        # what is due may have come while this process was stopped, and epoll hasn't said so yet
        if is_ready(tunnel.side) or is_alive_due(tunnel):
            result = receive_tunnel(tunnel, 0)
        if result == TUNNEL_GOES_ON:
            result = keep_alive(tunnel)
        if result == TUNNEL_GOES_ON:
            result = send_and_watch(tunnel)
        if result != TUNNEL_GOES_ON:
            end_streams(tunnel, result)
    if not tunnel.is_ready:
        return  # it is being dialled
    if tunnel.is_over and not has_streams(tunnel) and tunnel.lingers_until == 0:
        end_connection(
            connection, connection.fault.what == F_NONE or connection.fault.what == F_HTTP2)
        return
    mark_occupied(tunnel)
    if not tunnel.is_over:
        plan_trim(tunnel)
    stay_carrying(connection)


cdef inline int send_and_watch(Tunnel *tunnel) noexcept nogil:
    """Send, end what is done, and ask epoll for what is awaited.  Returns a TunnelTurn."""
    cdef int result
    close_if_done(tunnel)
    result = send_tunnel(tunnel)
    if result == TUNNEL_FAILED:
        return drain_channel(tunnel)
    result = finish_if_sent(tunnel)
    if result != TUNNEL_GOES_ON:
        return result
    return TUNNEL_FAILED if watch_tunnel(tunnel) < 0 else TUNNEL_GOES_ON


cdef inline void serve_waiting(Tunnel *tunnel) noexcept nogil:
    """Open the streams that waited for the handshake, or for the answer to a PING; without that
    answer another tunnel is to be dialled."""
    cdef Side *side
    cdef bint failed = is_unproven(tunnel)
    if failed:
        tunnel.is_proving = False
        leave_pool(tunnel)
    while tunnel.waiting != NULL and not tunnel.is_proving:
        side = tunnel.waiting
        leave_waiting(side)
        if failed:
            fail_side(side, F_STREAM_REFUSED, 0)
            on_failed(side)
        else:
            on_tunnel_ready(side.connection, tunnel)


cdef inline void end_the_stalled(Tunnel *tunnel) noexcept nogil:
    """While the streams of a tunnel hold so much unread that its window isn't given back, reset the
    one that was read least lately: one that stalls must not stop the others."""
    cdef Side *side
    cdef Side *stalled
    while is_overfull(&tunnel.session):
        side, stalled = tunnel.open, NULL
        while side != NULL:
            if side.stream.h2.unread and (
                    stalled == NULL or side.stream.read_at < stalled.stream.read_at):
                stalled = side
            side = side.stream.after
        if stalled == NULL:
            return
        reset_stream(&tunnel.session, stalled.stream.h2, H2_ENHANCE_YOUR_CALM)
        fail_side(stalled, F_HELD, 0)
        end_connection(stalled.connection, False)


cdef inline void end_streams(Tunnel *tunnel, int result) noexcept nogil:
    """A tunnel's channel has ended (a TunnelTurn): its streams are lost."""
    cdef Side *side = tunnel.open
    cdef Side *following
    # of a server that refuses our certificate: under TLS 1.3 it comes behind the handshake
    cdef unsigned long alert = 0
    if tunnel.is_ready and not tunnel.has_answered:
        alert = alert_of(tunnel.side)
    if side != NULL and result == TUNNEL_ENDED:
        fail_side(tunnel.side, F_OS, ECONNRESET)
    forgive_silence(tunnel)
    leave_pool(tunnel)
    lose_tunnel(tunnel)
    while side != NULL:
        following = side.stream.after
        if alert and is_opening(side.connection):
            record_fault(&side.connection.fault, F_AFTER_HANDSHAKE, side.index, 0, alert)
        strand(side)
        if is_relaying(side.connection) and is_movable(side.connection):
            on_stranded(side.connection)
        else:  # if it was being opened, its CONNECT may be sent elsewhere
            tell_lost(side, F_STREAM_REFUSED, 0)
        side = following
    while tunnel.waiting != NULL:
        side = tunnel.waiting
        leave_waiting(side)
        fail_side(side, F_STREAM_REFUSED, 0)
        on_failed(side)
    mark_dirty(tunnel)
