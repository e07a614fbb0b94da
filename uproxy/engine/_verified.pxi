# The table of verified leaves: who was judged good lately, under which plan.
#
# The key is the whole leaf and the plan's number (a new SVID, bundle or CRL makes a new plan,
# so another generation of trust never sees an older one's verdicts; the plan has the role).
# Refusals aren't kept.  A verdict holds until the chain expires and VERDICT_LIFE at most, which
# bounds what else time may change (a CRL that becomes stale).  Least recently used go first.
#
# Entries are made, and let go, with the GIL; found without it, under the lock.  Nobody waits
# for the GIL with the lock held.

cdef enum:
    BUCKETS = 1024
    MOST_ENTRIES = 1024

cdef double VERDICT_LIFE = 60.0

cdef struct Entry:
    uint64_t hash
    uint64_t plan
    size_t size
    uint8_t *leaf
    double expires  # wall clock
    PyObject *peer
    int held  # by the table and by connections
    Entry *chain  # the bucket's next
    Entry *newer
    Entry *older

cdef struct Table:
    pthread_mutex_t lock
    Entry *buckets[BUCKETS]
    Entry *newest
    Entry *oldest
    int count


cdef uint64_t leaf_hash(const uint8_t *leaf, size_t size, uint64_t plan) noexcept nogil:
    cdef uint64_t value = 14695981039346656037ULL ^ plan
    cdef size_t at
    for at in range(size):
        value = (value ^ leaf[at]) * 1099511628211ULL
    return value


cdef void entry_age(Table *table, Entry *entry) noexcept nogil:
    """Take it out of the order of use."""
    if entry.newer != NULL:
        entry.newer.older = entry.older
    else:
        table.newest = entry.older
    if entry.older != NULL:
        entry.older.newer = entry.newer
    else:
        table.oldest = entry.newer


cdef void entry_renew(Table *table, Entry *entry) noexcept nogil:
    entry.newer = NULL
    entry.older = table.newest
    if table.newest != NULL:
        table.newest.newer = entry
    else:
        table.oldest = entry
    table.newest = entry


cdef Entry *table_find(Table *table, const uint8_t *leaf, size_t size, uint64_t plan) noexcept nogil:
    """A verdict that holds now, held for the caller; NULL where there is none."""
    cdef uint64_t value = leaf_hash(leaf, size, plan)
    cdef double now = clock_of(CLOCK_REALTIME)
    cdef Entry *entry
    pthread_mutex_lock(&table.lock)
    entry = table.buckets[value % BUCKETS]
    while entry != NULL:
        if (entry.hash == value and entry.plan == plan and entry.size == size
                and now < entry.expires and memcmp(entry.leaf, leaf, size) == 0):
            entry.held += 1
            entry_age(table, entry)
            entry_renew(table, entry)
            break
        entry = entry.chain
    pthread_mutex_unlock(&table.lock)
    return entry


cdef void entry_release(Table *table, Entry *entry):
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


cdef Entry *table_drop_oldest(Table *table) noexcept nogil:
    """Take the least recently used out; the table's hold passes to the caller."""
    cdef Entry *entry = table.oldest
    cdef Entry **at
    if entry == NULL:
        return NULL
    entry_age(table, entry)
    at = &table.buckets[entry.hash % BUCKETS]
    while at[0] != entry:
        at = &at[0].chain
    at[0] = entry.chain
    table.count -= 1
    return entry


cdef Entry *table_add(Table *table, const uint8_t *leaf, size_t size, uint64_t plan,
                      object peer, double expires):
    """Keep a verdict; held for the caller too.  With the GIL; NULL without memory."""
    cdef Entry *entry = <Entry *>calloc(1, sizeof(Entry))
    cdef Entry *dropped = NULL
    if entry == NULL:
        return NULL
    entry.leaf = <uint8_t *>malloc(size)
    if entry.leaf == NULL:
        free(entry)
        return NULL
    memcpy(entry.leaf, leaf, size)
    entry.size, entry.plan, entry.held = size, plan, 2
    entry.hash = leaf_hash(leaf, size, plan)
    entry.expires = min(expires, clock_of(CLOCK_REALTIME) + VERDICT_LIFE)
    Py_INCREF(peer)
    entry.peer = <PyObject *>peer
    pthread_mutex_lock(&table.lock)
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
