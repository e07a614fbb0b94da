"""The structures of a session, its streams by their numbers, and the bytes that these keep.

A *session* is one end of a tunnel: HTTP/2 without a socket and without a clock.  A stream belongs
to whoever uses the session, from `open_stream` or `on_request` until `release_stream`; the session
frees none by itself, so that no callback can pull one from under its caller.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove

from uproxy.transport.native.frames cimport FRAME_HEADER, Bytes, FrameHeader
from uproxy.transport.native.hpack_table cimport HeaderDecoder
from uproxy.transport.native.hpack cimport Headers
from uproxy.transport.native.budgets cimport Budgets

cdef enum:
    LEAST_SLOTS = 8  # of the table of streams
    ENDED_STREAMS = 256  # that are remembered
    UNKNOWING = 0x80000000  # a bit beside a remembered number: the peer may not know yet
    LEAST_QUEUE = 512  # bytes for which a queue has room, once it is used
    HASH_MULTIPLIER = 0x9E3779B1  # 2^32 by the golden ratio: numbers in a row are spread

cdef enum Phase:  # what the next byte belongs to
    PHASE_PREFACE
    PHASE_HEADER
    PHASE_PAD_LENGTH  # of a DATA frame
    PHASE_DATA  # of a DATA frame, or its padding
    PHASE_PAYLOAD  # of another frame
    PHASE_IGNORED  # the payload of a frame of an unknown type

cdef enum Fate:
    FATE_NOT_KNOWN  # it never was, or ended long ago
    FATE_ENDED
    FATE_UNKNOWN_TO_PEER  # we have reset it: frames may be on their way

cdef struct Queue:  # bytes, of which the first are taken first
    char *data
    uint32_t at  # where they begin
    uint32_t size
    uint32_t room

cdef struct H2Stream:
    void *owner  # whose it is: the caller's
    uint32_t id
    int32_t send_window  # bytes that the peer takes; below 0 after a smaller SETTINGS
    int32_t receive_window  # bytes that the peer may send
    uint32_t window  # bytes that may be on their way or unread; grows with how fast it is read
    uint32_t unreturned  # bytes that were read, and not given back to the peer's window
    uint32_t returned_at  # when they were given back last, in `milliseconds`
    Queue waiting  # to be sent when windows, and the output, have room
    Queue held  # received, and not read when they came
    uint32_t unread  # bytes received and not read: those held, and those being passed on
    H2Stream *ready_before  # in the session's list of streams that send when they can
    H2Stream *ready_after
    H2Stream *moved_after  # in the session's list of streams to be told that less waits
    uint32_t last_data  # where its last DATA frame in the output begins
    uint32_t last_data_size  # of that frame's payload
    uint32_t last_data_turn  # Session.turn then: in another the frame is gone
    uint32_t shortfall  # bytes that its unread small DATA frames are short of SMALL_DATA
    uint8_t informational  # answers 1xx that came before the final one
    uint8_t is_ready  # it is in the list of `ready_after`
    uint8_t has_moved  # it is in the list of `moved_after`
    uint8_t is_open  # it counts against the limit of streams: an end is missing, and no reset came
    uint8_t is_answered  # a final answer was sent, or has come
    uint8_t send_ended  # our END_STREAM is in the output
    uint8_t finishing  # our END_STREAM follows what waits
    uint8_t receive_ended  # the peer's END_STREAM has come
    uint8_t was_reset  # by either side
    uint8_t reset_by_peer
    uint8_t reset_why  # the rule that the peer broke, a SessionFault; 0: another reason
    uint32_t reset_code

cdef struct Slot:
    uint32_t id  # 0: it is free
    H2Stream *stream

cdef struct SessionSettings:  # ours
    uint32_t max_streams  # that a client may have open
    uint32_t streams_per_connection  # that we open
    uint32_t stream_window  # bytes that a peer may send on a stream that isn't read
    uint32_t connection_window  # bytes in flight, on all streams
    int *extra_of_all  # the sum of `extra` of all sessions; NULL: of this one

cdef struct ConnectRequest:  # valid while `on_request` runs
    const char *authority
    uint32_t authority_size
    uint8_t host[16]  # the same, as in Endpoint
    uint16_t port  # in network order
    Headers *headers  # the pseudo-headers too
    bint ended  # END_STREAM came with it

cdef struct Session:
    SessionCalls *calls
    void *owner  # the caller's
    Headers *scratch  # for decoded blocks; shared by a thread's sessions
    SessionSettings settings
    bint server
    # receiving
    int phase  # a Phase
    bint has_begun  # the peer's first frame has come
    bint settings_received
    uint8_t head[FRAME_HEADER]
    uint32_t head_size  # bytes of the preface, or of `head`, that have come
    FrameHeader frame  # the one that is being received
    uint32_t left  # bytes of its payload that haven't come
    uint32_t padding  # bytes of these that are padding; the byte with their number comes first
    Bytes partial  # the payload of a frame that came in pieces
    uint32_t block_id  # the stream of a header block whose end hasn't come; 0: none
    uint8_t block_flags
    uint32_t continuations
    Bytes block  # what has come of it
    HeaderDecoder decoder
    H2Stream *data_stream  # of the DATA frame that is being received; NULL: its bytes are dropped
    H2Stream *run_stream  # of the received bytes that are being passed on
    char *run  # these
    size_t run_size
    char *lent  # held bytes that were read last; freed with the next read
    # windows
    int64_t send_window
    uint32_t receive_window  # bytes that the peer may send on all streams
    uint32_t unread  # bytes received and not read, of all streams
    uint32_t extra  # bytes by which the windows of streams have grown, together
    uint32_t peer_window  # with which the peer's streams begin
    uint32_t own_window  # with which ours begin
    # streams
    Slot *slots
    uint32_t slot_count
    uint32_t slot_shift  # 32 less the bits of slot_count
    uint32_t streams  # that aren't released
    uint32_t open_streams
    uint32_t last_id  # the highest that was opened, by whichever of us is the client
    uint32_t *ended  # numbers of streams that aren't there any more, a ring of ENDED_STREAMS
    uint32_t ended_at  # the oldest of them
    uint32_t peer_max_streams
    H2Stream *first_ready
    H2Stream *last_ready
    H2Stream *first_moved
    # sending
    Bytes output
    uint32_t turn  # how often the output was taken
    uint32_t encoder_most  # bytes of the peer's table that we may use, as it was told
    uint32_t encoder_least  # the smallest that SETTINGS have said since
    uint32_t encoder_size  # what the last SETTINGS have said
    uint32_t pings  # that we have sent
    bint ping_pending
    bint is_going  # we have sent GOAWAY
    bint is_gone  # the final one: streams that come aren't looked at
    bint went_away  # the peer has sent one
    uint32_t away_last  # its last stream
    double now  # of `receive_frames`
    int broken_by  # a SessionFault; 0: it isn't broken
    uint32_t broken_code
    Budgets budgets

cdef struct SessionCalls:
    void (*on_request)(Session *, H2Stream *, ConnectRequest *) noexcept nogil
    void (*on_answer)(Session *, H2Stream *, int, bint) noexcept nogil
    void (*on_readable)(Session *, H2Stream *) noexcept nogil
    void (*on_reset)(Session *, H2Stream *, uint32_t) noexcept nogil
    void (*on_writable)(Session *, H2Stream *) noexcept nogil
    void (*on_refused)(Session *, uint32_t, int, int) noexcept nogil
    void (*on_goaway)(Session *, uint32_t, uint32_t, const char *, size_t) noexcept nogil
    void (*on_pong)(Session *) noexcept nogil
    void (*on_settings)(Session *) noexcept nogil


# Bytes that are kept.


cdef inline bint keep(Queue *queue, const char *data, uint32_t size) noexcept nogil:
    """Add a copy of `data`.  False: no memory."""
    cdef uint32_t room = queue.room if queue.room else LEAST_QUEUE
    cdef char *bigger
    if room < queue.at + queue.size + size and queue.at > queue.size:
        memmove(queue.data, queue.data + queue.at, queue.size)
        queue.at = 0
    while room < queue.at + queue.size + size:
        room *= 2
    if room != queue.room:
        bigger = <char *>realloc(queue.data, room)
        if bigger == NULL:
            return False
        queue.data, queue.room = bigger, room
    memcpy(queue.data + queue.at + queue.size, data, size)
    queue.size += size
    return True


cdef inline void free_queue(Queue *queue) noexcept nogil:
    """Forget its bytes."""
    free(queue.data)
    queue.data = NULL
    queue.at = queue.size = queue.room = 0


cdef inline void take(Queue *queue, uint32_t size) noexcept nogil:
    """Remove the first bytes."""
    queue.at += size
    queue.size -= size
    if not queue.size:
        free_queue(queue)


cdef inline uint32_t milliseconds(double now) noexcept nogil:
    """Return a time in milliseconds, of which differences count: it begins anew after 49 days."""
    return <uint32_t><int64_t>(now * 1000)


# Streams by their numbers: open addressing, a slot is looked for from its home on.


cdef inline uint32_t home_of(Session *session, uint32_t id) noexcept nogil:
    """Return the slot where a stream is, if no other was there before."""
    return (id * <uint32_t>HASH_MULTIPLIER) >> session.slot_shift


cdef inline uint32_t slot_of(Session *session, uint32_t id) noexcept nogil:
    """Return the slot of a stream, or the free one where it would be."""
    cdef uint32_t at = home_of(session, id)
    while session.slots[at].id != 0 and session.slots[at].id != id:
        at = (at + 1) & (session.slot_count - 1)
    return at


cdef inline H2Stream *find_stream(Session *session, uint32_t id) noexcept nogil:
    """Return the stream of this number; NULL: it isn't there."""
    if not session.slot_count:
        return NULL
    return session.slots[slot_of(session, id)].stream


cdef inline bint resize_slots(Session *session, uint32_t count) noexcept nogil:
    """Have so many slots, a power of 2 and more than there are streams.  False: no memory."""
    cdef Slot *old = session.slots
    cdef uint32_t old_count = session.slot_count
    cdef Slot *slots = <Slot *>calloc(count, sizeof(Slot))
    cdef uint32_t at
    if slots == NULL:
        return False
    session.slots, session.slot_count, session.slot_shift = slots, count, 32
    while count > 1:
        count >>= 1
        session.slot_shift -= 1
    for at in range(old_count):
        if old[at].id:
            slots[slot_of(session, old[at].id)] = old[at]
    free(old)
    return True


cdef inline H2Stream *add_stream(Session *session, uint32_t id) noexcept nogil:
    """Make a stream; its number is new.  NULL: no memory."""
    cdef H2Stream *stream
    cdef uint32_t at
    cdef uint32_t count = session.slot_count
    if 4 * (session.streams + 1) > 3 * count:
        if not resize_slots(session, 2 * count if count else LEAST_SLOTS):
            return NULL
    stream = <H2Stream *>calloc(1, sizeof(H2Stream))
    if stream == NULL:
        return NULL
    stream.id, stream.is_open = id, True
    stream.send_window = <int32_t>session.peer_window
    stream.window = session.own_window
    stream.receive_window = <int32_t>session.own_window
    stream.returned_at = milliseconds(session.now)
    at = slot_of(session, id)
    session.slots[at].id, session.slots[at].stream = id, stream
    session.streams += 1
    session.open_streams += 1
    return stream


cdef inline void remove_slot(Session *session, uint32_t free_at) noexcept nogil:
    """Free a slot, and move those up that were put behind it for want of it."""
    cdef uint32_t most = session.slot_count - 1
    cdef uint32_t at = free_at
    while True:
        at = (at + 1) & most
        if session.slots[at].id == 0:
            break
        # whether its home is at the free slot, or before
        if ((at - home_of(session, session.slots[at].id)) & most) >= ((at - free_at) & most):
            session.slots[free_at] = session.slots[at]
            free_at = at
    session.slots[free_at].id, session.slots[free_at].stream = 0, NULL


cdef inline void remember(Session *session, uint32_t id, bint unknowing) noexcept nogil:
    """Note that a stream isn't there any more, and whether the peer may still send frames on it.
    Without memory it is as if it had been long ago."""
    if session.ended == NULL:
        session.ended = <uint32_t *>calloc(ENDED_STREAMS, sizeof(uint32_t))
        if session.ended == NULL:
            return
    session.ended[session.ended_at] = id | (<uint32_t>UNKNOWING if unknowing else 0)
    session.ended_at = (session.ended_at + 1) & (ENDED_STREAMS - 1)


cdef inline int fate_of(Session *session, uint32_t id) noexcept nogil:
    """Return a Fate of a stream that isn't open."""
    cdef H2Stream *stream = find_stream(session, id)
    cdef int fate = FATE_NOT_KNOWN
    cdef uint32_t at
    if stream != NULL:
        fate = FATE_ENDED
        if stream.was_reset and not stream.reset_by_peer:
            return FATE_UNKNOWN_TO_PEER
    if session.ended == NULL:
        return fate
    for at in range(ENDED_STREAMS):
        if session.ended[at] == id | <uint32_t>UNKNOWING:
            return FATE_UNKNOWN_TO_PEER
        if session.ended[at] == id:
            fate = FATE_ENDED
    return fate


cdef inline void remove_stream(Session *session, H2Stream *stream) noexcept nogil:
    """Free a stream, which nothing points to any more but its slot."""
    remember(session, stream.id, stream.was_reset and not stream.reset_by_peer)
    remove_slot(session, slot_of(session, stream.id))
    session.streams -= 1
    free_queue(&stream.waiting)
    free_queue(&stream.held)
    free(stream)
    if 8 * session.streams < session.slot_count and session.slot_count > LEAST_SLOTS:
        resize_slots(session, session.slot_count // 2)  # without memory they stay as they are
