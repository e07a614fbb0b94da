"""The table of verified leaves: who was judged good lately, and by which judge.

The key is the whole leaf and `TlsPlan.trust`: new bundles or CRLs make a new number, so another
generation of trust never sees an older one's verdicts, and a number has one role.  Refusals
aren't kept.  A verdict holds until the chain expires and VERDICT_LIFE_S at most, which bounds what
else time may change (a CRL that becomes stale).  Least recently used go first.

Entries are made, and let go, with the GIL; found without it, under the lock.  Nobody waits
for the GIL with the lock held.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_REALTIME

from uproxy.transport.native.types cimport HASHED, VERIFIED_BUCKETS, MAX_VERIFIED_PEERS, VerifiedPeer, VerifyCache
from uproxy.transport.native.system cimport (
    VERDICT_LIFE_S, clock_of, pthread_mutex_lock, pthread_mutex_unlock,
)


cdef inline uint64_t leaf_hash(VerifyCache *verify_cache, const uint8_t *leaf, size_t size,
                               uint64_t trust) noexcept nogil:
    """Of a leaf's last bytes, which are its signature's, so a long leaf costs no more than a short
    one; the random keys let nobody choose leaves that share a bucket."""
    cdef uint64_t value = verify_cache.keys[0] ^ trust ^ (<uint64_t>size << 32)
    cdef uint64_t word
    cdef size_t at = size - HASHED if size > HASHED else 0
    cdef int index = 1
    while at < size:
        word = 0
        memcpy(&word, leaf + at, min(size - at, sizeof(word)))
        value = (value ^ word) * (verify_cache.keys[index] | 1)
        value ^= value >> 32
        at += sizeof(word)
        index += 1
    return value


cdef inline void unlink_by_use(VerifyCache *verify_cache, VerifiedPeer *verified_peer) noexcept nogil:
    """Take it out of the order of use."""
    if verified_peer.newer != NULL:
        verified_peer.newer.older = verified_peer.older
    else:
        verify_cache.newest = verified_peer.older
    if verified_peer.older != NULL:
        verified_peer.older.newer = verified_peer.newer
    else:
        verify_cache.oldest = verified_peer.newer


cdef inline void link_newest(VerifyCache *verify_cache, VerifiedPeer *verified_peer) noexcept nogil:
    verified_peer.newer = NULL
    verified_peer.older = verify_cache.newest
    if verify_cache.newest != NULL:
        verify_cache.newest.newer = verified_peer
    else:
        verify_cache.oldest = verified_peer
    verify_cache.newest = verified_peer


cdef inline VerifiedPeer **verified_slot(VerifyCache *verify_cache, uint64_t value, const uint8_t *leaf, size_t size,
                                uint64_t trust) noexcept nogil:
    """What points to the entry of this leaf and judge; to NULL where there is none."""
    cdef VerifiedPeer **at = &verify_cache.buckets[value % VERIFIED_BUCKETS]
    while at[0] != NULL and not (
            at[0].hash == value and at[0].trust == trust and at[0].size == size
            and memcmp(at[0].leaf, leaf, size) == 0):
        at = &at[0].chain
    return at


cdef inline VerifiedPeer *find_verified(VerifyCache *verify_cache, const uint8_t *leaf, size_t size,
                              uint64_t trust) noexcept nogil:
    """A verdict that holds now, held for the caller; NULL where there is none."""
    cdef uint64_t value = leaf_hash(verify_cache, leaf, size, trust)
    cdef double now = clock_of(CLOCK_REALTIME)
    cdef VerifiedPeer *verified_peer
    pthread_mutex_lock(&verify_cache.lock)
    verified_peer = verified_slot(verify_cache, value, leaf, size, trust)[0]
    if verified_peer != NULL and now < verified_peer.expires:
        verified_peer.held += 1
        unlink_by_use(verify_cache, verified_peer)
        link_newest(verify_cache, verified_peer)
    else:
        verified_peer = NULL
    pthread_mutex_unlock(&verify_cache.lock)
    return verified_peer


cdef inline void release_verified(VerifyCache *verify_cache, VerifiedPeer *verified_peer):
    """With the GIL."""
    cdef int left
    pthread_mutex_lock(&verify_cache.lock)
    verified_peer.held -= 1
    left = verified_peer.held
    pthread_mutex_unlock(&verify_cache.lock)
    if left == 0:
        Py_DECREF(<object>verified_peer.peer)
        free(verified_peer.leaf)
        free(verified_peer)


cdef inline VerifiedPeer *drop_verified(VerifyCache *verify_cache, VerifiedPeer **at) noexcept nogil:
    """Take one out, under the lock; the table's hold passes to the caller."""
    cdef VerifiedPeer *verified_peer = at[0]
    if verified_peer == NULL:
        return NULL
    unlink_by_use(verify_cache, verified_peer)
    at[0] = verified_peer.chain
    verify_cache.count -= 1
    return verified_peer


cdef inline VerifiedPeer *drop_oldest_verified(VerifyCache *verify_cache) noexcept nogil:
    cdef VerifiedPeer *oldest = verify_cache.oldest
    if oldest == NULL:
        return NULL
    return drop_verified(
        verify_cache, verified_slot(verify_cache, oldest.hash, oldest.leaf, oldest.size, oldest.trust))


cdef inline VerifiedPeer *new_verified(VerifyCache *verify_cache, const uint8_t *leaf, size_t size, uint64_t trust) noexcept nogil:
    cdef VerifiedPeer *verified_peer = <VerifiedPeer *>calloc(1, sizeof(VerifiedPeer))
    if verified_peer == NULL:
        return NULL
    verified_peer.leaf = <uint8_t *>malloc(size)
    if verified_peer.leaf == NULL:
        free(verified_peer)
        return NULL
    memcpy(verified_peer.leaf, leaf, size)
    verified_peer.size, verified_peer.trust, verified_peer.held = size, trust, 2
    verified_peer.hash = leaf_hash(verify_cache, leaf, size, trust)
    return verified_peer


cdef inline VerifiedPeer *add_verified(VerifyCache *verify_cache, const uint8_t *leaf, size_t size, uint64_t trust,
                             object peer, double expires):
    """Keep a verdict; held for the caller too.  With the GIL; NULL without memory."""
    cdef VerifiedPeer *verified_peer = new_verified(verify_cache, leaf, size, trust)
    cdef VerifiedPeer *dropped
    if verified_peer == NULL:
        return NULL
    verified_peer.expires = min(expires, clock_of(CLOCK_REALTIME) + VERDICT_LIFE_S)
    Py_INCREF(peer)
    verified_peer.peer = <PyObject *>peer
    pthread_mutex_lock(&verify_cache.lock)
    dropped = drop_verified(verify_cache, verified_slot(verify_cache, verified_peer.hash, leaf, size, trust))
    if dropped != NULL:
        verified_peer.serial = dropped.serial
    else:
        verify_cache.serial += 1
        verified_peer.serial = verify_cache.serial
        if verify_cache.count >= MAX_VERIFIED_PEERS:
            dropped = drop_oldest_verified(verify_cache)
    verified_peer.chain = verify_cache.buckets[verified_peer.hash % VERIFIED_BUCKETS]
    verify_cache.buckets[verified_peer.hash % VERIFIED_BUCKETS] = verified_peer
    link_newest(verify_cache, verified_peer)
    verify_cache.count += 1
    pthread_mutex_unlock(&verify_cache.lock)
    if dropped != NULL:
        release_verified(verify_cache, dropped)
    return verified_peer
