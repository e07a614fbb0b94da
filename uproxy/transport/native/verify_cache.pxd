"""The table of verified leaves: who was judged good lately, and by which judge.

The key is the whole leaf and `TlsPlan.trust`: new bundles or CRLs make a new number, so another
generation of trust never sees an older one's verdicts, and a number has one role.  Refusals
aren't kept.  A verdict holds until the chain expires and VERDICT_LIFE at most, which bounds what
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

from uproxy.transport.native.types cimport BUCKETS, MOST_ENTRIES, Entry, Table
from uproxy.transport.native.system cimport (
    VERDICT_LIFE, clock_of, pthread_mutex_lock, pthread_mutex_unlock,
)


cdef inline uint64_t leaf_hash(const uint8_t *leaf, size_t size, uint64_t trust) noexcept nogil:
    cdef uint64_t value = 14695981039346656037ULL ^ trust
    cdef size_t at
    for at in range(size):
        value = (value ^ leaf[at]) * 1099511628211ULL
    return value


cdef inline void entry_age(Table *table, Entry *entry) noexcept nogil:
    """Take it out of the order of use."""
    if entry.newer != NULL:
        entry.newer.older = entry.older
    else:
        table.newest = entry.older
    if entry.older != NULL:
        entry.older.newer = entry.newer
    else:
        table.oldest = entry.newer


cdef inline void entry_renew(Table *table, Entry *entry) noexcept nogil:
    entry.newer = NULL
    entry.older = table.newest
    if table.newest != NULL:
        table.newest.newer = entry
    else:
        table.oldest = entry
    table.newest = entry


cdef inline Entry **table_place(Table *table, uint64_t value, const uint8_t *leaf, size_t size,
                                uint64_t trust) noexcept nogil:
    """What points to the entry of this leaf and judge; to NULL where there is none."""
    cdef Entry **at = &table.buckets[value % BUCKETS]
    while at[0] != NULL and not (
            at[0].hash == value and at[0].trust == trust and at[0].size == size
            and memcmp(at[0].leaf, leaf, size) == 0):
        at = &at[0].chain
    return at


cdef inline Entry *table_find(Table *table, const uint8_t *leaf, size_t size,
                              uint64_t trust) noexcept nogil:
    """A verdict that holds now, held for the caller; NULL where there is none."""
    cdef uint64_t value = leaf_hash(leaf, size, trust)
    cdef double now = clock_of(CLOCK_REALTIME)
    cdef Entry *entry
    pthread_mutex_lock(&table.lock)
    entry = table_place(table, value, leaf, size, trust)[0]
    if entry != NULL and now < entry.expires:
        entry.held += 1
        entry_age(table, entry)
        entry_renew(table, entry)
    else:
        entry = NULL
    pthread_mutex_unlock(&table.lock)
    return entry


cdef inline void entry_release(Table *table, Entry *entry):
    """With the GIL."""
    cdef int left
    pthread_mutex_lock(&table.lock)
    entry.held -= 1
    left = entry.held
    pthread_mutex_unlock(&table.lock)
    if left == 0:
        Py_DECREF(<object>entry.peer)
        free(entry.leaf)
        free(entry)


cdef inline Entry *table_drop(Table *table, Entry **at) noexcept nogil:
    """Take one out, under the lock; the table's hold passes to the caller."""
    cdef Entry *entry = at[0]
    if entry == NULL:
        return NULL
    entry_age(table, entry)
    at[0] = entry.chain
    table.count -= 1
    return entry


cdef inline Entry *table_drop_oldest(Table *table) noexcept nogil:
    cdef Entry *oldest = table.oldest
    if oldest == NULL:
        return NULL
    return table_drop(
        table, table_place(table, oldest.hash, oldest.leaf, oldest.size, oldest.trust))


cdef inline Entry *table_new(const uint8_t *leaf, size_t size, uint64_t trust) noexcept nogil:
    cdef Entry *entry = <Entry *>calloc(1, sizeof(Entry))
    if entry == NULL:
        return NULL
    entry.leaf = <uint8_t *>malloc(size)
    if entry.leaf == NULL:
        free(entry)
        return NULL
    memcpy(entry.leaf, leaf, size)
    entry.size, entry.trust, entry.held = size, trust, 2
    entry.hash = leaf_hash(leaf, size, trust)
    return entry


cdef inline Entry *table_add(Table *table, const uint8_t *leaf, size_t size, uint64_t trust,
                             object peer, double expires):
    """Keep a verdict; held for the caller too.  With the GIL; NULL without memory."""
    cdef Entry *entry = table_new(leaf, size, trust)
    cdef Entry *dropped
    if entry == NULL:
        return NULL
    entry.expires = min(expires, clock_of(CLOCK_REALTIME) + VERDICT_LIFE)
    Py_INCREF(peer)
    entry.peer = <PyObject *>peer
    pthread_mutex_lock(&table.lock)
    dropped = table_drop(table, table_place(table, entry.hash, leaf, size, trust))
    if dropped != NULL:
        entry.serial = dropped.serial
    else:
        table.serial += 1
        entry.serial = table.serial
        if table.count >= MOST_ENTRIES:
            dropped = table_drop_oldest(table)
    entry.chain = table.buckets[entry.hash % BUCKETS]
    table.buckets[entry.hash % BUCKETS] = entry
    entry_renew(table, entry)
    table.count += 1
    pthread_mutex_unlock(&table.lock)
    if dropped != NULL:
        entry_release(table, dropped)
    return entry
