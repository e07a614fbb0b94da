# cython: language_level=3
"""A carrier for the compiled relay: two sides over one channel, in the frames of carrier_peer.py.

Built by carrier_native.py, from the engine's own pages: nothing of the relay knows that its
upstream sides have no socket.
"""

from libc.errno cimport ECONNRESET
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close

from uproxy.transport.native.accept cimport new_connection, set_worker
from uproxy.transport.native.channel cimport (
    receive_raw, record_fault, send_backlog, send_or_keep, unwatch, watch,
)
from uproxy.transport.native.codes cimport F_NONE, F_OS, K_CHANNEL, RECEIVE_SIZE
from uproxy.transport.native.relay cimport (
    RELAY_ENDED, RELAY_GOES_ON, relay_due, relay_timeout, relay_turn, start_relay,
)
from uproxy.transport.native.side cimport (
    BROKEN, CAN_READ, CAN_WRITE, READ_ENDED, READ_FAILED, READ_NOT_NOW, readiness,
)
from uproxy.transport.native.system cimport (
    EPOLL_CLOEXEC, EPOLLOUT, READ_EVENTS, clock_of, epoll_create1, epoll_event, epoll_wait,
)
from uproxy.transport.native.tls cimport close_channel
from uproxy.transport.native.types cimport (
    Carrier, Channel, Connection, Fault, Received, Side, Stream, Worker,
)

cdef enum:
    STREAMS = 2
    WINDOW = 64 * 1024
    MAX_PAYLOAD = 16 * 1024
    HEADER = 4
    DATA = 0
    END = 1
    RESET = 2
    CREDIT = 3

cdef struct Bytes:
    char *data
    size_t size

cdef struct Carried:  # one stream
    Stream side  # first: a side's `stream` points here
    Connection *connection
    Bytes received  # and not read yet
    Bytes output  # waits for credit
    size_t credit
    bint ended  # its END has come
    bint lost  # it was reset, or the carrier has failed
    bint finishing  # our END follows the output
    bint over  # its relay has ended
    int result

cdef struct Frames:  # the carrier
    Carrier calls  # first: a stream's `carrier` points here
    Channel channel
    Fault fault
    Bytes received  # the beginning of a frame
    bint failed
    Worker *worker
    Carried streams[STREAMS]


cdef void append(Bytes *bytes, const char *data, size_t size) noexcept nogil:
    bytes.data = <char *>realloc(bytes.data, bytes.size + size + 1)
    memcpy(bytes.data + bytes.size, data, size)
    bytes.size += size


cdef void drop(Bytes *bytes, size_t size) noexcept nogil:
    memmove(bytes.data, bytes.data + size, bytes.size - size)
    bytes.size -= size


cdef Frames *frames_of(Side *side) noexcept nogil:
    return <Frames *>side.stream.carrier


cdef Carried *stream_of(Side *side) noexcept nogil:
    return <Carried *>side.stream


cdef int index_of(Side *side) noexcept nogil:
    return 0 if stream_of(side) == &frames_of(side).streams[0] else 1


cdef void refresh(Frames *frames) noexcept nogil:
    """Tell the sides how far their streams have come."""
    cdef Carried *stream
    cdef int index
    for index in range(STREAMS):
        stream = &frames.streams[index]
        stream.side.unsent = 0 if stream.lost else stream.output.size + frames.channel.unsent
        stream.side.undelivered = 0 if stream.lost else WINDOW - stream.credit
        stream.side.is_ready = stream.received.size > 0 or stream.ended or stream.lost
        stream.side.is_deaf = stream.lost


cdef void send_frame(Frames *frames, int index, int kind, const char *payload,
                     size_t size) noexcept nogil:
    cdef char header[HEADER]
    header[0], header[1] = <char>(index + 1), <char>kind
    header[2], header[3] = <char>(size >> 8), <char>(size & 0xFF)
    if frames.failed:
        return
    if (send_or_keep(&frames.channel, header, HEADER) < 0
            or (size and send_or_keep(&frames.channel, payload, size) < 0)
            or watch(&frames.channel,
                     READ_EVENTS | (EPOLLOUT if frames.channel.unsent else 0)) < 0):
        frames.failed = True


cdef void send_credit(Frames *frames, int index, size_t size) noexcept nogil:
    cdef char payload[4]
    payload[0], payload[1] = <char>(size >> 24), <char>(size >> 16 & 0xFF)
    payload[2], payload[3] = <char>(size >> 8 & 0xFF), <char>(size & 0xFF)
    send_frame(frames, index, CREDIT, payload, 4)


cdef void send_some(Frames *frames, int index) noexcept nogil:
    """Send what there is credit for, and the end behind the last."""
    cdef Carried *stream = &frames.streams[index]
    cdef size_t size
    while stream.output.size and stream.credit:
        size = min(min(stream.output.size, stream.credit), <size_t>MAX_PAYLOAD)
        send_frame(frames, index, DATA, stream.output.data, size)
        drop(&stream.output, size)
        stream.credit -= size
    if stream.finishing and not stream.output.size:
        stream.finishing = False
        send_frame(frames, index, END, NULL, 0)
    refresh(frames)


# What the side calls.


cdef ssize_t carried_read(Side *side, Received *received) noexcept nogil:
    cdef Frames *frames = frames_of(side)
    cdef Carried *stream = stream_of(side)
    cdef size_t size = stream.received.size
    received.more, received.end = False, 0
    if size:
        memcpy(frames.worker.plaintext, stream.received.data, size)
        received.data = frames.worker.plaintext
        stream.received.size = 0
        if not stream.lost:
            send_credit(frames, index_of(side), size)
        refresh(frames)
        return size
    if stream.lost:
        record_fault(&side.connection.fault, F_OS, side.index, ECONNRESET, 0)
        return READ_FAILED
    return READ_ENDED if stream.ended else READ_NOT_NOW


cdef int carried_write(Side *side, const char *data, size_t size, int _end) noexcept nogil:
    cdef Carried *stream = stream_of(side)
    if stream.lost:
        return record_fault(&side.connection.fault, F_OS, side.index, ECONNRESET, 0)
    append(&stream.output, data, size)
    send_some(frames_of(side), index_of(side))
    return 0


cdef int carried_finish(Side *side) noexcept nogil:
    cdef Carried *stream = stream_of(side)
    if stream.lost:
        return record_fault(&side.connection.fault, F_OS, side.index, ECONNRESET, 0)
    stream.finishing = True
    send_some(frames_of(side), index_of(side))
    return 0


cdef int carried_want(Side *side, bint _reading, bint _writing) noexcept nogil:
    return 0  # frames are always taken: credit bounds what comes


cdef void carried_abandon(Side *side) noexcept nogil:
    stream_of(side).lost = True
    stream_of(side).output.size = 0
    refresh(frames_of(side))


cdef void carried_reset(Side *side) noexcept nogil:
    if not stream_of(side).lost:
        send_frame(frames_of(side), index_of(side), RESET, NULL, 0)
    stream_of(side).received.size = 0
    carried_abandon(side)


# What a connection's page does.


cdef void step(Carried *stream, int result) noexcept nogil:
    """Act on what a step of the relay has returned."""
    cdef Connection *connection = stream.connection
    if result == RELAY_GOES_ON or stream.over:
        return
    stream.over, stream.result = True, result
    close_channel(&connection.sides[0].channel, result == RELAY_ENDED)
    if result != RELAY_ENDED:
        carried_reset(&connection.sides[1])


cdef void turn_stream(Frames *frames, int index, int ready) noexcept nogil:
    cdef Carried *stream = &frames.streams[index]
    if not stream.over:
        step(stream, relay_turn(&stream.connection.sides[1], ready))


cdef void on_frame(Frames *frames, int index, int kind, const char *payload,
                   size_t size) noexcept nogil:
    cdef Carried *stream = &frames.streams[index]
    cdef const uint8_t *number = <const uint8_t *>payload
    if kind == DATA:
        append(&stream.received, payload, size)
    elif kind == END:
        stream.ended = True
    elif kind == RESET:
        stream.lost = True
    else:
        stream.credit += (<size_t>number[0] << 24 | number[1] << 16 | number[2] << 8 | number[3])
        send_some(frames, index)
    refresh(frames)
    turn_stream(
        frames, index,
        CAN_WRITE if kind == CREDIT else CAN_READ | BROKEN if kind == RESET else CAN_READ)


cdef void lose_all(Frames *frames) noexcept nogil:
    cdef int index
    unwatch(&frames.channel)
    for index in range(STREAMS):
        frames.streams[index].lost = True
    refresh(frames)
    for index in range(STREAMS):
        turn_stream(frames, index, CAN_READ | BROKEN)


cdef void receive_frames(Frames *frames) noexcept nogil:
    cdef ssize_t got = receive_raw(&frames.channel, RECEIVE_SIZE)
    cdef uint8_t *head
    cdef size_t size
    if got == 0 or got == -1:
        frames.failed = True
    if got <= 0:
        return
    append(&frames.received, frames.worker.received, got)
    while frames.received.size >= HEADER:
        head = <uint8_t *>frames.received.data
        size = head[2] << 8 | head[3]
        if frames.received.size < HEADER + size:
            return
        on_frame(frames, head[0] - 1, head[1], frames.received.data + HEADER, size)
        drop(&frames.received, HEADER + size)


cdef void on_carrier(Frames *frames, uint32_t events) noexcept nogil:
    cdef int index
    if events & EPOLLOUT and frames.channel.unsent:
        if send_backlog(&frames.channel) < 0:
            frames.failed = True
            return
        watch(&frames.channel, READ_EVENTS | (EPOLLOUT if frames.channel.unsent else 0))
        refresh(frames)
        for index in range(STREAMS):
            turn_stream(frames, index, CAN_WRITE)
    if events & ~EPOLLOUT:
        receive_frames(frames)


cdef void turn(Frames *frames) noexcept nogil:
    cdef epoll_event events[8]
    cdef Channel *channel
    cdef Carried *stream
    cdef bint had_failed = frames.failed
    cdef int index, at
    cdef int count = epoll_wait(frames.worker.epoll, events, 8, 0)
    cdef double due
    frames.worker.now = clock_of(CLOCK_MONOTONIC)
    for at in range(count):
        channel = <Channel *>events[at].data.ptr
        if channel.side == NULL:
            on_carrier(frames, events[at].events)
            continue
        index = index_of(&channel.side.connection.sides[1])
        if not frames.streams[index].over:
            step(&frames.streams[index], relay_turn(channel.side, readiness(events[at].events)))
    for index in range(STREAMS):
        stream = &frames.streams[index]
        due = 0 if stream.over else relay_due(stream.connection)
        if due and frames.worker.now >= due:
            step(stream, relay_timeout(stream.connection))
    if frames.failed and not had_failed:
        lose_all(frames)


cdef class CarrierProbe:
    """Relays two sockets to two streams of a third; it owns all three descriptors."""

    cdef Frames *frames

    def __cinit__(self, applications: list[int], int carrier):
        cdef Frames *frames = <Frames *>calloc(1, sizeof(Frames))
        cdef Worker *worker = <Worker *>calloc(1, sizeof(Worker))
        cdef Carried *stream
        self.frames = frames
        frames.worker = worker
        worker.epoll = epoll_create1(EPOLL_CLOEXEC)
        worker.now = clock_of(CLOCK_MONOTONIC)
        frames.calls.read, frames.calls.write = carried_read, carried_write
        frames.calls.finish, frames.calls.want = carried_finish, carried_want
        frames.calls.abandon, frames.calls.reset = carried_abandon, carried_reset
        frames.channel.kind, frames.channel.fault = K_CHANNEL, &frames.fault
        frames.channel.worker = frames.channel.running_on = worker
        frames.channel.fd, frames.channel.mask = carrier, -1
        for index in range(STREAMS):
            stream = &frames.streams[index]
            stream.connection = new_connection(applications[index])
            stream.credit = WINDOW
            set_worker(stream.connection, worker)
            stream.side.carrier = &frames.calls
            stream.connection.sides[1].stream = &stream.side
        refresh(frames)
        watch(&frames.channel, READ_EVENTS)
        for index in range(STREAMS):
            stream = &frames.streams[index]
            step(stream, start_relay(stream.connection, NULL, 0))

    def fileno(self):
        """Readable when `turn` has something to do, but for what is due by time."""
        return self.frames.worker.epoll

    def turn(self):
        """Do what the sockets are ready for, and what is due."""
        turn(self.frames)

    def ending(self, int index):
        """Return (side, errno) of a relay that has failed, (-1, 0) of one that has ended in order;
        None of one that goes on."""
        cdef Carried *stream = &self.frames.streams[index]
        if not stream.over:
            return None
        if stream.result == RELAY_ENDED:
            return -1, 0
        assert stream.connection.fault.what in (F_NONE, F_OS)
        return stream.connection.fault.side, stream.connection.fault.error

    def close(self):
        """Close the sockets, and free the memory."""
        for index in range(STREAMS):
            close_channel(&self.frames.streams[index].connection.sides[0].channel, False)
            free(self.frames.streams[index].connection)
            free(self.frames.streams[index].received.data)
            free(self.frames.streams[index].output.data)
        close_channel(&self.frames.channel, False)
        close(self.frames.worker.epoll)
        free(self.frames.received.data)
        free(self.frames.worker)
        free(self.frames)


def size_of_a_connection():
    """Return the bytes that the engine allocates for each connection, beside those of OpenSSL."""
    return sizeof(Connection)
