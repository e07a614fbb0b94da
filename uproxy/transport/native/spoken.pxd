"""The headers with which an L7 proxy says for which caller it sends a CONNECT, and forwards that
caller's proof: `x-uproxy-caller` and `x-uproxy-proof`.  Threads copy their values; the event loop
takes them and decides whether they are believed.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from uproxy.transport.native.hpack_table cimport HeaderField
from uproxy.transport.native.hpack cimport Headers, is_named
from uproxy.transport.native.types cimport Connection

cdef enum SpokenKind:  # the first byte of each; its size follows, in two bytes, and the value
    SPOKEN_END
    SPOKEN_CALLER
    SPOKEN_PROOF

cdef enum:
    SPOKEN_HEAD = 3  # bytes before a value


cdef inline int kind_of(HeaderField *field) noexcept nogil:
    """Return which SpokenKind a field is; SPOKEN_END: none."""
    if is_named(field, b"x-uproxy-caller"):
        return SPOKEN_CALLER
    return SPOKEN_PROOF if is_named(field, b"x-uproxy-proof") else SPOKEN_END


cdef inline bint keep_spoken(Connection *connection, Headers *headers) noexcept nogil:
    """Copy the values of those headers of a CONNECT into `connection.spoken`, if it has any.
    Returns False if there is no memory."""
    cdef HeaderField *field
    cdef uint32_t at, size = 0, written = 0
    cdef uint16_t value_size
    for at in range(headers.count):
        if kind_of(&headers.fields[at]) != SPOKEN_END:
            size += SPOKEN_HEAD + headers.fields[at].value_size
    if size == 0:
        return True
    connection.spoken = <char *>malloc(size + 1)
    if connection.spoken == NULL:
        return False
    for at in range(headers.count):
        field = &headers.fields[at]
        if kind_of(field) == SPOKEN_END:
            continue
        connection.spoken[written] = <char>kind_of(field)
        value_size = <uint16_t>field.value_size  # of MAX_HEADER_LIST at most
        memcpy(connection.spoken + written + 1, &value_size, sizeof(value_size))
        memcpy(connection.spoken + written + SPOKEN_HEAD, field.value, value_size)
        written += SPOKEN_HEAD + value_size
    connection.spoken[written] = SPOKEN_END
    return True


cdef inline void drop_spoken(Connection *connection) noexcept nogil:
    """Free the copied header values of a connection."""
    free(connection.spoken)
    connection.spoken = NULL


cdef inline take_spoken(Connection *connection):
    """Return the copied header values as a tuple of callers and a tuple of proofs, and free the
    copy; None if there were no such headers."""
    cdef const char *at = connection.spoken
    cdef uint16_t size
    if at == NULL:
        return None
    callers, proofs = [], []
    while at[0] != SPOKEN_END:
        memcpy(&size, at + 1, sizeof(size))
        value = at[SPOKEN_HEAD:SPOKEN_HEAD + size].decode("latin-1")
        (callers if at[0] == SPOKEN_CALLER else proofs).append(value)
        at += SPOKEN_HEAD + size
    drop_spoken(connection)
    return tuple(callers), tuple(proofs)
