# Over 400 lines, because a connection's life is to be read on one page.
"""A connection's whole life on its thread, in the order in which it happens.

Each verb (`on_…`) is something that has happened, and says what is done next.  Only this page
sets the state, what is waited for, and the deadline; the pages before it do one step each, and
return what came of it.  Any verb may end the connection.  `python/connection.py` has the same.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC

from uproxy.transport.native.system cimport (
    EPOLLOUT, LINGER_S, READ_EVENTS, TRIM_AFTER_S, clock_of, sockaddr_storage, word_set,
)
from uproxy.transport.native.streams cimport H2Stream
from uproxy.transport.native.verbs cimport open_stream
from uproxy.transport.native.codes cimport (
    E_ADMITTED, E_ARRIVED, E_CARRYING, E_CLOSED, E_HANDSHAKEN, E_OPENED, E_UPSTREAM_FAILED,
    E_UPSTREAM_READY, F_CUT, F_EVICTED, F_MEMORY, F_NONE, F_OS, F_SLOTS, F_STREAM_REFUSED,
    F_TIMEOUT, S_ADMITTING, S_CARRYING, S_CLOSED, S_CLOSING, S_CONNECTING,
    S_HANDSHAKING_DOWNSTREAM, S_HANDSHAKING_UPSTREAM, S_OPENING_STREAM, S_RELAYING, W_EVENT,
    W_HELLO, W_LINGER,
)
from uproxy.transport.native.types cimport (
    CachedRoute, Connection, DoorState, Side, TlsSetup, Tunnel, Way,
)
from uproxy.transport.native.queues cimport mark_decided, report, ring_loop
from uproxy.transport.native.deadlines cimport seconds_until
from uproxy.transport.native.limits cimport (
    enter_limits, free_slot, mark_heard, mark_silent, mark_stalled, take_slot,
)
from uproxy.transport.native.route_cache cimport find_cached_route, is_carrying, is_route_valid
from uproxy.transport.native.channel cimport take_early, unwatch, watch
from uproxy.transport.native.tls cimport send_output
from uproxy.transport.native.side cimport fail_side, flush_handshake
from uproxy.transport.native.client_hello cimport HELLO_ABSENT, HELLO_BEGINS, receive_hello
from uproxy.transport.native.close cimport (
    close_connection, close_side, is_gone, is_told, linger_turn, link_connection,
)
from uproxy.transport.native.relay cimport (
    RELAY_ENDED, RELAY_FAILED, RELAY_GOES_ON, is_closing, relay_due, relay_timeout, start_relay,
)
from uproxy.transport.native.handshake cimport handshake_step, start_tls
from uproxy.transport.native.dial cimport start_dial, watch_loss
from uproxy.transport.native.state cimport ask_loop, enter_state
from uproxy.transport.native.tunnel cimport (
    free_tunnel, new_tunnel, prove, start_tunnel, tunnel_due,
)
from uproxy.transport.native.goodbye cimport begin_drain, say_goodbye
from uproxy.transport.native.stream cimport (
    answer_connect, begin_stream, is_movable, join_tunnel, leave_waiting, start_stream,
)
from uproxy.transport.native.pool cimport (
    find_tunnel, is_silent, leave_pool, pool_tunnel, share_failure, share_handshake,
    tunnel_timeout,
)

# The downstream side: who dialled us.


cdef inline void on_accepted(Connection *connection) noexcept nogil:
    """A connection was accepted for this thread."""
    cdef DoorState *door_state = connection.door_state
    cdef int why = enter_limits(connection)
    # deadlines count from `now`, which may be of before the acceptance
    connection.worker.now = max(connection.worker.now, connection.accepted_at)
    link_connection(connection)
    if why != F_NONE:
        fail_side(&connection.sides[0], why, 0)
        end_connection(connection, False)
    elif connection.carried_by != NULL:
        on_target_known(connection, connection.sides[0].channel.verified_peer.serial)
    elif door_state.ask:
        ask_loop(connection, E_ARRIVED)
    elif door_state.tls and not connection.in_clear:
        connection.sides[0].channel.tls_setup = door_state.downstream
        await_hello(connection, door_state.limit)
    else:
        on_target_known(connection, 0)


cdef inline void await_hello(Connection *connection, double seconds) noexcept nogil:
    """Wait for the ClientHello: the handshake may end so many seconds after the accept."""
    cdef Side *side = &connection.sides[0]
    cdef double left = seconds_until(connection, connection.accepted_at + seconds) if seconds else 0
    cdef int result = enter_state(connection, S_HANDSHAKING_DOWNSTREAM, left)
    connection.waits_for = W_HELLO
    mark_silent(connection)
    if result < 0 or watch(&side.channel, READ_EVENTS) < 0:
        on_failed(side)


cdef inline void on_client_hello(Side *side) noexcept nogil:
    """More of the ClientHello can be received."""
    cdef Connection *connection = side.connection
    cdef char *hello = NULL, *kept
    cdef size_t size = 0, kept_size
    cdef int result = receive_hello(side, &hello, &size)
    if result == 0 and watch(&side.channel, READ_EVENTS) == 0:
        return
    mark_heard(connection)
    if result <= 0:
        on_failed(side)
    elif result == HELLO_ABSENT:
        memset(&side.channel.tls_setup, 0, sizeof(TlsSetup))
        connection.in_clear, connection.waits_for = True, W_EVENT
        on_target_known(connection, 0)
    elif result == HELLO_BEGINS:
        unwatch(&side.channel)
        ask_loop(connection, E_ARRIVED)
    elif not take_slot(connection):
        fail_side(side, F_SLOTS, 0)
        on_failed(side)
    elif start_tls(&side.channel) < 0:
        on_failed(side)
    else:
        connection.waits_for = W_EVENT
        kept = take_early(&side.channel, &kept_size)  # where the hello is, if it came in pieces
        on_handshaken(side, handshake_step(side, hello, size))
        free(kept)


cdef inline void on_handshaken(Side *side, int result) noexcept nogil:
    """A step of a side's handshake has returned `result`: 1 is its end."""
    cdef Connection *connection = side.connection
    cdef int mask = EPOLLOUT if side.channel.unsent else READ_EVENTS
    if result == 0 and watch(&side.channel, mask) == 0:
        mark_stalled(connection)
    elif result <= 0:
        on_failed(side)
    elif connection.is_pooled:
        on_carrying(side)
    elif side.index == 1:
        on_upstream_ready(connection)
    elif send_output(&side.channel) < 0:
        on_failed(side)
    else:
        free_slot(connection)
        if connection.door_state.tunnels.most:
            on_carrying(side)
        else:
            on_target_known(connection, side.channel.verified_peer.serial)


cdef inline void on_carrying(Side *side) noexcept nogil:
    """The handshake has ended of a tunnel, a caller's or one of the pool: carry streams."""
    cdef Connection *connection = side.connection
    cdef Tunnel *tunnel = connection.tunnel
    cdef bint stays = side.index == 1 or (
        is_route_valid(connection) and is_carrying(connection.listener))
    enter_state(connection, S_CARRYING, 0)
    if tunnel == NULL:
        tunnel = new_tunnel(connection, side, &connection.door_state.tunnels)
    if tunnel == NULL:
        fail_side(side, F_MEMORY, 0)
    if tunnel == NULL or start_tunnel(tunnel, side.index == 0) < 0:
        on_failed(side)
        return
    connection.trim_at = connection.worker.now + TRIM_AFTER_S
    report(connection, E_CARRYING, False)
    mark_decided(connection)
    if not stays:  # the door was replaced meanwhile, which has drained the others
        begin_drain(tunnel)
    stay_carrying(connection)


cdef inline void stay_carrying(Connection *connection) noexcept nogil:
    """Set the deadline of a tunnel."""
    cdef double seconds = seconds_until(connection, tunnel_due(connection.tunnel))
    if enter_state(connection, S_CARRYING, seconds) < 0:
        on_cut(connection, F_MEMORY)


cdef inline void on_target_known(Connection *connection, uint64_t serial) noexcept nogil:
    """The caller is verified (`serial`; 0 without TLS): use a cached route, or ask the loop."""
    cdef CachedRoute *cached_route = NULL
    # where the listener has a new door the loop asks it; it refuses a CONNECT to no address, and
    # judges what one says of a caller
    if (is_route_valid(connection) and connection.spoken == NULL
            and (connection.carried_by == NULL or connection.meant.known)):
        cached_route = find_cached_route(connection, serial)
    enter_state(connection, S_ADMITTING, 0)
    if cached_route == NULL:
        unwatch(&connection.sides[0].channel)
        ask_loop(connection, E_HANDSHAKEN)
        return
    connection.cached_route = cached_route
    report(connection, E_ADMITTED, False)
    mark_decided(connection)  # after the report: `NativeListener.close` then finds it
    if cached_route.upstream.ssl_ctx != NULL:
        connection.sides[1].channel.tls_setup = cached_route.upstream
    on_routed(connection, -1, &cached_route.target, cached_route.target_size,
              cached_route.connect, cached_route.handshake,
              &cached_route.way if cached_route.way.limits.most else NULL)


# The upstream side: whom we dial.


cdef inline void on_routed(Connection *connection, int fd, sockaddr_storage *target,
                           unsigned int size, double seconds, double handshake_limit,
                           Way *way) noexcept nogil:
    """A candidate is to be dialled, within so many seconds; `fd` is its socket if the loop has
    connected it, or -1.  With a `way` it is a stream of a tunnel to `target`."""
    cdef Side *side = &connection.sides[1]
    cdef int result
    connection.fault.what = F_NONE  # of the candidate before
    close_side(side, True)  # if it led to where the route before this one did
    enter_state(connection, S_CONNECTING, 0)
    connection.connect_limit, connection.handshake_limit = seconds, handshake_limit
    connection.way = way
    if way != NULL:
        reach_tunnel(connection, target, size)
        return
    result = start_dial(side, fd, target, size)
    if result < 0:
        on_failed(side)
    elif result == 1 and side.channel.tls_setup.ssl_ctx == NULL:
        on_upstream_ready(connection)
    elif not watch_downstream(connection):
        return
    elif result == 1:
        on_connected(side)
    elif enter_state(connection, S_CONNECTING, seconds) < 0:
        on_failed(side)


cdef inline void reach_tunnel(Connection *connection, sockaddr_storage *end,
                              unsigned int size) noexcept nogil:
    """Take a tunnel from the pool; wait for one that isn't ready, or dial another."""
    cdef Side *side = &connection.sides[1]
    cdef Tunnel *tunnel = find_tunnel(connection, end, size)
    cdef bint is_new = tunnel == NULL
    if is_new:
        tunnel = pool_tunnel(connection, end, size)
    if tunnel == NULL or not start_stream(side, connection.worker):
        fail_side(side, F_MEMORY, 0)
    if side.stream == NULL or (
            enter_state(connection, S_CONNECTING, connection.connect_limit) < 0):
        on_failed(side)
    else:
        join_tunnel(side, tunnel)
        if watch_downstream(connection) and tunnel.connection.state == S_HANDSHAKING_UPSTREAM:
            shake_hands_too(side)
    if tunnel != NULL and is_silent(tunnel):
        prove(tunnel)
    if is_new and tunnel != NULL:
        dial_tunnel(tunnel, connection.connect_limit, connection.handshake_limit)


cdef inline void dial_tunnel(Tunnel *tunnel, double seconds, double handshake_limit) noexcept nogil:
    """Dial a tunnel, with the time limits of who needs it first."""
    cdef Connection *connection = tunnel.connection
    cdef int result
    word_set(&connection.state, S_CONNECTING)  # where its life begins
    link_connection(connection)
    connection.handshake_limit = handshake_limit
    result = start_dial(tunnel.side, -1, &tunnel.end, tunnel.end_size)
    if result == 1:
        on_connected(tunnel.side)
    elif result < 0 or enter_state(connection, S_CONNECTING, seconds) < 0:
        on_failed(tunnel.side)


cdef inline void shake_hands_too(Side *side) noexcept nogil:
    """The tunnel that a side waits for is connected."""
    if enter_state(side.connection, S_HANDSHAKING_UPSTREAM, side.connection.handshake_limit) < 0:
        on_failed(side)


cdef inline void on_connected(Side *side) noexcept nogil:
    """The upstream socket is connected."""
    cdef Connection *connection = side.connection
    cdef Side *waiting = connection.tunnel.waiting if connection.is_pooled else NULL
    cdef Side *following
    while waiting != NULL:
        following = waiting.stream.after
        shake_hands_too(waiting)
        waiting = following
    if side.channel.tls_setup.ssl_ctx == NULL:
        on_upstream_ready(connection)
        return
    connection.handshake_started = clock_of(CLOCK_MONOTONIC)
    if (enter_state(connection, S_HANDSHAKING_UPSTREAM, connection.handshake_limit) < 0
            or start_tls(&side.channel) < 0):
        on_failed(side)
    else:
        on_handshaken(side, handshake_step(side, connection.worker.received, 0))


cdef inline void on_tunnel_ready(Connection *connection, Tunnel *tunnel) noexcept nogil:
    """There is a tunnel: send a CONNECT, and wait for its answer."""
    cdef Side *side = &connection.sides[1]
    cdef H2Stream *h2 = open_stream(
        &tunnel.session, connection.way.authority, connection.way.authority_size,
        connection.way.fields, connection.way.fields_size, side)
    if h2 == NULL:
        fail_side(side, F_STREAM_REFUSED, 0)
        on_failed(side)
        return
    begin_stream(side, tunnel, h2)
    side.stream.end_delay = connection.way.end_delay
    share_handshake(tunnel.connection, 1, connection, 1)
    connection.shares_tls, tunnel.was_used = tunnel.was_used, True
    connection.dialled_from = tunnel.connection.dialled_from
    if enter_state(connection, S_OPENING_STREAM, connection.connect_limit) < 0:
        on_failed(side)


cdef inline void on_upstream_ready(Connection *connection) noexcept nogil:
    """Both sides are ready: relay if the cached route is still valid, or else ask the loop, which
    knows what has changed meanwhile."""
    cdef Side *side = &connection.sides[1]
    cdef CachedRoute *cached_route = connection.cached_route
    enter_state(connection, connection.state, 0)
    if cached_route != NULL and is_route_valid(connection):
        connection.relay_limits[0] = cached_route.idle
        connection.relay_limits[1] = cached_route.half_close
        report(connection, E_OPENED, False)
        begin_relay(connection, NULL, 0)
    elif flush_handshake(side) < 0:
        on_failed(side)
    else:
        unwatch(&side.channel)
        if watch_downstream(connection):
            ask_loop(connection, E_UPSTREAM_READY)


# The relay.


cdef inline void begin_relay(Connection *connection, const char *preface,
                             size_t size) noexcept nogil:
    """Move bytes, `preface` first."""
    enter_state(connection, S_RELAYING, 0)
    answer_connect(&connection.sides[0])
    if is_movable(connection):  # since its 200
        on_stranded(connection)
    else:
        after_relay(connection, start_relay(connection, preface, size), True)


cdef inline void on_stranded(Connection *connection) noexcept nogil:
    """The tunnel of its stream is lost, and no byte has passed: ask the loop for a route again.
    The side stays until that is dialled: what is reported of it may not be read yet."""
    connection.strandings += 1
    connection.trim_at = 0
    enter_state(connection, S_ADMITTING, 0)
    if watch_downstream(connection):
        ask_loop(connection, E_HANDSHAKEN)


cdef inline void on_relay_ended(Connection *connection, int result) noexcept nogil:
    """Both directions have ended (RELAY_ENDED), or it failed."""
    end_connection(connection, result == RELAY_ENDED)


cdef inline void after_relay(Connection *connection, int result, bint is_timed) noexcept nogil:
    """A step of the relay has returned `result` (a RelayResult).  The deadline is set when it has
    passed (`is_timed`) and when a side has ended or failed: for each receive it would cost more."""
    cdef bint closing = is_closing(connection)
    cdef double seconds
    if is_timed or connection.lost_at != 0 or (closing and connection.state == S_RELAYING):
        seconds = seconds_until(connection, relay_due(connection))
        if (enter_state(connection, S_CLOSING, seconds) if closing
                else enter_state(connection, S_RELAYING, seconds)) < 0:
            result = RELAY_FAILED
    if result != RELAY_GOES_ON:
        on_relay_ended(connection, result)


# The end.


cdef inline void on_failed(Side *side) noexcept nogil:
    """A step of a side before the relay has failed, for the reason in `connection.fault`: try the
    next candidate, let a refused caller read its alert, or reset."""
    cdef Connection *connection = side.connection
    if connection.tunnel != NULL:
        end_connection(connection, True)
        return
    if side.index == 1:
        close_side(side, True)
        if is_gone(&connection.sides[0]):
            end_by_downstream(connection)
            return
        connection.candidate_fault = connection.fault
        ask_loop(connection, E_UPSTREAM_FAILED)
        return
    free_slot(connection)
    if is_told(side):
        linger(side)
    else:
        end_connection(connection, False)


cdef inline void linger(Side *side) noexcept nogil:
    """Give a refused caller LINGER_S to read its alert; it may be evicted meanwhile."""
    cdef Connection *connection = side.connection
    mark_silent(connection)
    mark_decided(connection)
    if enter_state(connection, connection.state, LINGER_S) < 0:
        end_connection(connection, True)
        return
    connection.waits_for = W_LINGER
    continue_linger(side, 0)


cdef inline void continue_linger(Side *side, uint32_t events) noexcept nogil:
    """Epoll has reported `events` of a caller that lingers (0: it begins to)."""
    if linger_turn(side, events):
        end_connection(side.connection, True)


cdef inline void on_deadline(Connection *connection) noexcept nogil:
    """The time that `enter_state` was given has passed."""
    cdef Side *side
    if connection.state == S_CARRYING:
        enter_state(connection, S_CARRYING, 0)  # until the turn's end
        tunnel_timeout(connection.tunnel)
    elif connection.state >= S_RELAYING:
        after_relay(connection, relay_timeout(connection), True)
    elif connection.waits_for == W_LINGER:
        end_connection(connection, True)
    elif connection.is_offloaded:
        if connection.deferred_failure == F_NONE:
            connection.deferred_failure = F_TIMEOUT
        enter_state(connection, connection.state, 0)
    else:
        side = &connection.sides[0 if connection.state == S_HANDSHAKING_DOWNSTREAM else 1]
        fail_side(side, F_TIMEOUT, 0)
        on_failed(side)


cdef inline void on_cut(Connection *connection, int why) noexcept nogil:
    """The loop (F_CUT) or a limit (F_EVICTED, F_STALLED) wants it ended now: reset both sides. The
    reason of a refused caller stays."""
    if connection.is_offloaded:
        connection.deferred_failure = why
        return
    if connection.waits_for != W_LINGER:
        connection.fault.what = F_NONE
        fail_side(&connection.sides[0], why, 0)
    end_connection(connection, False)
    if why == F_CUT:
        ring_loop(&connection.worker.shared.reports)  # it waits for the report


cdef inline void end_connection(Connection *connection, bint orderly) noexcept nogil:
    """Close both sides, with resets unless `orderly`, and report it: nothing but C_RELEASE touches
    the connection after that."""
    if connection.tunnel != NULL:
        orderly = end_tunnel(connection) or orderly
    enter_state(connection, S_CLOSED, 0)
    close_connection(connection, orderly)
    mark_decided(connection)
    report(connection, E_CLOSED, False)


cdef inline bint end_tunnel(Connection *connection) noexcept nogil:
    """End what a connection carries: streams are cut, whoever waits for it is told why, and the
    peer gets a GOAWAY.  Returns whether the socket has taken that."""
    cdef Tunnel *tunnel = connection.tunnel
    cdef Side *side
    cdef bint said
    leave_pool(tunnel)
    while tunnel.open != NULL:
        on_cut(tunnel.open.connection, F_CUT)
    while tunnel.waiting != NULL:
        side = tunnel.waiting
        leave_waiting(side)
        share_failure(connection, side)
        on_failed(side)
    said = say_goodbye(tunnel)
    free_tunnel(tunnel)
    return said


# Beside: the downstream side while upstream is being reached.


cdef inline bint watch_downstream(Connection *connection) noexcept nogil:
    """Have a reset of the downstream side reported.  False if that can't be done: it has ended."""
    if watch_loss(&connection.sides[0]) < 0:
        end_connection(connection, False)
        return False
    return True


cdef inline void end_by_downstream(Connection *connection) noexcept nogil:
    """End it because of the downstream socket's error, whatever came of the candidate."""
    connection.fault.what = F_NONE
    fail_side(&connection.sides[0], F_OS, connection.sides[0].channel.error)
    end_connection(connection, False)
