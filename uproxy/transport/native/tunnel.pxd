"""A tunnel: HTTP/2 on the channel of a connection that carries streams (HBONE).

What comes is given to the session, which calls the functions of `carrying`.  What the session wants
to send waits until the turn ends, so that the frames of many streams share a TLS write: whoever
makes it send something calls `mark_dirty`.  While the socket doesn't take what was written the
session's output waits, and behind it the streams.
"""

from libc.errno cimport ETIMEDOUT
from libc.stdlib cimport calloc, free, malloc
from posix.time cimport CLOCK_REALTIME

from uproxy.transport.native.system cimport (
    CHECK_EXPIRY_S, EPOLLOUT, PROVE_TUNNEL_S, READ_EVENTS, TRIM_AFTER_S, clock_of, word_add,
    word_set,
)
from uproxy.transport.native.hpack cimport Headers
from uproxy.transport.native.faults cimport SF_MEMORY
from uproxy.transport.native.streams cimport SessionSettings
from uproxy.transport.native.verbs cimport drop_output_of, output_of
from uproxy.transport.native.control cimport send_ping
from uproxy.transport.native.session cimport (
    end_session, receive_frames, start_session, trim_session,
)
from uproxy.transport.native.codes cimport (
    F_HTTP2, F_MEMORY, F_OS, LARGE_RECEIVE_SIZE, MAX_IDLE_OUTPUT, PLAINTEXT_SIZE, RECEIVE_SIZE,
)
from uproxy.transport.native.types cimport (
    Channel, Connection, Received, Side, Tunnel, TunnelLimits, Worker,
)
from uproxy.transport.native.deadlines cimport earlier_of
from uproxy.transport.native.limits cimport mark_heard, mark_spare
from uproxy.transport.native.channel cimport fail, watch
from uproxy.transport.native.tls cimport trim, write_channel
from uproxy.transport.native.side cimport (
    READ_ENDED, READ_FAILED, abandon_channel, is_ready, read_channel,
)

cdef enum TunnelTurn:  # what came of a step
    TUNNEL_GOES_ON = 0
    TUNNEL_ENDED = 1  # by the peer, or by us, in order
    TUNNEL_FAILED = -1  # the reason is in connection.fault

cdef enum:
    MAX_TUNNEL_READ = LARGE_RECEIVE_SIZE  # bytes, after which one event's receives stop
    MAX_TUNNEL_PIECE = 64 * 1024  # bytes that are written before the socket gets them
    MAX_TUNNEL_SENT = 2 * LARGE_RECEIVE_SIZE  # bytes that are written in a turn
    MAX_TUNNEL_OUTPUT = 2 * LARGE_RECEIVE_SIZE  # above it a peer that doesn't read isn't read


cdef inline Tunnel *new_tunnel(Connection *connection, Side *side,
                               TunnelLimits *limits) noexcept nogil:
    """Make the tunnel that a connection will carry on the channel of `side`.  NULL: no memory."""
    cdef Worker *worker = connection.worker
    cdef Tunnel *tunnel
    if worker.tunnel_plaintext == NULL:
        worker.tunnel_plaintext = <char *>malloc(PLAINTEXT_SIZE)
    if worker.headers == NULL:
        worker.headers = <Headers *>calloc(1, sizeof(Headers))
    if worker.tunnel_plaintext == NULL or worker.headers == NULL:
        return NULL
    tunnel = <Tunnel *>calloc(1, sizeof(Tunnel))
    if tunnel == NULL:
        return NULL
    tunnel.connection, tunnel.side, tunnel.limits = connection, side, limits[0]
    connection.tunnel = tunnel
    return tunnel


cdef inline int start_tunnel(Tunnel *tunnel, bint server) noexcept nogil:
    """Begin the session, when the handshake has ended.  Returns 0; -1: no memory (recorded)."""
    cdef Worker *worker = tunnel.connection.worker
    cdef Channel *channel = &tunnel.side.channel
    cdef SessionSettings settings
    settings.max_streams = settings.streams_per_connection = tunnel.limits.most
    settings.stream_window = tunnel.limits.stream_window
    settings.connection_window = tunnel.limits.connection_window
    settings.extra_of_all = &worker.shared.extra_windows
    if start_session(&tunnel.session, server, &settings, &worker.shared.session_calls,
                     worker.headers, tunnel, worker.now) < 0:
        return fail(channel, F_MEMORY, 0, 0)
    # not the thread's own, which relays use while the session reads this
    channel.plaintext = worker.tunnel_plaintext
    tunnel.is_ready = True
    tunnel.heard_at = worker.now
    tunnel.expires = earlier_of(tunnel.limits.expires, channel.verified_peer.not_after)
    note_streams(tunnel)
    return 0


cdef inline void free_tunnel(Tunnel *tunnel) noexcept nogil:
    """Free a tunnel that has no streams any more."""
    cdef Worker *worker = tunnel.connection.worker
    if tunnel.is_dirty:
        forget_dirty(&worker.dirty, tunnel)
        forget_dirty(&worker.settling, tunnel)
    if tunnel.is_ready:
        end_session(&tunnel.session)
    if tunnel.connection.is_pooled:
        word_add(&worker.shared.pooled_tunnels, -1)
    tunnel.connection.tunnel = NULL
    tunnel.side.channel.plaintext = NULL
    free(tunnel)


cdef inline void forget_dirty(Tunnel **at, Tunnel *tunnel) noexcept nogil:
    """Take a tunnel out of a list of dirty ones, if it is in."""
    while at[0] != NULL and at[0] != tunnel:
        at = &at[0].next_dirty
    if at[0] != NULL:
        at[0] = tunnel.next_dirty


cdef inline void mark_dirty(Tunnel *tunnel) noexcept nogil:
    """Have the thread look at a tunnel at the end of its turn: something is to be sent, or a
    stream has begun or ended."""
    cdef Worker *worker = tunnel.connection.worker
    if tunnel.is_dirty:
        return
    tunnel.is_dirty = True
    tunnel.next_dirty = worker.dirty
    worker.dirty = tunnel


cdef inline void note_streams(Tunnel *tunnel) noexcept nogil:
    """Note that a stream, or one that is to become one, has come or gone."""
    tunnel.empty_since = 0 if has_streams(tunnel) else tunnel.connection.worker.now
    word_set(&tunnel.connection.streams, <int>tunnel.session.streams)
    mark_dirty(tunnel)


cdef inline bint has_streams(Tunnel *tunnel) noexcept nogil:
    """Whether it has streams, or upstream sides wait for it."""
    return tunnel.open != NULL or tunnel.waiting != NULL


cdef inline void mark_occupied(Tunnel *tunnel) noexcept nogil:
    """Let a caller's tunnel make room for another connection while it has no streams."""
    cdef bint is_spare = not has_streams(tunnel)
    if is_spare == tunnel.is_spare:
        return
    tunnel.is_spare = is_spare
    if is_spare:
        mark_spare(tunnel.connection)
    else:
        mark_heard(tunnel.connection)


# The channel.


cdef inline int receive_tunnel(Tunnel *tunnel, int ready) noexcept nogil:
    """Give what has come to the session, MAX_TUNNEL_READ bytes at most.  Returns a TunnelTurn."""
    cdef Channel *channel = &tunnel.side.channel
    cdef Worker *worker = tunnel.connection.worker
    cdef Received received
    cdef ssize_t size
    cdef int asked = 0
    while asked < MAX_TUNNEL_READ:
        asked += max(channel.receive_size, <int>RECEIVE_SIZE)
        size = read_channel(channel, &received, ready)
        if size == READ_ENDED:
            return TUNNEL_ENDED
        if size < 0:
            return TUNNEL_FAILED if size == READ_FAILED else TUNNEL_GOES_ON
        tunnel.heard_at = worker.now
        mark_dirty(tunnel)
        if tunnel.closed_by == 0 and receive_frames(
                &tunnel.session, received.data, size, worker.now) < 0:
            return fail_session(tunnel)
        if not received.more and not is_ready(tunnel.side):
            break
    return TUNNEL_GOES_ON


cdef inline int fail_session(Tunnel *tunnel) noexcept nogil:
    """Record why the session is broken; its GOAWAY goes out.  Returns TUNNEL_FAILED."""
    cdef Channel *channel = &tunnel.side.channel
    cdef int why = tunnel.session.broken_by
    send_tunnel(tunnel)
    fail(channel, F_MEMORY if why == SF_MEMORY else F_HTTP2, why, tunnel.session.broken_code)
    return TUNNEL_FAILED


cdef inline int send_tunnel(Tunnel *tunnel) noexcept nogil:
    """Send what the session has, while the socket takes it.  Returns TUNNEL_GOES_ON or
    TUNNEL_FAILED."""
    cdef Channel *channel = &tunnel.side.channel
    cdef char *data = NULL
    cdef size_t size, piece, at, sent = 0
    while not channel.unsent and not channel.midway and not channel.gone:
        size = output_of(&tunnel.session, &data)
        if size == 0:
            return TUNNEL_GOES_ON
        if sent >= MAX_TUNNEL_SENT:
            mark_dirty(tunnel)  # the next turn goes on
            return TUNNEL_GOES_ON
        at = 0
        while at < size:
            piece = min(size - at, <size_t>MAX_TUNNEL_PIECE)
            if write_channel(channel, data + at, piece) < 0:
                return TUNNEL_FAILED
            at += piece
        drop_output_of(&tunnel.session)  # streams that wait go on, and may fill it again
        sent += size
    return TUNNEL_GOES_ON


cdef inline int drain_channel(Tunnel *tunnel) noexcept nogil:
    """Read what had come before the socket failed to send.  Returns TUNNEL_ENDED or
    TUNNEL_FAILED."""
    cdef int result = TUNNEL_GOES_ON
    abandon_channel(&tunnel.side.channel)
    while result == TUNNEL_GOES_ON:
        result = receive_tunnel(tunnel, 0)
    return result


cdef inline int watch_tunnel(Tunnel *tunnel) noexcept nogil:
    """Ask epoll for what is awaited.  Returns 0 or -1."""
    cdef Channel *channel = &tunnel.side.channel
    cdef char *data = NULL
    cdef bint reading = output_of(&tunnel.session, &data) < MAX_TUNNEL_OUTPUT
    return watch(
        channel, (READ_EVENTS if reading else 0) | (EPOLLOUT if channel.unsent else 0))


# Time.


cdef inline void prove(Tunnel *tunnel) noexcept nogil:
    """Send a PING, whose answer shows that the peer is still there."""
    tunnel.is_proving = True
    tunnel.proved_by = tunnel.connection.worker.now + PROVE_TUNNEL_S
    send_ping(&tunnel.session)
    mark_dirty(tunnel)


cdef inline double alive_due(Tunnel *tunnel) noexcept nogil:
    """Return when a peer that says nothing is asked whether it is there, or must have answered;
    0: never, because it has no streams."""
    if not tunnel.limits.keepalive or tunnel.open == NULL:
        return 0
    return max(tunnel.heard_at, tunnel.asked_at) + tunnel.limits.keepalive


cdef inline bint is_alive_due(Tunnel *tunnel) noexcept nogil:
    """Whether a peer that says nothing is to be asked now, or must have answered by now."""
    cdef double due = alive_due(tunnel)
    return due != 0 and tunnel.connection.worker.now >= due and tunnel.closed_by == 0


cdef inline int keep_alive(Tunnel *tunnel) noexcept nogil:
    """Ask whether the peer is there, if it is time.  Returns TUNNEL_GOES_ON, or TUNNEL_FAILED if it
    hasn't answered."""
    if not is_alive_due(tunnel):
        return TUNNEL_GOES_ON
    if tunnel.asked_at > tunnel.heard_at:
        return fail(&tunnel.side.channel, F_OS, ETIMEDOUT, 0)
    tunnel.asked_at = tunnel.connection.worker.now
    send_ping(&tunnel.session)
    return TUNNEL_GOES_ON


cdef inline void plan_trim(Tunnel *tunnel) noexcept nogil:
    """Have `trim_tunnel` called in a while, if the session's buffers have grown."""
    if tunnel.connection.trim_at == 0 and tunnel.session.output.room > MAX_IDLE_OUTPUT:
        tunnel.connection.trim_at = tunnel.connection.worker.now + TRIM_AFTER_S


cdef inline void trim_tunnel(Tunnel *tunnel) noexcept nogil:
    """Free what only the handshake needed, and buffers that are empty."""
    tunnel.connection.trim_at = 0
    trim(&tunnel.side.channel)
    trim_session(&tunnel.session)


cdef inline double seconds_valid(Tunnel *tunnel) noexcept nogil:
    """Return for how many seconds the certificates of the handshake are still good; as the wall
    clock may jump, CHECK_EXPIRY_S at most."""
    return min(max(tunnel.expires - clock_of(CLOCK_REALTIME), 0.0) + 1e-3, CHECK_EXPIRY_S)


cdef inline bint may_begin_streams(Tunnel *tunnel) noexcept nogil:
    """Whether streams may still begin on it.  A caller can open some until we have said GOAWAY."""
    if tunnel.connection.is_pooled:
        return not tunnel.is_retired
    return not tunnel.session.is_going


cdef inline double tunnel_due(Tunnel *tunnel) noexcept nogil:
    """Return when to look at the tunnel again; 0: never."""
    cdef double due
    if tunnel.is_over:
        return tunnel.lingers_until
    if tunnel.closed_by != 0:
        return tunnel.closed_by
    due = earlier_of(tunnel.final_at, tunnel.proved_by if tunnel.is_proving else 0)
    if tunnel.empty_since != 0 and tunnel.limits.idle and not tunnel.is_retired:
        due = earlier_of(due, tunnel.empty_since + tunnel.limits.idle)
    if tunnel.expires != 0 and may_begin_streams(tunnel):
        due = earlier_of(due, tunnel.connection.worker.now + seconds_valid(tunnel))
    return earlier_of(earlier_of(due, alive_due(tunnel)), tunnel.connection.trim_at)
