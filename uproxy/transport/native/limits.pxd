"""The limits: who may come in, and who goes when it is full.

A connection is *silent* until its ClientHello is complete, and again while it is only left to
read its refusal: silent ones are what a slow-loris has, so the oldest of them makes room.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from uproxy.transport.native.queues cimport command, post
from uproxy.transport.native.types cimport (
    C_EVICT, F_FULL, F_MEMORY, F_NONE, F_SOURCE_FULL, SOURCE_BUCKETS,
    Command, Conn, Gate, Source,
)
from uproxy.transport.native.system cimport (
    pthread_mutex_lock, pthread_mutex_unlock, word_add, word_get,
)


cdef inline void network_of(const uint8_t *host, uint8_t *network) noexcept nogil:
    """By what a source is counted: an IPv4 address (mapped), or the /64 of an IPv6 one, because
    everybody who has one such address has 2^64."""
    cdef int index
    memcpy(network, host, 16)
    for index in range(10):
        if host[index]:
            memset(network + 8, 0, 8)
            return
    if host[10] != 0xFF or host[11] != 0xFF:
        memset(network + 8, 0, 8)


cdef inline uint32_t source_hash(Gate *gate, const uint8_t *network) noexcept nogil:
    """Multiply-shift with random keys: without them nobody finds two networks that share a bucket
    but by chance."""
    cdef uint64_t value = gate.keys[4]
    cdef uint32_t word
    cdef int index
    for index in range(4):
        memcpy(&word, network + 4 * index, 4)
        value += gate.keys[index] * word
    return <uint32_t>(value >> 32)


cdef inline Source **find_source(Gate *gate, const uint8_t *host) noexcept nogil:
    """Where it is, or where it would be."""
    cdef uint8_t network[16]
    cdef Source **at
    network_of(host, network)
    at = &gate.sources[source_hash(gate, network) % SOURCE_BUCKETS]
    while at[0] != NULL and memcmp(at[0].host, network, 16) != 0:
        at = &at[0].chain
    return at


cdef inline void unlink_silent(Gate *gate, Conn *conn) noexcept nogil:
    if not conn.silent:
        return
    conn.silent = False
    if conn.silent_before != NULL:
        conn.silent_before.silent_after = conn.silent_after
    else:
        gate.silent_first = conn.silent_after
    if conn.silent_after != NULL:
        conn.silent_after.silent_before = conn.silent_before
    else:
        gate.silent_last = conn.silent_before
    conn.silent_before = conn.silent_after = NULL


cdef inline void count_out(Gate *gate, Conn *conn) noexcept nogil:
    cdef Source **at
    cdef Source *gone
    unlink_silent(gate, conn)
    if not conn.inside:
        return
    conn.inside = False
    gate.inside -= 1
    if not conn.source.known:
        return
    at = find_source(gate, conn.source.host)
    at[0].count -= 1
    if at[0].count == 0:
        gone = at[0]
        at[0] = gone.chain
        free(gone)


cdef inline bint evict(Gate *gate) noexcept nogil:
    """Send the longest silent one away, if there is one."""
    cdef Conn *conn = gate.silent_first
    cdef Command *order
    if conn == NULL:
        return False
    order = command(C_EVICT, conn)
    if order == NULL:
        return False
    count_out(gate, conn)
    gate.full += 1
    post(conn.worker, order)
    return True


cdef inline int count_in(Gate *gate, Conn *conn) noexcept nogil:
    cdef Source **at = NULL
    if conn.source.known:
        at = find_source(gate, conn.source.host)
        if gate.most_per_source and at[0] != NULL and at[0].count >= gate.most_per_source:
            gate.source_full += 1
            return F_SOURCE_FULL
    if gate.inside >= gate.most and not evict(gate):
        gate.full += 1
        return F_FULL
    if at != NULL:
        at = find_source(gate, conn.source.host)  # who was sent away may have been the last
        if at[0] == NULL:
            at[0] = <Source *>calloc(1, sizeof(Source))
            if at[0] == NULL:
                return F_MEMORY
            network_of(conn.source.host, at[0].host)
        at[0].count += 1
    gate.inside += 1
    conn.inside = True
    return F_NONE


cdef inline int enter(Conn *conn) noexcept nogil:
    """Count an arrival in; why there is no room for it, or F_NONE."""
    cdef Gate *gate = &conn.worker.shared.gate
    cdef int why
    pthread_mutex_lock(&gate.lock)
    why = count_in(gate, conn)
    pthread_mutex_unlock(&gate.lock)
    return why


cdef inline void leave(Conn *conn) noexcept nogil:
    """Count it out, if it is in."""
    cdef Gate *gate = &conn.worker.shared.gate
    pthread_mutex_lock(&gate.lock)
    count_out(gate, conn)
    pthread_mutex_unlock(&gate.lock)


cdef inline void falls_silent(Conn *conn) noexcept nogil:
    """Nothing but its ClientHello, or its end, is awaited."""
    cdef Gate *gate = &conn.worker.shared.gate
    pthread_mutex_lock(&gate.lock)
    if conn.inside and not conn.silent:
        conn.silent = True
        conn.silent_before, conn.silent_after = gate.silent_last, NULL
        if gate.silent_last != NULL:
            gate.silent_last.silent_after = conn
        else:
            gate.silent_first = conn
        gate.silent_last = conn
    pthread_mutex_unlock(&gate.lock)


cdef inline void speaks(Conn *conn) noexcept nogil:
    cdef Gate *gate = &conn.worker.shared.gate
    pthread_mutex_lock(&gate.lock)
    unlink_silent(gate, conn)
    pthread_mutex_unlock(&gate.lock)


cdef inline bint take_slot(Conn *conn) noexcept nogil:
    """One of the handshakes in flight, with a complete ClientHello."""
    cdef Gate *gate = &conn.worker.shared.gate
    if word_add(&gate.slots, 1) > word_get(&gate.most_slots):
        word_add(&gate.slots, -1)
        pthread_mutex_lock(&gate.lock)
        gate.no_slot += 1
        pthread_mutex_unlock(&gate.lock)
        return False
    conn.has_slot = True
    return True


cdef inline void free_slot(Conn *conn) noexcept nogil:
    if conn.has_slot:
        conn.has_slot = False
        word_add(&conn.worker.shared.gate.slots, -1)
