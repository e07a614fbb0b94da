"""The dynamic table of HPACK (RFC 7541 §2.3.2): fields that a peer refers to after the first time.

It is allocated when a peer adds to it, and counts 4,096 bytes at most, the size that needs no
SETTINGS.  The fields' strings lie in one piece, the oldest first, and are moved together when there
is no room behind them.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove

cdef enum HpackResult:
    HPACK_OK = 0
    HPACK_MALFORMED = -1
    HPACK_TOO_LARGE = -2  # the list exceeds MAX_HEADER_LIST
    HPACK_NO_MEMORY = -3

cdef enum:
    FIELD_OVERHEAD = 32  # bytes that a field counts beside its strings (RFC 7541 §4.1)
    MAX_TABLE = 4096  # bytes of a dynamic table, overhead included
    MAX_TABLE_FIELDS = 128  # MAX_TABLE // FIELD_OVERHEAD
    MAX_TABLE_TEXT = 8192  # bytes: strings are moved together when they would exceed it
    LEAST_TABLE_TEXT = 512

cdef struct HeaderField:
    const char *name
    const char *value
    uint32_t name_size
    uint32_t value_size

cdef struct TableField:
    uint16_t at  # of the name in `text`; the value is behind it
    uint16_t name_size
    uint16_t value_size

cdef struct HeaderTable:  # fields that the peer refers to: the newest is number 62
    TableField fields[MAX_TABLE_FIELDS]  # a ring
    uint32_t newest
    uint32_t count
    uint32_t size  # bytes, overhead included
    char *text  # the fields' strings, the oldest first
    uint32_t text_end
    uint32_t text_room

cdef struct HeaderDecoder:
    HeaderTable *table  # NULL: nothing has been added
    uint32_t most  # bytes of the table, as the peer has chosen; MAX_TABLE at first


cdef inline void free_decoder(HeaderDecoder *decoder) noexcept nogil:
    """Free the table."""
    if decoder.table != NULL:
        free(decoder.table.text)
        free(decoder.table)
    decoder.table = NULL


cdef inline TableField *table_field(HeaderTable *table, uint32_t age) noexcept nogil:
    """Return a field by its age: the newest is 0."""
    return &table.fields[(table.newest - age) & (MAX_TABLE_FIELDS - 1)]


cdef inline void shrink_table(HeaderTable *table, uint32_t most) noexcept nogil:
    """Remove the oldest fields until no more than `most` bytes are counted."""
    cdef TableField *oldest
    while table.size > most:
        oldest = table_field(table, table.count - 1)
        table.size -= oldest.name_size + oldest.value_size + FIELD_OVERHEAD
        table.count -= 1
    if not table.count:
        table.text_end = 0


cdef inline bint make_text_room(HeaderTable *table, uint32_t size) noexcept nogil:
    """Make room for `size` bytes of text, behind all others.  False: no memory."""
    cdef uint32_t begin, age
    cdef uint32_t room = table.text_room if table.text_room else LEAST_TABLE_TEXT
    cdef char *text
    if table.text_end + size <= table.text_room:
        return True
    begin = table_field(table, table.count - 1).at if table.count else 0
    if begin:
        memmove(table.text, table.text + begin, table.text_end - begin)
        table.text_end -= begin
        for age in range(table.count):
            table_field(table, age).at -= <uint16_t>begin
    while room < 2 * (table.text_end + size) and room < MAX_TABLE_TEXT:
        room *= 2
    if room == table.text_room:
        return True
    text = <char *>realloc(table.text, room)
    if text == NULL:
        return False
    table.text, table.text_room = text, room
    return True


cdef inline int add_to_table(HeaderDecoder *decoder, HeaderField *field) noexcept nogil:
    """Add a field, whose strings aren't in the table's text.  Returns an HpackResult."""
    cdef uint32_t size = field.name_size + field.value_size + FIELD_OVERHEAD
    cdef HeaderTable *table = decoder.table
    cdef TableField *newest
    if size > decoder.most:
        if table != NULL:
            shrink_table(table, 0)
        return HPACK_OK
    if table == NULL:
        table = decoder.table = <HeaderTable *>calloc(1, sizeof(HeaderTable))
        if table == NULL:
            return HPACK_NO_MEMORY
    shrink_table(table, decoder.most - size)
    if not make_text_room(table, size - FIELD_OVERHEAD):
        return HPACK_NO_MEMORY
    table.newest = (table.newest + 1) & (MAX_TABLE_FIELDS - 1)
    table.count += 1
    table.size += size
    newest = table_field(table, 0)
    newest.at = <uint16_t>table.text_end
    newest.name_size, newest.value_size = <uint16_t>field.name_size, <uint16_t>field.value_size
    add_text(table, field.name, field.name_size)
    add_text(table, field.value, field.value_size)
    return HPACK_OK


cdef inline void add_text(HeaderTable *table, const char *text, uint32_t size) noexcept nogil:
    """Add a string to the table's text, which has room for it."""
    if size:  # otherwise there may be no memory for it
        memcpy(table.text + table.text_end, text, size)
        table.text_end += size
