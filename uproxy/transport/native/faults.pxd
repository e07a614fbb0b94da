"""The rules of HTTP/2 that a peer may break, each with its error code and its words.

Those before SF_STREAMS end the session, the others a stream.  `uproxy/hbone` has the same rules.
"""

from libc.stdint cimport uint32_t

from uproxy.transport.native.frames cimport (
    H2_COMPRESSION_ERROR, H2_ENHANCE_YOUR_CALM, H2_FLOW_CONTROL_ERROR, H2_FRAME_SIZE_ERROR,
    H2_INTERNAL_ERROR, H2_PROTOCOL_ERROR, H2_REFUSED_STREAM, H2_STREAM_CLOSED,
)

cdef enum SessionFault:
    SF_NONE
    SF_LOST  # by its caller: the socket has failed
    SF_CLOSED  # by its caller
    SF_MEMORY
    SF_NOT_HTTP2
    SF_TOO_LONG
    SF_LENGTH
    SF_SHORT
    SF_PADDING
    SF_STREAM_ZERO
    SF_STREAM_NAMED
    SF_IN_BLOCK
    SF_NO_BLOCK
    SF_IDLE
    SF_ENDED
    SF_BACKWARDS
    SF_EVEN
    SF_BLOCK
    SF_SETTING
    SF_WINDOW_SETTING
    SF_PUSH
    SF_WINDOW
    SF_WINDOW_GREW
    SF_NO_INCREMENT
    SF_FLOOD  # one for each Flood, in their order
    SF_STREAMS = SF_FLOOD + 16
    SF_PRIORITY_LENGTH
    SF_DATA_ENDED
    SF_DATA_EARLY
    SF_STREAM_WINDOW
    SF_STREAM_WINDOW_GREW
    SF_STREAM_NO_INCREMENT
    SF_HEADERS_ENDED
    SF_TRAILERS
    SF_NOT_SEEN
    SF_TOO_MANY
    SF_MALFORMED  # from here on: a block breaks RFC 9113 §8
    SF_NAME
    SF_VALUE
    SF_PSEUDO
    SF_OF_ONE_CONNECTION
    SF_NO_METHOD
    SF_NO_PATH
    SF_EXTENDED
    SF_NOT_TWO
    SF_NO_AUTHORITY
    SF_HOST
    SF_STATUS
    SF_NO_ANSWER
    SF_METHOD  # from here on: the answer is 400
    SF_AUTHORITY


cdef extern from *:
    """
    /* by SessionFault; the floods by Flood.  `Unnamed` has what belongs in braces */
    static const char *const fault_texts[] = {
        "",
        "the connection is lost",
        "",
        "there is no memory",
        "the peer doesn't speak HTTP/2",
        "a frame is longer than the 16384 bytes that we accept",
        "the length of a frame is wrong for its type",
        "a frame is shorter than its flags say",
        "the padding of a frame is too long",
        "a frame is on stream 0 that concerns a stream",
        "a frame is on a stream that concerns the tunnel",
        "a frame is inside of a header block",
        "CONTINUATION without HEADERS",
        "a frame is on a stream that isn't open",
        "HEADERS on a stream that has ended",
        "HEADERS on a stream below the last one",
        "HEADERS on a stream of the server's",
        "a header block can't be decoded",
        "a setting has a value that it may not have",
        "the setting INITIAL_WINDOW_SIZE is too large",
        "PUSH_PROMISE, which SETTINGS forbid",
        "DATA exceeds the tunnel's window",
        "the window of a tunnel grew over 2147483647 bytes",
        "WINDOW_UPDATE of the tunnel by 0",
        "the peer sent too many streams reset before they were of use",
        "the peer sent too many requests that had to be refused",
        "the peer sent too many requests for what it may not reach",
        "the peer sent too many PING frames",
        "the peer sent too many SETTINGS frames",
        "the peer sent too many frames without content",
        "the peer sent too many PRIORITY frames",
        "the peer sent too many WINDOW_UPDATE frames for what we send",
        "the peer sent too many frames without effect",
        "",
        "the peer sent too many CONTINUATION frames in one header block",
        "the peer sent too many headers, which may have 16384 bytes",
        "the peer sent too many small DATA frames that wait for an application",
        "the peer sent too many frames to be answered while our answers aren't taken",
        "", "",
        "",
        "PRIORITY of a wrong length",
        "DATA on a stream that has ended",
        "DATA before an answer",
        "DATA exceeds the stream's window",
        "the window of a stream grew over 2147483647 bytes",
        "WINDOW_UPDATE by 0",
        "HEADERS after END_STREAM",
        "trailers without END_STREAM",
        "it is above the last stream that the peer looks at",
        "{most} streams are open (hbone.max_streams)",
        "the headers are malformed",
        "a header's name has characters that it may not have",
        "a header's value has characters that it may not have",
        "a pseudo-header is out of place",
        "a header isn't one of HTTP/2",
        "a request has no :method",
        "a {value} has no :scheme or no :path",
        "this is no extended CONNECT: it may have no :protocol",
        "a CONNECT has :method and :authority, no more and no less",
        ":authority is empty",
        "host says something else than :authority",
        "an answer's :status isn't one",
        "no answer follows an informational one",
        "a tunnel carries CONNECT, not {value}",
        ":authority {value} isn't an IP address and a port, as in 192.0.2.1:8080",
    };
    enum { FAULT_TEXTS = sizeof(fault_texts) / sizeof(fault_texts[0]) };
    /* by Flood: the values of Python's */
    static const char *const flood_names[16] = {
        "resets", "refusals", "denials", "pings", "settings", "empty_frames", "priorities",
        "window_updates", "strays", "", "continuations", "headers", "small_data", "replies",
        "", "",
    };
    """
    const char *fault_texts[]
    const char *flood_names[]
    enum:
        FAULT_TEXTS


cdef inline uint32_t code_of(int fault) noexcept nogil:
    """Return the error code of RFC 9113 §7."""
    if fault == SF_MEMORY:
        return H2_INTERNAL_ERROR
    if (fault == SF_TOO_LONG or fault == SF_LENGTH or fault == SF_SHORT
            or fault == SF_PRIORITY_LENGTH):
        return H2_FRAME_SIZE_ERROR
    if fault == SF_ENDED or fault == SF_DATA_ENDED or fault == SF_HEADERS_ENDED:
        return H2_STREAM_CLOSED
    if fault == SF_BLOCK:
        return H2_COMPRESSION_ERROR
    if (fault == SF_WINDOW or fault == SF_WINDOW_GREW or fault == SF_WINDOW_SETTING
            or fault == SF_STREAM_WINDOW or fault == SF_STREAM_WINDOW_GREW):
        return H2_FLOW_CONTROL_ERROR
    if fault == SF_TOO_MANY or fault == SF_NOT_SEEN:
        return H2_REFUSED_STREAM
    return H2_ENHANCE_YOUR_CALM if SF_FLOOD <= fault < SF_STREAMS else H2_PROTOCOL_ERROR


cdef inline int flood_of(int fault) noexcept nogil:
    """Return of what there was too much, a Flood; -1: it is another rule."""
    return fault - SF_FLOOD if SF_FLOOD <= fault < SF_STREAMS else -1


cdef inline const char *flood_name(int fault) noexcept nogil:
    """Return of what there was too much, as metrics call it; empty: it is another rule."""
    cdef int flood = flood_of(fault)
    return flood_names[flood] if flood >= 0 else fault_texts[0]


cdef inline const char *fault_words(int fault) noexcept nogil:
    """Return what the rule is, for people and for GOAWAY."""
    return fault_texts[fault if 0 <= fault < FAULT_TEXTS else 0]
