"""The limits on connections and on handshakes in flight, and whom to evict when connections are
full.

A connection is *silent* until its ClientHello is complete, and again while a refused caller
lingers.  Silent connections are what a slow-loris attack has, so the one that has been silent for
the longest is evicted when a new one comes.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from uproxy.transport.native.system cimport (
    pthread_mutex_lock, pthread_mutex_unlock, word_add, word_get,
)
from uproxy.transport.native.codes cimport (
    C_EVICT, F_FULL, F_MEMORY, F_NONE, F_SOURCE_FULL, SOURCE_BUCKETS,
)
from uproxy.transport.native.types cimport Command, Connection, LimitState, Source
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


cdef inline void unlink_silent(LimitState *limits, Connection *connection) noexcept nogil:
    """Take a connection out of the list of silent ones, under the lock."""
    if not connection.silent:
        return
    connection.silent = False
    if connection.silent_before != NULL:
        connection.silent_before.silent_after = connection.silent_after
    else:
        limits.silent_first = connection.silent_after
    if connection.silent_after != NULL:
        connection.silent_after.silent_before = connection.silent_before
    else:
        limits.silent_last = connection.silent_before
    connection.silent_before = connection.silent_after = NULL


cdef inline void count_out(LimitState *limits, Connection *connection) noexcept nogil:
    """Stop counting a connection, under the lock."""
    cdef Source **at
    cdef Source *gone
    unlink_silent(limits, connection)
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
    """Cut the connection that has been silent for the longest.  False if there is none."""
    cdef Connection *connection = limits.silent_first
    cdef Command *command
    if connection == NULL:
        return False
    command = new_command(C_EVICT, connection)
    if command == NULL:
        return False
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
    if connection.inside and not connection.silent:
        connection.silent = True
        connection.silent_before, connection.silent_after = limits.silent_last, NULL
        if limits.silent_last != NULL:
            limits.silent_last.silent_after = connection
        else:
            limits.silent_first = connection
        limits.silent_last = connection
    pthread_mutex_unlock(&limits.lock)


cdef inline void mark_heard(Connection *connection) noexcept nogil:
    """Note that its ClientHello is complete: it isn't evicted."""
    cdef LimitState *limits = &connection.worker.shared.limits
    pthread_mutex_lock(&limits.lock)
    unlink_silent(limits, connection)
    pthread_mutex_unlock(&limits.lock)


cdef inline bint take_slot(Connection *connection) noexcept nogil:
    """Count a handshake in flight, whose ClientHello is complete.  False if there are too many."""
    cdef LimitState *limits = &connection.worker.shared.limits
    if word_add(&limits.slots, 1) > word_get(&limits.most_slots):
        word_add(&limits.slots, -1)
        pthread_mutex_lock(&limits.lock)
        limits.no_slot += 1
        pthread_mutex_unlock(&limits.lock)
        return False
    connection.has_slot = True
    return True


cdef inline void free_slot(Connection *connection) noexcept nogil:
    """Stop counting the handshake in flight, if it is counted."""
    if connection.has_slot:
        connection.has_slot = False
        word_add(&connection.worker.shared.limits.slots, -1)
