"""Requests that a peer sends on its tunnel: each becomes a connection, which a door decides about.

One that is no CONNECT to an address, or one too many, becomes a connection that is over: it is on
record like others that are refused.
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC

from uproxy.transport.native.system cimport clock_of, word_add
from uproxy.transport.native.frames cimport H2_REFUSED_STREAM
from uproxy.transport.native.hpack_table cimport HeaderField
from uproxy.transport.native.faults cimport code_of, fault_words
from uproxy.transport.native.streams cimport ConnectRequest, H2Stream, Session
from uproxy.transport.native.connect cimport find_blamed
from uproxy.transport.native.verbs cimport release_stream, reset_stream
from uproxy.transport.native.codes cimport MAX_SHOWN
from uproxy.transport.native.types cimport Connection, DoorState, Tunnel, Unnamed
from uproxy.transport.native.limits cimport mark_heard
from uproxy.transport.native.route_cache cimport hold_for_stream
from uproxy.transport.native.accept cimport is_behind, new_connection, set_worker
from uproxy.transport.native.stream cimport begin_stream, forget_stream, start_stream
from uproxy.transport.native.pool cimport share_handshake
from uproxy.transport.native.connection cimport on_accepted
from uproxy.transport.native.spoken cimport drop_spoken, keep_spoken


cdef inline Connection *new_arrival(Tunnel *tunnel, ConnectRequest *request) noexcept nogil:
    """Make the connection of a CONNECT.  `request` is NULL if the CONNECT was refused already, and
    the connection is made for the record only.  Returns NULL if the listener is closed, the loop is
    behind with processing ends, or there is no memory."""
    cdef Connection *carrier = tunnel.connection
    cdef Connection *made
    cdef DoorState *door_state = NULL
    if is_behind(carrier.worker.shared):
        return NULL
    made = new_connection(-1)
    if made == NULL:
        return NULL
    if request == NULL or (keep_spoken(made, request.headers)
                           and start_stream(&made.sides[0], carrier.worker)):
        door_state = hold_for_stream(carrier.listener)
    if door_state == NULL:
        forget_stream(&made.sides[0])
        drop_spoken(made)
        free(made)
        return NULL
    set_worker(made, carrier.worker)
    made.listener, made.door_state, made.carried_by = carrier.listener, door_state, carrier
    made.source, made.local = carrier.source, carrier.local
    made.accepted_at = clock_of(CLOCK_MONOTONIC)
    made.shares_tls = True
    share_handshake(carrier, 0, made, 0)
    if tunnel.is_spare:  # it isn't to make room for its own stream
        tunnel.is_spare = False
        mark_heard(carrier)
    word_add(&carrier.worker.load, 1)
    word_add(&carrier.worker.shared.alive, 1)
    return made


cdef inline void take_request(Session *session, H2Stream *h2,
                              ConnectRequest *request) noexcept nogil:
    """`on_request` of a session: an arrival, or REFUSED_STREAM where nobody can decide about it."""
    cdef Tunnel *tunnel = <Tunnel *>session.owner
    cdef Connection *made = new_arrival(tunnel, request)
    if made == NULL:
        reset_stream(session, h2, H2_REFUSED_STREAM)
        release_stream(session, h2)
        return
    memcpy(made.meant.host, request.host, 16)
    made.meant.port, made.meant.known = request.port, True
    begin_stream(&made.sides[0], tunnel, h2)
    on_accepted(made)


cdef inline void note_refused(Session *session, uint32_t _id, int _status,
                              int why) noexcept nogil:
    """`on_refused` of a session: a request that was refused for what it looks like, or as one too
    many, is on record like an arrival that a door refuses."""
    cdef Tunnel *tunnel = <Tunnel *>session.owner
    cdef Connection *made = new_arrival(tunnel, NULL)
    if made != NULL:
        made.unnamed = describe_unnamed(session, why)
        on_accepted(made)


cdef inline Unnamed *describe_unnamed(Session *session, int why) noexcept nogil:
    """Return why the request in `session.scratch` was refused.  NULL: no memory."""
    cdef Unnamed *unnamed = <Unnamed *>calloc(1, sizeof(Unnamed))
    cdef HeaderField *field = find_blamed(session.scratch, why)
    if unnamed == NULL:
        return NULL
    unnamed.why, unnamed.most = why, session.settings.max_streams
    if field != NULL:
        unnamed.size = min(<int>field.value_size, <int>MAX_SHOWN)
        memcpy(unnamed.value, field.value, unnamed.size)
    return unnamed


cdef inline words_of_unnamed(Unnamed *unnamed):
    """Return why, in words, and the error code of that (RFC 9113 §7); NULL gives None."""
    if unnamed == NULL:
        return None
    value = repr(unnamed.value[:unnamed.size].decode("latin-1"))
    words = fault_words(unnamed.why).decode().format(most=unnamed.most, value=value)
    return words, code_of(unnamed.why)
