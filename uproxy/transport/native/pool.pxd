"""A thread's pool of the tunnels that it has dialled, by plan, far end and SNI.

A tunnel is dialled once for all who need it meanwhile; they wait for it, and share its failure.  In
the pool are those that get new streams.  A tunnel has no plan, because a plan has a key: when the
last snapshot with a plan is gone, the loop sends C_RETIRE.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_REALTIME

from uproxy.transport.native.system cimport (
    SILENT_TUNNEL_S, clock_of, sockaddr_storage, word_add,
)
from uproxy.transport.native.verbs cimport session_room
from uproxy.transport.native.control cimport go_away
from uproxy.transport.native.codes cimport (
    F_CUT, F_NONE, F_STREAM_REFUSED, TUNNEL_BUCKETS, V_ACCEPTED,
)
from uproxy.transport.native.types cimport Channel, Connection, Side, StreamLimit, Tunnel, Worker
from uproxy.transport.native.verify_cache cimport hold_verified
from uproxy.transport.native.dial cimport endpoint_of
from uproxy.transport.native.accept cimport new_connection, set_worker
from uproxy.transport.native.tunnel cimport (
    has_streams, mark_dirty, new_tunnel, trim_tunnel,
)
from uproxy.transport.native.goodbye cimport begin_drain

cdef enum:
    ROOM_BEFORE_SETTINGS = 100  # streams for which a tunnel is dialled (RFC 9113 §6.5.2)


cdef inline uint64_t hash_of(uint64_t begun, sockaddr_storage *end,
                             unsigned int size) noexcept nogil:
    """Return a hash of a number and a far end's address."""
    cdef const unsigned char *at = <const unsigned char *>end
    cdef unsigned int index
    for index in range(size):
        begun = (begun ^ at[index]) * 0x100000001B3ULL
    return begun


cdef inline Tunnel **bucket_of(Worker *worker, uint64_t plan, sockaddr_storage *end,
                               unsigned int size) noexcept nogil:
    """Return the bucket of the hash table with the tunnels that have a plan and a far end."""
    return &worker.pooled[(hash_of(plan, end, size) >> 32) % TUNNEL_BUCKETS]


cdef inline bint leads_to(Tunnel *tunnel, Connection *who, sockaddr_storage *end,
                          unsigned int size) noexcept nogil:
    """Whether a tunnel was dialled to this far end as `who` would: with the same plan and SNI.  A
    plan has one context, in which a name has one address."""
    return (tunnel.plan == who.way.plan and tunnel.end_size == size
            and tunnel.server_name == who.sides[1].channel.tls_setup.server_name
            and memcmp(&tunnel.end, end, size) == 0)


# How many streams a far end allows is remembered when its tunnels have ended: on a new one streams
# are opened before it can say so, and those above its limit would be refused.


cdef inline StreamLimit *limit_at(Worker *worker, uint64_t end) noexcept nogil:
    """Return the entry for the limit of a far end.  It may hold that of another one, which is then
    overwritten."""
    return &worker.stream_limits[(end >> 32) % TUNNEL_BUCKETS]


cdef inline void note_limit(Tunnel *tunnel) noexcept nogil:
    """Remember how many streams a far end allows on a tunnel, as its SETTINGS say; 0 isn't
    remembered."""
    cdef uint64_t end = hash_of(0, &tunnel.end, tunnel.end_size)
    cdef StreamLimit *limit = limit_at(tunnel.connection.worker, end)
    if tunnel.session.peer_max_streams:
        limit.end = end
        limit.most = <int>min(tunnel.session.peer_max_streams, <unsigned int>0x7FFFFFFF)


cdef inline int limit_of(Worker *worker, sockaddr_storage *end, unsigned int size) noexcept nogil:
    """Return how many streams a far end allows on a tunnel, as far as is known."""
    cdef uint64_t key = hash_of(0, end, size)
    cdef StreamLimit *limit = limit_at(worker, key)
    return limit.most if limit.most and limit.end == key else <int>ROOM_BEFORE_SETTINGS


cdef inline int room_of(Tunnel *tunnel, int limit) noexcept nogil:
    """Return how many more may wait for a tunnel, or have a stream on it; `limit` is what its far
    end allows, as long as it doesn't say so on this tunnel."""
    cdef int most = <int>tunnel.limits.most
    if not tunnel.is_ready:
        return min(most, limit) - tunnel.waiting_count
    if not tunnel.session.settings_received:
        most = min(most, limit)
    return min(<int>session_room(&tunnel.session),
               most - <int>tunnel.session.streams) - tunnel.waiting_count


cdef inline Tunnel *find_tunnel(Connection *who, sockaddr_storage *end,
                                unsigned int size) noexcept nogil:
    """Return a tunnel for `who` with room for one more stream, which may still be being dialled;
    NULL: dial one."""
    cdef Tunnel *tunnel = bucket_of(who.worker, who.way.plan, end, size)[0]
    cdef int limit = limit_of(who.worker, end, size)
    while tunnel != NULL:
        if leads_to(tunnel, who, end, size) and room_of(tunnel, limit) > 0:
            return tunnel
        tunnel = tunnel.next_pooled
    return NULL


cdef inline bint is_silent(Tunnel *tunnel) noexcept nogil:
    """Whether nothing has come for so long that the far end may be gone."""
    return (tunnel.is_ready and not tunnel.is_proving
            and tunnel.connection.worker.now - tunnel.heard_at > SILENT_TUNNEL_S)


cdef inline Tunnel *pool_tunnel(Connection *who, sockaddr_storage *end,
                                unsigned int size) noexcept nogil:
    """Make a connection that is to carry a tunnel to a far end, with the handshake that the
    upstream side of `who` would make, and put it in the pool.  NULL: no memory."""
    cdef Connection *made = new_connection(-1)
    cdef Channel *theirs = &who.sides[1].channel
    cdef Tunnel *tunnel
    if made == NULL or theirs.tls_setup.ssl_ctx == NULL:
        free(made)
        return NULL
    set_worker(made, who.worker)
    tunnel = new_tunnel(made, &made.sides[1], &who.way.limits)
    if tunnel == NULL:
        free(made)
        return NULL
    tunnel.plan, tunnel.end_size = who.way.plan, size
    tunnel.server_name = theirs.tls_setup.server_name
    memcpy(&tunnel.end, end, size)
    tunnel.bucket = bucket_of(who.worker, who.way.plan, end, size)
    tunnel.next_pooled, tunnel.bucket[0] = tunnel.bucket[0], tunnel
    made.is_pooled, made.decided = True, 1
    made.accepted_at = who.worker.now
    made.source, made.local = who.source, who.local
    endpoint_of(end, &made.meant)
    made.listener, made.door_state = who.listener, who.door_state
    word_add(&made.listener.held, 1)
    word_add(&made.door_state.held, 1)
    word_add(&made.worker.load, 1)
    word_add(&made.worker.shared.alive, 1)
    word_add(&made.worker.shared.pooled_tunnels, 1)
    made.sides[1].channel.tls_setup = theirs.tls_setup
    if theirs.owned_contexts > 1:  # otherwise the DoorState has it
        theirs.owned_contexts -= 1
        made.sides[1].channel.owned_contexts = 1
    return tunnel


cdef inline void leave_pool(Tunnel *tunnel) noexcept nogil:
    """Give a tunnel no new streams: it ends with its last one."""
    cdef Tunnel **at = tunnel.bucket
    tunnel.is_retired = True
    if at == NULL:
        return
    while at[0] != tunnel:
        at = &at[0].next_pooled
    at[0] = tunnel.next_pooled
    tunnel.bucket = NULL
    mark_dirty(tunnel)


cdef inline void leave_if_useless(Tunnel *tunnel) noexcept nogil:
    """Give up a tunnel without streams on which none can be opened, because its far end allows none
    or the numbers are used up: it would be in the pool for as long as an idle one."""
    if tunnel.bucket != NULL and not has_streams(tunnel) and session_room(&tunnel.session) == 0:
        leave_pool(tunnel)


cdef inline void retire_plan(Worker *worker, uint64_t plan) noexcept nogil:
    """Give no new streams to the tunnels that were dialled with a plan."""
    cdef Tunnel *tunnel
    cdef Tunnel *following
    cdef int bucket
    for bucket in range(TUNNEL_BUCKETS):
        tunnel = worker.pooled[bucket]
        while tunnel != NULL:
            following = tunnel.next_pooled
            if tunnel.plan == plan:
                leave_pool(tunnel)
            tunnel = following


cdef inline void share_handshake(Connection *from_whom, int side, Connection *to,
                                 int other) noexcept nogil:
    """Give a stream what the handshake of its tunnel has proved."""
    cdef Channel *proved = &from_whom.sides[side].channel
    cdef Channel *channel = &to.sides[other].channel
    if channel.verified_peer == NULL and proved.verified_peer != NULL:
        channel.verified_peer = hold_verified(
            &to.worker.shared.verify_cache, proved.verified_peer)
        channel.verdict = V_ACCEPTED
    to.version, to.cipher, to.group = from_whom.version, from_whom.cipher, from_whom.group
    to.handshake_seconds = from_whom.handshake_seconds


cdef inline void share_failure(Connection *failed, Side *side) noexcept nogil:
    """Give a side that has waited for a tunnel the reason why there is none."""
    cdef Channel *channel = &side.channel
    cdef Channel *refused = &failed.sides[1].channel
    side.connection.fault, side.connection.fault.side = failed.fault, 1
    if failed.fault.what == F_CUT or failed.fault.what == F_NONE:
        side.connection.fault.what = F_STREAM_REFUSED
    channel.verdict = refused.verdict
    if refused.refused_with != NULL:
        side.connection.worker.shared.share_refusal(refused, channel)


# Time.


cdef inline bint is_unproven(Tunnel *tunnel) noexcept nogil:
    """Whether a tunnel was sent a PING whose answer hasn't come in time."""
    return tunnel.is_proving and tunnel.connection.worker.now >= tunnel.proved_by


cdef inline void tunnel_timeout(Tunnel *tunnel) noexcept nogil:
    """Do what the deadline of a tunnel was set for (`tunnel_due`): free memory, send the second
    GOAWAY, or take it out of use because it gave no answer, was idle too long, or a certificate
    expired."""
    cdef Connection *connection = tunnel.connection
    cdef double now = connection.worker.now
    mark_dirty(tunnel)
    if tunnel.is_over:
        tunnel.lingers_until = 0
        return
    if connection.trim_at != 0 and now >= connection.trim_at:
        trim_tunnel(tunnel)
    if tunnel.final_at != 0 and now >= tunnel.final_at:
        tunnel.final_at = 0
        go_away(&tunnel.session, True)
    if is_unproven(tunnel):
        leave_pool(tunnel)
    if (tunnel.empty_since != 0 and tunnel.limits.idle
            and now >= tunnel.empty_since + tunnel.limits.idle) or has_expired(tunnel):
        if connection.is_pooled:
            leave_pool(tunnel)
        else:
            begin_drain(tunnel)


cdef inline bint has_expired(Tunnel *tunnel) noexcept nogil:
    """Whether a certificate of a tunnel's handshake has expired: then no stream is opened on it."""
    return tunnel.expires != 0 and clock_of(CLOCK_REALTIME) >= tunnel.expires
