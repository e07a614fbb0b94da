"""The limits on connections and on handshakes in flight, and whom to evict when all are in use.

A connection is *silent* until its ClientHello is complete, and again while a refused caller
lingers.  Silent connections are what a slow-loris attack has, so the one that has been silent for
the longest is evicted when a new one comes.  Only where there is none a peer's tunnel is that has
been *spare*, which is without streams, for the longest: strangers evict each other first.

A handshake is *stalled* from our answer until the peer sends more, unless that waits to be read.
Strangers can stall after a ClientHello as well, so the one stalled for the longest is evicted when
there is no slot for a new one.  While a step of it is being done, by whatever thread, it isn't.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from uproxy.transport.native.system cimport (
    MSG_PEEK, pthread_mutex_lock, pthread_mutex_unlock, recv,
)
from uproxy.transport.native.codes cimport (
    C_EVICT, C_EVICT_STALLED, F_FULL, F_MEMORY, F_NONE, F_SOURCE_FULL, MAX_STALLED_SEEN,
    MAX_TIMES_HEARD, SOURCE_BUCKETS,
)
from uproxy.transport.native.types cimport AwaitedList, Command, Connection, LimitState, Source
from uproxy.transport.native.queues cimport new_command, send_command


cdef inline void network_of(const uint8_t *host, uint8_t *network) noexcept nogil:
    """Write to `network` what connections are counted by: an IPv4 address (mapped into IPv6), or
    the /64 of an IPv6 one, because whoever has one such address has 2^64."""
    cdef int index
    memcpy(network, host, 16)
    for index in range(10):
        if host[index]:
            memset(network + 8, 0, 8)
            return
    if host[10] != 0xFF or host[11] != 0xFF:
        memset(network + 8, 0, 8)


cdef inline uint32_t source_hash(LimitState *limits, const uint8_t *network) noexcept nogil:
    """Return the hash of a network: multiply-shift with random keys.  Whoever doesn't know them
    finds networks that share a bucket by chance only."""
    cdef uint64_t value = limits.keys[4]
    cdef uint32_t word
    cdef int index
    for index in range(4):
        memcpy(&word, network + 4 * index, 4)
        value += limits.keys[index] * word
    return <uint32_t>(value >> 32)


cdef inline Source **find_source(LimitState *limits, const uint8_t *host) noexcept nogil:
    """Return what points to the source's count, or to NULL where there is none yet."""
    cdef uint8_t network[16]
    cdef Source **at
    network_of(host, network)
    at = &limits.sources[source_hash(limits, network) % SOURCE_BUCKETS]
    while at[0] != NULL and memcmp(at[0].host, network, 16) != 0:
        at = &at[0].chain
    return at


cdef inline void link_awaited(AwaitedList *awaited, Connection *connection,
                              bint is_next) noexcept nogil:
    """Put a connection that is in no list at the end of one, or make it the next to be evicted;
    under the lock."""
    connection.awaited_in = awaited
    connection.awaited_before = NULL if is_next else awaited.last
    connection.awaited_after = awaited.first if is_next else NULL
    if connection.awaited_before != NULL:
        connection.awaited_before.awaited_after = connection
    else:
        awaited.first = connection
    if connection.awaited_after != NULL:
        connection.awaited_after.awaited_before = connection
    else:
        awaited.last = connection


cdef inline void unlink_awaited(Connection *connection) noexcept nogil:
    """Take a connection out of the list that it is in, if any, under the lock."""
    cdef AwaitedList *awaited = connection.awaited_in
    if awaited == NULL:
        return
    connection.awaited_in = NULL
    if connection.awaited_before != NULL:
        connection.awaited_before.awaited_after = connection.awaited_after
    else:
        awaited.first = connection.awaited_after
    if connection.awaited_after != NULL:
        connection.awaited_after.awaited_before = connection.awaited_before
    else:
        awaited.last = connection.awaited_before


cdef inline void drop_slot(LimitState *limits, Connection *connection) noexcept nogil:
    """Stop counting a handshake, if it is counted, under the lock."""
    if connection.has_slot:
        unlink_awaited(connection)
        connection.has_slot = False
        limits.slots -= 1


cdef inline void count_out(LimitState *limits, Connection *connection) noexcept nogil:
    """Stop counting a connection, under the lock."""
    cdef Source **at
    cdef Source *gone
    drop_slot(limits, connection)
    unlink_awaited(connection)
    if not connection.inside:
        return
    connection.inside = False
    limits.inside -= 1
    if not connection.source.known:
        return
    at = find_source(limits, connection.source.host)
    at[0].count -= 1
    if at[0].count == 0:
        gone = at[0]
        at[0] = gone.chain
        free(gone)


cdef inline bint evict(LimitState *limits) noexcept nogil:
    """Cut the connection that has been silent for the longest; if there is none, the tunnel that
    has been spare for the longest.  False if there is none of these either."""
    cdef Connection *connection = limits.silent.first
    cdef bint is_spare = connection == NULL
    cdef Command *command
    if is_spare:
        connection = limits.spare.first
    if connection == NULL:
        return False
    command = new_command(C_EVICT, connection)
    if command == NULL:
        return False
    if is_spare:
        unlink_awaited(connection)  # it counts until it has ended: a stream may have begun
    else:
        count_out(limits, connection)
    limits.full += 1
    send_command(connection.worker, command)
    return True


cdef inline int count_in(LimitState *limits, Connection *connection) noexcept nogil:
    """Count a connection, under the lock.  Returns a Failure or F_NONE."""
    cdef Source **at = NULL
    if connection.source.known:
        at = find_source(limits, connection.source.host)
        if limits.most_per_source and at[0] != NULL and at[0].count >= limits.most_per_source:
            limits.source_full += 1
            return F_SOURCE_FULL
    if limits.inside >= limits.most and not evict(limits):
        limits.full += 1
        return F_FULL
    if at != NULL:
        at = find_source(limits, connection.source.host)  # the evicted one may have been the last
        if at[0] == NULL:
            at[0] = <Source *>calloc(1, sizeof(Source))
            if at[0] == NULL:
                return F_MEMORY
            network_of(connection.source.host, at[0].host)
        at[0].count += 1
    limits.inside += 1
    connection.inside = True
    return F_NONE


cdef inline int enter_limits(Connection *connection) noexcept nogil:
    """Count a new connection.  Returns F_NONE, or the Failure that says which limit refuses it."""
    cdef LimitState *limits = &connection.worker.shared.limits
    cdef int why
    pthread_mutex_lock(&limits.lock)
    why = count_in(limits, connection)
    pthread_mutex_unlock(&limits.lock)
    return why


cdef inline void leave_limits(Connection *connection) noexcept nogil:
    """Stop counting a connection, if it is counted."""
    cdef LimitState *limits = &connection.worker.shared.limits
    pthread_mutex_lock(&limits.lock)
    count_out(limits, connection)
    pthread_mutex_unlock(&limits.lock)


cdef inline void mark_silent(Connection *connection) noexcept nogil:
    """Note that nothing but its ClientHello, or its end, is awaited: it may be evicted."""
    cdef LimitState *limits = &connection.worker.shared.limits
    pthread_mutex_lock(&limits.lock)
    if connection.inside and connection.awaited_in == NULL:
        link_awaited(&limits.silent, connection, False)
    pthread_mutex_unlock(&limits.lock)


cdef inline void mark_spare(Connection *connection) noexcept nogil:
    """Note that the tunnel of a peer has no streams: it may be evicted where nobody is silent."""
    cdef LimitState *limits = &connection.worker.shared.limits
    pthread_mutex_lock(&limits.lock)
    if connection.inside and connection.awaited_in == NULL:
        link_awaited(&limits.spare, connection, False)
    pthread_mutex_unlock(&limits.lock)


cdef inline void mark_stalled(Connection *connection) noexcept nogil:
    """Note that its handshake, if it counts as one in flight, goes on when the peer has sent more:
    it may be evicted.  Who sends byte by byte isn't spared for it longer than MAX_TIMES_HEARD."""
    cdef LimitState *limits = &connection.worker.shared.limits
    pthread_mutex_lock(&limits.lock)
    if connection.has_slot and connection.awaited_in == NULL:
        connection.times_heard += 1
        link_awaited(&limits.stalled, connection, connection.times_heard > MAX_TIMES_HEARD)
    pthread_mutex_unlock(&limits.lock)


cdef inline bint mark_heard(Connection *connection) noexcept nogil:
    """Note that its ClientHello is complete, that a step of its handshake begins, or that it
    carries a stream: it isn't evicted.  Returns whether it counts as a handshake in flight: if the
    step's doesn't, another has just got its slot, and C_EVICT_STALLED is on its way."""
    cdef LimitState *limits = &connection.worker.shared.limits
    cdef bint has_slot
    pthread_mutex_lock(&limits.lock)
    unlink_awaited(connection)
    has_slot = connection.has_slot
    pthread_mutex_unlock(&limits.lock)
    return has_slot


cdef inline bint is_stalled(Connection *connection) noexcept nogil:
    """Whether the peer of a handshake in `LimitState.stalled` has neither sent what waits to be
    read, nor anything before it has taken what we have sent; under the lock, which its thread needs
    before it touches the channel."""
    cdef char byte
    return (connection.sides[0].channel.unsent > 0
            or recv(connection.sides[0].channel.fd, &byte, 1, MSG_PEEK) <= 0)


cdef inline bint evict_stalled(LimitState *limits) noexcept nogil:
    """Cut the handshake that has stalled for the longest, under the lock.  False if there is none
    among the MAX_STALLED_SEEN longest: then we are slow, and not they."""
    cdef Connection *connection
    cdef Command *command
    cdef int seen
    for seen in range(MAX_STALLED_SEEN):
        connection = limits.stalled.first
        if connection == NULL:
            return False
        if is_stalled(connection):
            command = new_command(C_EVICT_STALLED, connection)
            if command == NULL:
                return False
            drop_slot(limits, connection)
            limits.no_slot += 1
            send_command(connection.worker, command)
            return True
        unlink_awaited(connection)
        link_awaited(&limits.stalled, connection, False)
    return False


cdef inline bint take_slot(Connection *connection) noexcept nogil:
    """Count a handshake in flight, whose ClientHello is complete.  False if there are too many."""
    cdef LimitState *limits = &connection.worker.shared.limits
    cdef bint is_free
    pthread_mutex_lock(&limits.lock)
    is_free = limits.slots < limits.most_slots or evict_stalled(limits)
    if is_free:
        limits.slots += 1
        connection.has_slot = True
    else:
        limits.no_slot += 1
    pthread_mutex_unlock(&limits.lock)
    return is_free


cdef inline void free_slot(Connection *connection) noexcept nogil:
    """Stop counting a handshake, if it is counted."""
    cdef LimitState *limits = &connection.worker.shared.limits
    pthread_mutex_lock(&limits.lock)
    drop_slot(limits, connection)
    pthread_mutex_unlock(&limits.lock)
