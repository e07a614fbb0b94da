"""The headers of a CONNECT and of its answer, judged by RFC 9113 §8.

`read_request`, `read_answer` and `check_trailers` return SF_NONE, or which rule is broken.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset

from uproxy.transport.native.hpack_table cimport HeaderField
from uproxy.transport.native.hpack cimport Headers, find_header, is_named
from uproxy.transport.native.faults cimport (
    SF_AUTHORITY, SF_EXTENDED, SF_HOST, SF_METHOD, SF_NAME, SF_NONE, SF_NOT_TWO, SF_NO_AUTHORITY,
    SF_NO_METHOD, SF_NO_PATH, SF_OF_ONE_CONNECTION, SF_PSEUDO, SF_STATUS, SF_VALUE,
)
from uproxy.transport.native.streams cimport ConnectRequest

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char *text, void *address)
    uint16_t htons(uint16_t number)

cdef enum Pseudo:  # pseudo-headers; bits
    METHOD = 1
    AUTHORITY = 2
    SCHEME = 4
    PATH = 8
    PROTOCOL = 16
    STATUS = 32
    OF_A_REQUEST = 31

cdef enum:
    MAX_AUTHORITY = 64  # bytes; the longest literal address and port have 53


cdef inline int pseudo_of(HeaderField *field) noexcept nogil:
    """Return which pseudo-header a field is; 0: none that is known."""
    if is_named(field, b":method"):
        return METHOD
    if is_named(field, b":authority"):
        return AUTHORITY
    if is_named(field, b":scheme"):
        return SCHEME
    if is_named(field, b":path"):
        return PATH
    if is_named(field, b":protocol"):
        return PROTOCOL
    return STATUS if is_named(field, b":status") else 0


cdef inline bint is_token(const char *text, uint32_t size) noexcept nogil:
    """Whether it is a header's name: a token without capitals (RFC 9113 §8.2.1)."""
    cdef uint32_t at
    cdef char each
    for at in range(size):
        each = text[at]
        if not (b"a" <= each <= b"z" or b"0" <= each <= b"9"
                or (each != 0 and memchr(b"!#$%&'*+-.^_`|~", each, 15) != NULL)):
            return False
    return size > 0


cdef inline bint is_value(const char *text, uint32_t size) noexcept nogil:
    """Whether it is a header's value (RFC 9113 §8.2.1)."""
    cdef uint32_t at
    for at in range(size):
        if text[at] == 0 or text[at] == b"\r" or text[at] == b"\n":
            return False
    if size == 0:
        return True
    return not (text[0] == b" " or text[0] == b"\t"
                or text[size - 1] == b" " or text[size - 1] == b"\t")


cdef inline bint is_of_one_connection(HeaderField *field) noexcept nogil:
    """Whether HTTP/2 has no such header (RFC 9113 §8.2.2)."""
    if is_named(field, b"te"):
        return not is_word(field, b"trailers", 8)
    return (is_named(field, b"connection") or is_named(field, b"keep-alive")
            or is_named(field, b"proxy-connection") or is_named(field, b"transfer-encoding")
            or is_named(field, b"upgrade"))


cdef inline int check_fields(Headers *headers, int known, int *found) noexcept nogil:
    """Judge all fields; `found` gets the pseudo-headers, of which those `known` may be there."""
    cdef HeaderField *field
    cdef uint32_t at
    cdef int pseudo
    cdef bint ordinary = False
    found[0] = 0
    for at in range(headers.count):
        field = &headers.fields[at]
        if not is_value(field.value, field.value_size):
            return SF_VALUE
        if field.name_size and field.name[0] == b":":
            pseudo = pseudo_of(field) & known
            if not pseudo or pseudo & found[0] or ordinary:
                return SF_PSEUDO
            found[0] |= pseudo
            continue
        ordinary = True
        if not is_token(field.name, field.name_size):
            return SF_NAME
        if is_of_one_connection(field):
            return SF_OF_ONE_CONNECTION
    return SF_NONE


cdef inline int read_request(Headers *headers, ConnectRequest *request) noexcept nogil:
    """Judge a request, and fill in what it says.  SF_METHOD and SF_AUTHORITY are no faults of
    HTTP/2: the answer is 400."""
    cdef HeaderField *method
    cdef HeaderField *authority
    cdef int found
    cdef int fault = check_fields(headers, OF_A_REQUEST, &found)
    memset(request, 0, sizeof(ConnectRequest))
    request.headers = headers
    if fault:
        return fault
    method = find_header(headers, b":method")
    if method == NULL or method.value_size == 0:
        return SF_NO_METHOD
    if method.value_size != 7 or memcmp(method.value, b"CONNECT", 7) != 0:
        return SF_METHOD if found & SCHEME and found & PATH else SF_NO_PATH
    if found & PROTOCOL:
        return SF_EXTENDED
    if found != METHOD | AUTHORITY:
        return SF_NOT_TWO
    authority = find_header(headers, b":authority")
    request.authority, request.authority_size = authority.value, authority.value_size
    if authority.value_size == 0:
        return SF_NO_AUTHORITY
    if not hosts_agree(headers, authority):
        return SF_HOST
    return SF_NONE if read_authority(request) else SF_AUTHORITY


cdef inline HeaderField *find_blamed(Headers *headers, int fault) noexcept nogil:
    """Return the field whose value the words of a fault show; NULL: they show none."""
    if fault == SF_AUTHORITY:
        return find_header(headers, b":authority")
    if fault == SF_METHOD or fault == SF_NO_PATH:
        return find_header(headers, b":method")
    return NULL


cdef inline bint hosts_agree(Headers *headers, HeaderField *authority) noexcept nogil:
    """Whether each `host` says what `:authority` says."""
    cdef HeaderField *field
    cdef uint32_t at
    for at in range(headers.count):
        field = &headers.fields[at]
        if is_named(field, b"host") and not are_alike(field, authority):
            return False
    return True


cdef inline bint is_word(HeaderField *field, const char *word, uint32_t size) noexcept nogil:
    """Whether a value is a word, which is in lower case, but for capitals."""
    cdef uint32_t at
    if field.value_size != size:
        return False
    for at in range(size):
        if small(field.value[at]) != word[at]:
            return False
    return True


cdef inline bint are_alike(HeaderField *one, HeaderField *other) noexcept nogil:
    """Whether two values are the same, but for capitals."""
    cdef uint32_t at
    if one.value_size != other.value_size:
        return False
    for at in range(one.value_size):
        if small(one.value[at]) != small(other.value[at]):
            return False
    return True


cdef inline char small(char letter) noexcept nogil:
    """Return an ASCII letter in lower case, others as they are."""
    return letter + 32 if b"A" <= letter <= b"Z" else letter


cdef inline bint read_authority(ConnectRequest *request) noexcept nogil:
    """Fill in address and port.  False: the authority is no literal address and port."""
    cdef char text[MAX_AUTHORITY]
    cdef uint32_t size = request.authority_size, at = size
    cdef uint32_t port = 0
    cdef bint has_brackets
    if size >= MAX_AUTHORITY or memchr(request.authority, 0, size) != NULL:
        return False
    memcpy(text, request.authority, size)
    while at > 0 and b"0" <= text[at - 1] <= b"9":
        at -= 1
    if at == size or size - at > 5 or at < 2 or text[at - 1] != b":":
        return False
    for digit in range(at, size):
        port = 10 * port + <uint8_t>text[digit] - 48
    if port == 0 or port > 65535:
        return False
    request.port = htons(<uint16_t>port)
    at -= 1
    has_brackets = text[0] == b"[" and text[at - 1] == b"]"
    if has_brackets:
        text[at - 1] = 0
        return inet_pton(AF_INET6, text + 1, request.host) == 1
    text[at] = 0
    request.host[10] = request.host[11] = 0xFF
    return inet_pton(AF_INET, text, request.host + 12) == 1


cdef inline int read_answer(Headers *headers, int *status) noexcept nogil:
    """Judge an answer, and return its status."""
    cdef HeaderField *field
    cdef int found, at
    cdef int fault = check_fields(headers, STATUS, &found)
    if fault:
        return fault
    field = find_header(headers, b":status")
    if field == NULL or field.value_size != 3 or not b"1" <= field.value[0] <= b"5":
        return SF_STATUS
    status[0] = 0
    for at in range(3):
        if not b"0" <= field.value[at] <= b"9":
            return SF_STATUS
        status[0] = 10 * status[0] + field.value[at] - 48
    return SF_STATUS if status[0] == 101 else SF_NONE


cdef inline int check_trailers(Headers *headers) noexcept nogil:
    """Judge the fields behind the data, which nobody reads."""
    cdef int found
    return check_fields(headers, 0, &found)
