"""The verify cache: leaf certificates that the verifier has accepted, and its answers.

The key is the whole leaf and `TlsPlan.trust_id`: new bundles or CRLs make a new id, and an id has
one role, so that no answer outlives what it was made with.  Refusals aren't kept.  An answer is
reused until the chain expires, and VERDICT_LIFE_S at most, which bounds what else time may change
(a CRL that becomes stale).  When the cache is full the least recently used entry goes.

Entries are made and freed with the GIL, and found without it, under the lock.  No thread waits for
the GIL with the lock held.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_REALTIME

from uproxy.transport.native.system cimport (
    VERDICT_LIFE_S, clock_of, pthread_mutex_lock, pthread_mutex_unlock,
)
from uproxy.transport.native.codes cimport HASHED, MAX_VERIFIED_PEERS, VERIFIED_BUCKETS
from uproxy.transport.native.types cimport VerifiedPeer, VerifyCache


cdef inline uint64_t leaf_hash(VerifyCache *cache, const uint8_t *leaf, size_t size,
                               uint64_t trust) noexcept nogil:
    """Return the hash of a leaf's last HASHED bytes, which are its signature's, so that a long leaf
    costs no more than a short one.  Keys are random, so that nobody can choose leaves that share a
    bucket."""
    cdef uint64_t value = cache.keys[0] ^ trust ^ (<uint64_t>size << 32)
    cdef uint64_t word
    cdef size_t at = size - HASHED if size > HASHED else 0
    cdef int index = 1
    while at < size:
        word = 0
        memcpy(&word, leaf + at, min(size - at, sizeof(word)))
        value = (value ^ word) * (cache.keys[index] | 1)
        value ^= value >> 32
        at += sizeof(word)
        index += 1
    return value


cdef inline void unlink_by_use(VerifyCache *cache, VerifiedPeer *entry) noexcept nogil:
    """Take an entry out of the order of use, under the lock."""
    if entry.newer != NULL:
        entry.newer.older = entry.older
    else:
        cache.newest = entry.older
    if entry.older != NULL:
        entry.older.newer = entry.newer
    else:
        cache.oldest = entry.newer


cdef inline void link_newest(VerifyCache *cache, VerifiedPeer *entry) noexcept nogil:
    """Put an entry first in the order of use, under the lock."""
    entry.newer = NULL
    entry.older = cache.newest
    if cache.newest != NULL:
        cache.newest.newer = entry
    else:
        cache.oldest = entry
    cache.newest = entry


cdef inline VerifiedPeer **verified_slot(VerifyCache *cache, uint64_t value,
                                         const uint8_t *leaf, size_t size,
                                         uint64_t trust) noexcept nogil:
    """Return what points to the entry of this leaf and trust id, or to NULL where there is none;
    `value` is their hash."""
    cdef VerifiedPeer **at = &cache.buckets[value % VERIFIED_BUCKETS]
    while at[0] != NULL and not (
            at[0].hash == value and at[0].trust == trust and at[0].size == size
            and memcmp(at[0].leaf, leaf, size) == 0):
        at = &at[0].chain
    return at


cdef inline VerifiedPeer *find_verified(VerifyCache *cache, const uint8_t *leaf, size_t size,
                              uint64_t trust) noexcept nogil:
    """Return the entry of a leaf, with a reference for the caller; NULL: the verifier must be
    asked."""
    cdef uint64_t value = leaf_hash(cache, leaf, size, trust)
    cdef double now = clock_of(CLOCK_REALTIME)
    cdef VerifiedPeer *entry
    pthread_mutex_lock(&cache.lock)
    entry = verified_slot(cache, value, leaf, size, trust)[0]
    if entry != NULL and now < entry.expires:
        entry.held += 1
        unlink_by_use(cache, entry)
        link_newest(cache, entry)
    else:
        entry = NULL
    pthread_mutex_unlock(&cache.lock)
    return entry


cdef inline VerifiedPeer *hold_verified(VerifyCache *cache, VerifiedPeer *entry) noexcept nogil:
    """Return an entry that somebody holds, with one more reference."""
    pthread_mutex_lock(&cache.lock)
    entry.held += 1
    pthread_mutex_unlock(&cache.lock)
    return entry


cdef inline void release_verified(VerifyCache *cache, VerifiedPeer *entry):
    """Give a reference back, with the GIL."""
    cdef int left
    pthread_mutex_lock(&cache.lock)
    entry.held -= 1
    left = entry.held
    pthread_mutex_unlock(&cache.lock)
    if left == 0:
        Py_DECREF(<object>entry.peer)
        free(entry.leaf)
        free(entry)


cdef inline VerifiedPeer *drop_verified(VerifyCache *cache, VerifiedPeer **at) noexcept nogil:
    """Take the entry that `at` points to out of the cache, under the lock.  Returns it, with the
    cache's reference for the caller; NULL if there is none."""
    cdef VerifiedPeer *entry = at[0]
    if entry == NULL:
        return NULL
    unlink_by_use(cache, entry)
    at[0] = entry.chain
    cache.count -= 1
    return entry


cdef inline VerifiedPeer *drop_oldest_verified(VerifyCache *cache) noexcept nogil:
    """Take out the least recently used entry, as `drop_verified` does."""
    cdef VerifiedPeer *oldest = cache.oldest
    if oldest == NULL:
        return NULL
    return drop_verified(
        cache, verified_slot(cache, oldest.hash, oldest.leaf, oldest.size, oldest.trust))


cdef inline VerifiedPeer *new_verified(VerifyCache *cache, const uint8_t *leaf, size_t size,
                                       uint64_t trust) noexcept nogil:
    """Make an entry with a copy of the leaf, held twice: by the cache and by the caller.  NULL
    without memory."""
    cdef VerifiedPeer *entry = <VerifiedPeer *>calloc(1, sizeof(VerifiedPeer))
    if entry == NULL:
        return NULL
    entry.leaf = <uint8_t *>malloc(size)
    if entry.leaf == NULL:
        free(entry)
        return NULL
    memcpy(entry.leaf, leaf, size)
    entry.size, entry.trust, entry.held = size, trust, 2
    entry.hash = leaf_hash(cache, leaf, size, trust)
    return entry


cdef inline VerifiedPeer *add_verified(VerifyCache *cache, const uint8_t *leaf, size_t size,
                                       uint64_t trust, object peer, double expires):
    """Add the verifier's answer for a leaf, with the GIL. Returns the entry, with a reference for
    the caller; NULL without memory."""
    cdef VerifiedPeer *entry = new_verified(cache, leaf, size, trust)
    cdef VerifiedPeer *dropped
    if entry == NULL:
        return NULL
    entry.not_after = expires
    entry.expires = min(expires, clock_of(CLOCK_REALTIME) + VERDICT_LIFE_S)
    Py_INCREF(peer)
    entry.peer = <PyObject *>peer
    pthread_mutex_lock(&cache.lock)
    dropped = drop_verified(cache, verified_slot(cache, entry.hash, leaf, size, trust))
    if dropped != NULL:
        entry.serial = dropped.serial
    else:
        cache.serial += 1
        entry.serial = cache.serial
        if cache.count >= MAX_VERIFIED_PEERS:
            dropped = drop_oldest_verified(cache)
    entry.chain = cache.buckets[entry.hash % VERIFIED_BUCKETS]
    cache.buckets[entry.hash % VERIFIED_BUCKETS] = entry
    link_newest(cache, entry)
    cache.count += 1
    pthread_mutex_unlock(&cache.lock)
    if dropped != NULL:
        release_verified(cache, dropped)
    return entry
