"""What epoll's events mean for a connection: which of its verbs to call."""

from libc.stdint cimport uint32_t

from uproxy.transport.native.system cimport epoll_event
from uproxy.transport.native.codes cimport (
    F_CUT, F_EVICTED, F_NONE, F_TIMEOUT, K_CHANNEL, MAX_HANDSHAKE_STEPS, S_CARRYING, S_CLOSED,
    S_CLOSING, S_CONNECTING, S_HANDSHAKING_DOWNSTREAM, S_HANDSHAKING_UPSTREAM, S_RELAYING,
    W_EVENT, W_HELLO, W_LINGER, W_LOOP,
)
from uproxy.transport.native.types cimport Channel, Connection, Side
from uproxy.transport.native.limits cimport mark_heard
from uproxy.transport.native.side cimport readiness
from uproxy.transport.native.relay cimport relay_turn
from uproxy.transport.native.handshake cimport continue_handshake
from uproxy.transport.native.offload cimport offload, uncached_peers_come
from uproxy.transport.native.dial cimport finish_dial, is_connected, notice_loss
from uproxy.transport.native.state cimport state_of
from uproxy.transport.native.connection cimport (
    after_relay, continue_linger, end_by_downstream, on_client_hello, on_connected, on_cut,
    on_deadline, on_failed, on_handshaken,
)
from uproxy.transport.native.carrying cimport carry


cdef inline void dispatch(Side *side, uint32_t events) noexcept nogil:
    """Call what a side's connection waits for with epoll's `events` of the side."""
    cdef Connection *connection = side.connection
    cdef int state = state_of(connection)
    if connection.waits_for == W_EVENT and (state == S_RELAYING or state == S_CLOSING):
        after_relay(connection, relay_turn(side, readiness(events)), False)
    elif state == S_CLOSED:
        return  # an event before this one has ended it
    elif state == S_CARRYING:
        carry(connection.tunnel, events)
    elif side.index == 0 and (connection.waits_for == W_LOOP or state >= S_CONNECTING):
        notice_downstream(side, events)
    elif connection.waits_for == W_HELLO:
        on_client_hello(side)
    elif connection.waits_for == W_LINGER:
        continue_linger(side, events)
    elif connection.waits_for == W_LOOP:
        return  # upstream isn't watched meanwhile: this event came before
    elif state == S_CONNECTING:
        if finish_dial(side) < 0:
            on_failed(side)
        else:
            on_connected(side)
    else:
        step_handshake(side)


cdef inline void step_handshake(Side *side) noexcept nogil:
    """The socket of a side that shakes hands is ready: do the next step, or let a helper do it."""
    if (side.index == 1 or not mark_heard(side.connection) or side.channel.unsent
            or not uncached_peers_come(side.connection) or not offload(side)):
        on_handshaken(side, continue_handshake(side))


cdef inline void take_back(Connection *connection, int result) noexcept nogil:
    """A helper has done a step of the downstream handshake.  What came up meanwhile ends the
    connection, but isn't the reason if the step has failed by itself."""
    cdef Side *side = &connection.sides[0]
    cdef int why = connection.deferred_failure
    side.channel.running_on, connection.is_offloaded = connection.worker, False
    if why == F_NONE or result < 0:
        on_handshaken(side, result)
    elif why == F_TIMEOUT:
        on_deadline(connection)
    if state_of(connection) != S_CLOSED and (why == F_CUT or why == F_EVICTED):
        on_cut(connection, why)


cdef inline void notice_downstream(Side *side, uint32_t events) noexcept nogil:
    """Epoll has reported `events` of the downstream side while upstream is being reached."""
    if notice_loss(side, events, is_connected(side.connection)) < 0:
        end_by_downstream(side.connection)


cdef inline bint is_handshaking(void *watched) noexcept nogil:
    """Whether an event is about a handshake."""
    cdef Connection *connection
    if (<int *>watched)[0] != K_CHANNEL:
        return False
    connection = (<Channel *>watched).side.connection
    return connection.waits_for == W_HELLO or (connection.waits_for == W_EVENT and (
        connection.state == S_HANDSHAKING_DOWNSTREAM
        or connection.state == S_HANDSHAKING_UPSTREAM))


cdef inline void run_handshakes(epoll_event *events, int count) noexcept nogil:
    """Do MAX_HANDSHAKE_STEPS steps of handshakes at most, because each takes long.  Epoll reports
    the others again next turn: handshakes wait for handshakes, and relays don't wait for them."""
    cdef int at, steps = 0
    for at in range(count):
        if is_handshaking(events[at].data.ptr):
            dispatch((<Channel *>events[at].data.ptr).side, events[at].events)
            steps += 1
            if steps == MAX_HANDSHAKE_STEPS:
                return
