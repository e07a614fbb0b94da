"""HTTP/2 frames (RFC 9113 §4 and §6): their numbers, their header, and how each is written.

No session is known here.  What is written goes to a `Bytes`, which grows.  If there is no memory,
it is `lost`: nothing is written to it any more.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, strlen

cdef enum FrameType:
    DATA_FRAME = 0
    HEADERS_FRAME = 1
    PRIORITY_FRAME = 2
    RST_STREAM_FRAME = 3
    SETTINGS_FRAME = 4
    PUSH_PROMISE_FRAME = 5
    PING_FRAME = 6
    GOAWAY_FRAME = 7
    WINDOW_UPDATE_FRAME = 8
    CONTINUATION_FRAME = 9

cdef enum FrameFlag:
    ACK_FLAG = 0x1  # of SETTINGS and PING
    END_STREAM_FLAG = 0x1
    END_HEADERS_FLAG = 0x4
    PADDED_FLAG = 0x8
    PRIORITY_FLAG = 0x20

cdef enum ErrorCode:  # of RST_STREAM and GOAWAY (RFC 9113 §7)
    H2_NO_ERROR = 0
    H2_PROTOCOL_ERROR = 1
    H2_INTERNAL_ERROR = 2
    H2_FLOW_CONTROL_ERROR = 3
    H2_SETTINGS_TIMEOUT = 4
    H2_STREAM_CLOSED = 5
    H2_FRAME_SIZE_ERROR = 6
    H2_REFUSED_STREAM = 7
    H2_CANCEL = 8
    H2_COMPRESSION_ERROR = 9
    H2_CONNECT_ERROR = 10
    H2_ENHANCE_YOUR_CALM = 11
    H2_INADEQUATE_SECURITY = 12
    H2_HTTP_1_1_REQUIRED = 13

cdef enum Setting:  # RFC 9113 §6.5.2
    SET_HEADER_TABLE_SIZE = 1
    SET_ENABLE_PUSH = 2
    SET_MAX_CONCURRENT_STREAMS = 3
    SET_INITIAL_WINDOW_SIZE = 4
    SET_MAX_FRAME_SIZE = 5
    SET_MAX_HEADER_LIST_SIZE = 6
    SET_ENABLE_CONNECT_PROTOCOL = 8  # RFC 8441 §3

cdef enum:
    FRAME_HEADER = 9  # bytes
    MAX_FRAME = 16384  # bytes of a payload: the size that needs no SETTINGS, in both directions
    MAX_FRAME_SETTING = 16777215
    MAX_ID = 0x7FFFFFFF
    MAX_WINDOW = 0x7FFFFFFF
    DEFAULT_WINDOW = 65535  # RFC 9113 §6.9.2
    LEAST_BYTES = 512  # that a Bytes has room for, once it is used

cdef struct FrameHeader:
    uint32_t length
    uint8_t type
    uint8_t flags
    uint32_t id

cdef struct Bytes:
    char *data
    size_t size  # bytes that are there
    size_t room  # bytes for which memory is there
    bint lost  # there was no memory for some


cdef inline char *extend(Bytes *bytes, size_t size) noexcept nogil:
    """Make it `size` bytes longer.  Returns where these begin, to be filled; NULL: no memory."""
    cdef size_t room = bytes.room if bytes.room else LEAST_BYTES
    cdef char *data
    while room < bytes.size + size:
        room *= 2
    if bytes.lost:
        return NULL
    if room != bytes.room:
        data = <char *>realloc(bytes.data, room)
        if data == NULL:
            bytes.lost = True
            return NULL
        bytes.data, bytes.room = data, room
    data = bytes.data + bytes.size
    bytes.size += size
    return data


cdef inline void append(Bytes *bytes, const char *data, size_t size) noexcept nogil:
    """Add a copy of `data`."""
    cdef char *at = extend(bytes, size)
    if at != NULL and size:
        memcpy(at, data, size)


cdef inline void free_bytes(Bytes *bytes) noexcept nogil:
    """Empty it, and free its memory."""
    free(bytes.data)
    bytes.data = NULL
    bytes.size = bytes.room = 0


# Numbers, in network order.


cdef inline uint32_t number_at(const uint8_t *at) noexcept nogil:
    """Read four bytes."""
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline void put_number(uint8_t *at, uint32_t number) noexcept nogil:
    """Write four bytes."""
    at[0], at[1] = <uint8_t>(number >> 24), <uint8_t>(number >> 16)
    at[2], at[3] = <uint8_t>(number >> 8), <uint8_t>number


cdef inline FrameHeader frame_header_at(const uint8_t *at) noexcept nogil:
    """Read the nine bytes with which a frame begins."""
    cdef FrameHeader header
    header.length = number_at(at) >> 8
    header.type, header.flags = at[3], at[4]
    header.id = number_at(at + 5) & MAX_ID  # the highest bit is to be ignored
    return header


# Frames.


cdef inline uint8_t *put_frame(Bytes *bytes, uint8_t type, uint8_t flags, uint32_t id,
                               uint32_t length) noexcept nogil:
    """Write a frame without its payload.  Returns where that begins, to be filled; NULL: no
    memory."""
    cdef uint8_t *at = <uint8_t *>extend(bytes, FRAME_HEADER + length)
    if at == NULL:
        return NULL
    put_number(at, length << 8 | type)
    at[4] = flags
    put_number(at + 5, id)
    return at + FRAME_HEADER


cdef inline void put_number_frame(Bytes *bytes, uint8_t type, uint32_t id,
                                  uint32_t number) noexcept nogil:
    """Write a frame whose payload is one number: RST_STREAM or WINDOW_UPDATE."""
    cdef uint8_t *at = put_frame(bytes, type, 0, id, 4)
    if at != NULL:
        put_number(at, number)


cdef inline void put_ping(Bytes *bytes, const char *payload, bint is_answer) noexcept nogil:
    """Write a PING with these eight bytes, or the answer to one."""
    cdef uint8_t *at = put_frame(bytes, PING_FRAME, ACK_FLAG if is_answer else 0, 0, 8)
    if at != NULL:
        memcpy(at, payload, 8)


cdef inline void put_goaway(Bytes *bytes, uint32_t last, uint32_t code,
                            const char *debug) noexcept nogil:
    """Write a GOAWAY; `debug` is text that ends with a NUL."""
    cdef size_t size = strlen(debug)
    cdef uint8_t *at = put_frame(bytes, GOAWAY_FRAME, 0, 0, <uint32_t>(8 + size))
    if at == NULL:
        return
    put_number(at, last)
    put_number(at + 4, code)
    memcpy(at + 8, debug, size)


cdef inline void put_setting(uint8_t *at, uint8_t setting, uint32_t value) noexcept nogil:
    """Write the six bytes of one setting."""
    at[0], at[1] = 0, setting
    put_number(at + 2, value)
