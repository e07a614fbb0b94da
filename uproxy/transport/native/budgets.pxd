"""How much a peer may send of what costs work and moves no byte of an application.

Each kind has a bucket that holds `burst`, and is refilled by `rate` a second.  An empty one ends
the session with ENHANCE_YOUR_CALM (RFC 9113 §10.5).  `uproxy/hbone/budgets.py` has the same
numbers, and where each comes from.
"""


cdef enum Flood:
    FLOOD_RESETS
    FLOOD_REFUSALS
    FLOOD_DENIALS
    FLOOD_PINGS
    FLOOD_SETTINGS
    FLOOD_EMPTY_FRAMES
    FLOOD_PRIORITIES
    FLOOD_WINDOW_UPDATES
    FLOOD_STRAYS
    BUCKETS  # not a kind: those before it have a bucket
    FLOOD_CONTINUATIONS
    FLOOD_HEADERS
    FLOOD_SMALL_DATA
    FLOOD_REPLIES

cdef enum:
    MAX_CONTINUATIONS = 8  # in one header block
    MAX_SETTINGS = 32  # values in one SETTINGS
    MAX_INFORMATIONAL = 5  # answers 1xx before the final one
    MAX_REPLIES = 4096  # frames in the output that the peer has caused, and 2 for each stream
    SMALL_DATA = 256  # bytes, below which a DATA frame is small
    SMALL_DATA_ROOM = 16 * 1024 * 1024  # bytes that the unread small ones are short of that
    UPDATES_PER_DATA = 10  # WINDOW_UPDATEs for each DATA frame of ours
    UPDATES_PER_STREAM = 2
    PRIORITIES_PER_STREAM = 100
    MOST_BURSTS = 10  # to which `allow_more` fills a bucket

cdef struct Bucket:
    double left
    double filled  # when `left` was set

cdef struct Budgets:
    Bucket buckets[BUCKETS]
    int replies  # frames in the output that the peer has caused
    # since a request came last:
    int refused  # streams that their owner has reset with REFUSED_STREAM
    int denied  # streams that their owner has answered with 4xx
    long small_data  # bytes that unread small DATA frames are short of SMALL_DATA


cdef inline double burst_of(int flood) noexcept nogil:
    """Return how much a bucket holds."""
    if flood == FLOOD_REFUSALS:
        return 2048
    if flood == FLOOD_STRAYS or flood == FLOOD_DENIALS:
        return 4096
    if flood == FLOOD_RESETS or flood == FLOOD_PINGS or flood == FLOOD_WINDOW_UPDATES:
        return 1000
    return 100


cdef inline double rate_of(int flood) noexcept nogil:
    """Return by how much a bucket is refilled in a second."""
    if flood == FLOOD_RESETS:
        return 33
    if flood == FLOOD_STRAYS:
        return 1000
    if flood == FLOOD_DENIALS:
        return 200
    if flood == FLOOD_REFUSALS or flood == FLOOD_PINGS or flood == FLOOD_WINDOW_UPDATES:
        return 100
    return 1


cdef inline void fill_budgets(Budgets *budgets, double now) noexcept nogil:
    """Fill all buckets."""
    cdef int flood
    for flood in range(BUCKETS):
        budgets.buckets[flood].left = burst_of(flood)
        budgets.buckets[flood].filled = now


cdef inline bint spend(Budgets *budgets, int flood, double now) noexcept nogil:
    """Take one of a bucket.  False: it is empty."""
    cdef Bucket *bucket = &budgets.buckets[flood]
    cdef double left = bucket.left
    if now > bucket.filled and left < burst_of(flood):
        left = min(burst_of(flood), left + (now - bucket.filled) * rate_of(flood))
    bucket.filled = now
    if left < 1:
        return False
    bucket.left = left - 1
    return True


cdef inline void allow_more(Budgets *budgets, int flood, double count) noexcept nogil:
    """Add to a bucket, up to MOST_BURSTS times what it holds by itself."""
    cdef Bucket *bucket = &budgets.buckets[flood]
    bucket.left = min(bucket.left + count, MOST_BURSTS * burst_of(flood))


cdef inline void allow_for_stream(Budgets *budgets) noexcept nogil:
    """Allow the frames that belong to a new stream."""
    allow_more(budgets, FLOOD_WINDOW_UPDATES, UPDATES_PER_STREAM)
    allow_more(budgets, FLOOD_PRIORITIES, PRIORITIES_PER_STREAM)
