"""Header blocks of HTTP/2 (HPACK, RFC 7541): decoded as any peer may write them, and written so
that the peer's table stays as it is.

The decoder takes all that the RFC allows.  What is decoded goes to a `Headers`, of which a thread
needs one: its strings are valid until the block, or the Headers, is used for something else.

Fields are written as literals that are never indexed, or as references to the static table: the
same field is always the same bytes, and our side has no table.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, strlen

from uproxy.transport.native.frames cimport Bytes, append
from uproxy.transport.native.hpack_table cimport (
    FIELD_OVERHEAD, HPACK_MALFORMED, HPACK_OK, HPACK_TOO_LARGE, MAX_TABLE, HeaderDecoder,
    HeaderField, TableField, add_to_table, shrink_table, table_field,
)

cdef extern from "hpack_tables.h" nogil:
    enum:
        STATIC_FIELDS  # entries of the static table
        SHORTEST_CODE  # bits
    struct static_field:
        const char *name
        const char *value
        uint8_t name_size
        uint8_t value_size
    const static_field static_table[]  # the first is number 1
    # Huffman's code, by the length of a code: RFC 7541's is canonical
    const uint64_t code_limits[]  # above the codes so long, in the highest of 32 bits
    const uint32_t first_codes[]  # the first so long, as a number
    const uint16_t first_symbols[]  # and where its symbol is
    const uint8_t symbols[]  # by length and code, EOS left out

cdef enum:
    MAX_HEADER_LIST = 16 * 1024  # bytes, overhead included
    MAX_FIELDS = 512  # MAX_HEADER_LIST // FIELD_OVERHEAD
    MAX_INTEGER_SIZE = 6  # bytes of an integer, prefix included
    MAX_INTEGER = 1 << 24  # more than any string, index or table may have
    MAX_RESIZES = 2  # in one block: more never make sense (RFC 7541 §4.2)
    LONGEST_CODE = 30  # bits
    AUTHORITY_FIELD = 1  # numbers of the static table
    METHOD_FIELD = 2
    STATUS_FIELD = 8
    STATUS_FIELDS = 7  # from there on
    NEVER_INDEXED = 0x10  # the first bits of such a literal (RFC 7541 §6.2.3)

cdef struct Headers:  # a decoded block
    uint32_t count
    uint32_t size  # bytes, overhead included
    uint32_t text_size
    HeaderField fields[MAX_FIELDS]
    char text[MAX_HEADER_LIST]  # strings that aren't in the block, or in the static table

cdef struct Block:  # what is left of a header block
    const uint8_t *at
    const uint8_t *end


# Integers and strings.


cdef inline int read_integer(Block *block, int prefix_bits, uint32_t *number) noexcept nogil:
    """Read an integer whose first byte has `prefix_bits` of it; one byte at least is left.  Returns
    an HpackResult."""
    cdef uint32_t most = (1u << prefix_bits) - 1
    cdef uint64_t value = block.at[0] & most
    cdef const uint8_t *begin = block.at
    cdef int shift = 0
    block.at += 1
    if value == most:
        while True:
            if block.at == block.end or block.at - begin == MAX_INTEGER_SIZE:
                return HPACK_MALFORMED
            value += <uint64_t>(block.at[0] & 0x7F) << shift
            shift += 7
            block.at += 1
            if not block.at[-1] & 0x80:
                break
    if value > MAX_INTEGER:
        return HPACK_MALFORMED
    number[0] = <uint32_t>value
    return HPACK_OK


cdef inline int decode_huffman(const uint8_t *at, size_t size, char *text, size_t room,
                               uint32_t *decoded) noexcept nogil:
    """Decode a string into `text`, which has so much room.  Returns an HpackResult."""
    cdef const uint8_t *end = at + size
    cdef uint64_t bits = 0  # from the highest down
    cdef uint32_t next_bits, written = 0
    cdef int held = 0, length
    while True:
        while held <= 56 and at != end:
            bits |= <uint64_t>at[0] << (56 - held)
            held += 8
            at += 1
        next_bits = <uint32_t>(bits >> 32)
        length = SHORTEST_CODE
        while next_bits >= code_limits[length]:
            length += 1
        if length > held:
            break
        if length == LONGEST_CODE and next_bits >> 2 == 0x3FFFFFFF:  # EOS (RFC 7541 §5.2)
            return HPACK_MALFORMED
        if written == room:
            return HPACK_TOO_LARGE
        text[written] = <char>symbols[
            first_symbols[length] + (next_bits >> (32 - length)) - first_codes[length]]
        written += 1
        bits <<= length
        held -= length
    # what is left is padding: fewer than 8 bits, all ones
    if held >= 8 or (held and bits >> (64 - held) != (1u << held) - 1):
        return HPACK_MALFORMED
    decoded[0] = written
    return HPACK_OK


cdef inline int read_string(Block *block, Headers *headers, const char **string,
                            uint32_t *size) noexcept nogil:
    """Read a string; it stays in the block, or is decoded into the headers' text.  Returns an
    HpackResult."""
    cdef uint32_t coded_size
    cdef bint is_coded
    cdef int result
    if block.at == block.end:
        return HPACK_MALFORMED
    is_coded = block.at[0] & 0x80 != 0
    result = read_integer(block, 7, &coded_size)
    if result < 0:
        return result
    if coded_size > <size_t>(block.end - block.at):
        return HPACK_MALFORMED
    string[0], size[0] = <const char *>block.at, coded_size
    if is_coded:
        string[0] = headers.text + headers.text_size
        result = decode_huffman(block.at, coded_size, headers.text + headers.text_size,
                                MAX_HEADER_LIST - headers.text_size, size)
        if result < 0:
            return result
        headers.text_size += size[0]
    block.at += coded_size
    return HPACK_OK


# Fields.


cdef inline int copy_string(Headers *headers, const char **string, uint32_t size) noexcept nogil:
    """Copy a string of the table into the headers' text.  Returns an HpackResult."""
    if size > MAX_HEADER_LIST - headers.text_size:
        return HPACK_TOO_LARGE
    if size:  # an empty string may be at NULL
        memcpy(headers.text + headers.text_size, string[0], size)
    string[0] = headers.text + headers.text_size
    headers.text_size += size
    return HPACK_OK


cdef inline int look_up(HeaderDecoder *decoder, Headers *headers, uint32_t number,
                        HeaderField *field, bint with_value) noexcept nogil:
    """Fill in the name, and the value if `with_value`, of a field of the tables.  Returns an
    HpackResult."""
    cdef TableField *found
    if number == 0:
        return HPACK_MALFORMED
    if number <= STATIC_FIELDS:
        field.name = static_table[number - 1].name
        field.name_size = static_table[number - 1].name_size
        field.value = static_table[number - 1].value
        field.value_size = static_table[number - 1].value_size
        return HPACK_OK
    number -= STATIC_FIELDS + 1
    if decoder.table == NULL or number >= decoder.table.count:
        return HPACK_MALFORMED
    found = table_field(decoder.table, number)
    # copies: adding a field may move or remove those in the table
    field.name, field.name_size = decoder.table.text + found.at, found.name_size
    field.value, field.value_size = field.name + found.name_size, found.value_size
    if copy_string(headers, &field.name, field.name_size) < 0:
        return HPACK_TOO_LARGE
    return copy_string(headers, &field.value, field.value_size) if with_value else HPACK_OK


cdef inline int read_literal(HeaderDecoder *decoder, Block *block, Headers *headers,
                             HeaderField *field, int prefix_bits) noexcept nogil:
    """Read a field whose value is in the block; its name, or the name's number, comes first.
    Returns an HpackResult."""
    cdef uint32_t number = 0
    cdef int result = read_integer(block, prefix_bits, &number)
    if result < 0:
        return result
    if number:
        result = look_up(decoder, headers, number, field, False)
    else:
        result = read_string(block, headers, &field.name, &field.name_size)
    if result < 0:
        return result
    return read_string(block, headers, &field.value, &field.value_size)


cdef inline int read_field(HeaderDecoder *decoder, Block *block, Headers *headers,
                           HeaderField *field) noexcept nogil:
    """Read a field, and add it to the table where the block says so.  Returns an HpackResult."""
    cdef uint8_t first = block.at[0]
    cdef uint32_t number = 0
    cdef int result
    if first & 0x80:
        result = read_integer(block, 7, &number)
        return look_up(decoder, headers, number, field, True) if result == HPACK_OK else result
    if not first & 0x40:
        return read_literal(decoder, block, headers, field, 4)
    result = read_literal(decoder, block, headers, field, 6)
    return add_to_table(decoder, field) if result == HPACK_OK else result


cdef inline int resize_table(HeaderDecoder *decoder, Block *block) noexcept nogil:
    """Read a new size of the table.  Returns an HpackResult."""
    cdef uint32_t most = 0
    if read_integer(block, 5, &most) < 0 or most > MAX_TABLE:
        return HPACK_MALFORMED
    decoder.most = most
    if decoder.table != NULL:
        shrink_table(decoder.table, most)
    return HPACK_OK


cdef inline int decode_block(HeaderDecoder *decoder, const char *data, size_t size,
                             Headers *headers) noexcept nogil:
    """Decode a whole header block.  Returns an HpackResult; after a failure the decoder is of no
    use any more."""
    cdef Block block
    cdef HeaderField *field
    cdef int result, resizes = 0
    block.at = <const uint8_t *>data
    block.end = block.at + size
    headers.count = headers.size = headers.text_size = 0
    while block.at != block.end:
        if block.at[0] & 0xE0 == 0x20:
            resizes += 1
            if resizes > MAX_RESIZES and not headers.count:
                return HPACK_TOO_LARGE
            if headers.count or resize_table(decoder, &block) < 0:
                return HPACK_MALFORMED  # RFC 7541 §4.2: sizes come before all fields
            continue
        if headers.count == MAX_FIELDS:
            return HPACK_TOO_LARGE
        field = &headers.fields[headers.count]
        result = read_field(decoder, &block, headers, field)
        if result < 0:
            return result
        headers.count += 1
        headers.size += field.name_size + field.value_size + FIELD_OVERHEAD
        if headers.size > MAX_HEADER_LIST:
            return HPACK_TOO_LARGE
    return HPACK_OK


cdef inline bint is_named(HeaderField *field, const char *name) noexcept nogil:
    """Whether a field has this name."""
    return field.name_size == strlen(name) and memcmp(field.name, name, field.name_size) == 0


cdef inline HeaderField *find_header(Headers *headers, const char *name) noexcept nogil:
    """Return the first field of this name; NULL: there is none."""
    cdef uint32_t at
    for at in range(headers.count):
        if is_named(&headers.fields[at], name):
            return &headers.fields[at]
    return NULL


# Writing.


cdef inline void put_integer(Bytes *bytes, uint8_t first, int prefix_bits,
                             size_t number) noexcept nogil:
    """Write an integer behind the bits of `first`."""
    cdef uint8_t coded[MAX_INTEGER_SIZE]
    cdef uint32_t most = (1u << prefix_bits) - 1
    cdef int size = 1
    coded[0] = first | <uint8_t>min(number, <size_t>most)
    if number >= most:
        number -= most
        while number >= 0x80 and size < MAX_INTEGER_SIZE - 1:
            coded[size] = 0x80 | <uint8_t>(number & 0x7F)
            number >>= 7
            size += 1
        coded[size] = <uint8_t>number
        size += 1
    append(bytes, <char *>coded, size)


cdef inline void put_indexed(Bytes *bytes, uint32_t number) noexcept nogil:
    """Write a field of the static table."""
    put_integer(bytes, 0x80, 7, number)


cdef inline void put_value(Bytes *bytes, uint32_t number, const char *value,
                           size_t size) noexcept nogil:
    """Write a field that has its name from the static table."""
    put_integer(bytes, NEVER_INDEXED, 4, number)
    put_integer(bytes, 0, 7, size)
    append(bytes, value, size)


cdef inline void put_field(Bytes *bytes, const char *name, size_t name_size, const char *value,
                           size_t size) noexcept nogil:
    """Write a field."""
    put_integer(bytes, NEVER_INDEXED, 4, 0)
    put_integer(bytes, 0, 7, name_size)
    append(bytes, name, name_size)
    put_integer(bytes, 0, 7, size)
    append(bytes, value, size)


cdef inline void put_connect(Bytes *bytes, const char *authority, size_t size) noexcept nogil:
    """Write the fields of a CONNECT (RFC 9113 §8.5)."""
    put_value(bytes, METHOD_FIELD, b"CONNECT", 7)
    put_value(bytes, AUTHORITY_FIELD, authority, size)


cdef inline void put_status(Bytes *bytes, int status) noexcept nogil:
    """Write the status of an answer, three digits."""
    cdef char digits[3]
    cdef int at
    digits[0] = <char>(48 + status // 100)
    digits[1] = <char>(48 + status // 10 % 10)
    digits[2] = <char>(48 + status % 10)
    for at in range(STATUS_FIELD, STATUS_FIELD + STATUS_FIELDS):
        if memcmp(static_table[at - 1].value, digits, 3) == 0:
            put_indexed(bytes, at)
            return
    put_value(bytes, STATUS_FIELD, digits, 3)
