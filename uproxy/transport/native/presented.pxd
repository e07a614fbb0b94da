"""The certificates in a Certificate message: found, and their sizes checked, before anything else
is spent on them. `spiffe/presented.py` does the same for the Python engine, and has the reasons."""

from libc.stdint cimport uint8_t


cdef enum:  # what a peer may present; spiffe/presented.py has the reasons
    MAX_CHAIN = 10  # certificates
    MAX_CHAIN_BYTES = 64 * 1024  # of all of them
    MAX_PARTS = 200  # ASN.1 values in one certificate
    MAX_NAME_PARTS = 80  # of these in its subject, or in its issuer
    MAX_EXTENSIONS = 20  # in one certificate
    MAX_TEXT = 8 * 1024  # signed bytes of one certificate beside its key
    MAX_KEY = 4 * 1024  # bytes of one certificate's public key
    MAX_CLIENT_HELLO = 8 * 1024  # bytes
    MAX_REQUEST = 16 * 1024  # bytes of a CertificateRequest
    MAX_DEPTH = 24  # ASN.1 values inside each other

cdef enum Excess:  # the numbers of spiffe.presented.Excess, as `_engine` checks
    X_NONE, X_CERTIFICATES, X_BYTES, X_PARTS, X_TEXT, X_KEY, X_MESSAGE, X_REQUEST, X_NOT_DER, X_NAME
    X_EXTENSIONS
    EXCESS_COUNT

cdef struct Presented:  # certificates inside a Certificate message, leaf first
    int count  # of which the first MAX_CHAIN are here
    const uint8_t *ders[MAX_CHAIN]
    size_t sizes[MAX_CHAIN]

cdef enum:  # tags of DER
    SEQUENCE = 0x30
    OCTETS = 0x04
    VERSION = 0xA0  # in a certificate
    EXTENSIONS = 0xA3  # in a certificate
    CONSTRUCTED = 0x20  # this bit: made of other values

cdef struct Value:  # of ASN.1, in DER
    uint8_t tag
    const uint8_t *start  # of the content, behind the header
    const uint8_t *end


cdef inline size_t number_at(const uint8_t *at, int size) noexcept nogil:
    """Return the big-endian number of so many bytes."""
    cdef size_t value = 0
    cdef int index
    for index in range(size):
        value = (value << 8) | at[index]
    return value


cdef inline bint read_entries(Presented *them, const uint8_t *body, size_t size,
                              bint is_tls13) noexcept nogil:
    """Find the certificates in the body of a Certificate message. False if it isn't built as RFC
    8446 §4.4.2 or RFC 5246 §7.4.2 say."""
    cdef size_t at = 1 if is_tls13 else 0
    cdef size_t length
    them.count = 0
    if size < at + 3 or (is_tls13 and body[0] != 0) or number_at(body + at, 3) != size - at - 3:
        return False
    at += 3
    while at < size:
        if size - at < 3:
            return False
        length = number_at(body + at, 3)
        at += 3
        if length > size - at:
            return False
        if them.count < MAX_CHAIN:
            them.ders[them.count], them.sizes[them.count] = body + at, length
        them.count += 1
        at += length
        if is_tls13:
            if size - at < 2 or number_at(body + at, 2) > size - at - 2:
                return False
            at += 2 + number_at(body + at, 2)
    return them.count > 0


cdef inline bint read_value(Value *value, const uint8_t *at, const uint8_t *end) noexcept nogil:
    """Read the DER header of the value that begins at `at`.  False if no value does that goes to
    `end` at most, with a tag of one byte and a length of three at most."""
    cdef size_t size
    cdef int count
    if end - at < 2 or (at[0] & 0x1F) == 0x1F:
        return False
    value.tag, size = at[0], at[1]
    at += 2
    if size >= 0x80:
        count = <int>(size - 0x80)
        if count < 1 or count > 3 or end - at < count:
            return False
        size = number_at(at, count)
        at += count
    if size > <size_t>(end - at):
        return False
    value.start, value.end = at, at + size
    return True


cdef inline bint read_sizes(const uint8_t *der, size_t size, size_t *key, size_t *text,
                            int *names, int *extensions) noexcept nogil:
    """Measure a certificate: the bytes of its public key, the bytes of all else that the issuer has
    signed, the values in the longer of its two names, its extensions.  False if it isn't DER."""
    cdef Value value, signed
    cdef const uint8_t *at
    cdef int index
    if not read_value(&value, der, der + size) or value.end != der + size:
        return False
    if not read_value(&signed, value.start, value.end):
        return False
    if value.tag != SEQUENCE or signed.tag != SEQUENCE:
        return False
    at = signed.start
    if not read_value(&value, at, signed.end):
        return False
    if value.tag == VERSION:
        at = value.end
    for index in range(6):  # serial, algorithm, issuer, validity, subject, key
        if not read_value(&value, at, signed.end):
            return False
        if index == 2 or index == 4:
            names[0] = max(names[0], count_parts(at, value.end - at))
        at = value.end
    key[0] = value.end - value.start
    text[0] = signed.end - signed.start - key[0]
    extensions[0] = count_extensions(at, signed.end)
    return extensions[0] >= 0


cdef inline int count_extensions(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """Count the extensions between a certificate's key and the end of what is signed.  -1 if it
    isn't DER."""
    cdef Value value, all_of_them
    cdef const uint8_t *inner
    cdef int count = 0
    while at < end:
        if not read_value(&value, at, end):
            return -1
        at = value.end
        if value.tag != EXTENSIONS:
            continue
        if not read_value(&all_of_them, value.start, value.end):
            return -1
        inner = all_of_them.start
        while inner < all_of_them.end:
            if not read_value(&value, inner, all_of_them.end):
                return -1
            inner = value.end
            count += 1
    return count


cdef inline int count_parts(const uint8_t *der, size_t size) noexcept nogil:
    """Count the values of a DER value, those inside extensions included, up to MAX_PARTS + 1. -1 if
    it isn't DER."""
    cdef const uint8_t *ends[MAX_DEPTH]
    cdef bint opaque[MAX_DEPTH]  # octets, which may be anything
    cdef const uint8_t *at = der
    cdef Value value, inner
    cdef int depth = 1, parts = 0
    cdef bint nested
    ends[0], opaque[0] = der + size, False
    while True:
        while at == ends[depth - 1]:
            depth -= 1
            if depth == 0:
                return parts
        if depth == MAX_DEPTH or not read_value(&value, at, ends[depth - 1]):
            # octets that began like DER needn't go on like it
            while depth and not opaque[depth - 1]:
                depth -= 1
            if depth == 0:
                return -1
            at = ends[depth - 1]
            continue
        parts += 1
        if parts > MAX_PARTS:
            return parts
        nested = (value.tag == OCTETS and read_value(&inner, value.start, value.end)
                  and inner.end == value.end)
        at = value.end
        if nested or value.tag & CONSTRUCTED:
            ends[depth], opaque[depth] = value.end, nested
            depth += 1
            at = value.start


cdef inline int excess_of(Presented *them, int index, size_t *found) noexcept nogil:
    """Return what one certificate has too much of (an Excess), and in `found` how much."""
    cdef size_t key = 0, text = 0
    cdef int parts, names = 0, extensions = 0
    if not read_sizes(them.ders[index], them.sizes[index], &key, &text, &names, &extensions):
        return X_NOT_DER
    parts = count_parts(them.ders[index], them.sizes[index])
    found[0] = parts
    if parts < 0:
        return X_NOT_DER
    if parts > MAX_PARTS:
        return X_PARTS
    found[0] = names
    if names > MAX_NAME_PARTS:
        return X_NAME
    found[0] = extensions
    if extensions > MAX_EXTENSIONS:
        return X_EXTENSIONS
    found[0] = key
    if key > MAX_KEY:
        return X_KEY
    found[0] = text
    return X_TEXT if text > MAX_TEXT else X_NONE


cdef inline int read_presented(Presented *them, const uint8_t *body, size_t size, bint is_tls13,
                               size_t *found) noexcept nogil:
    """Find the certificates in the body of a Certificate message. Returns an Excess, and in `found`
    how much there is (X_NONE: not too much); -1 if it can't be read."""
    cdef int index, what
    if not read_entries(them, body, size, is_tls13):
        return -1
    found[0] = them.count
    if them.count > MAX_CHAIN:
        return X_CERTIFICATES
    found[0] = size
    if size > MAX_CHAIN_BYTES:
        return X_BYTES
    for index in range(them.count):
        what = excess_of(them, index, found)
        if what != X_NONE:
            return what
    return X_NONE


cdef inline bint leave_leaf_only(Presented *them, uint8_t *body, size_t size) noexcept nogil:
    """Turn what follows the leaf in a TLS 1.3 message into an unknown extension of the leaf's entry
    (RFC 8446 §4.4.2), so that OpenSSL neither reads nor keeps the other certificates.  False if
    they, or the leaf, are too large for that."""
    cdef uint8_t *at = body + (them.ders[0] - body) + them.sizes[0]
    cdef size_t rest = size - (at - body)
    cdef size_t found = 0
    if excess_of(them, 0, &found) != X_NONE:
        return False
    if them.count == 1:
        return True
    if rest < 6 or rest - 2 > 0xFFFF:
        return False
    at[0], at[1] = <uint8_t>((rest - 2) >> 8), <uint8_t>(rest - 2)
    at[2], at[3] = 0xFA, 0xFA  # reserved: no extension will ever have this number (RFC 8701)
    at[4], at[5] = <uint8_t>((rest - 6) >> 8), <uint8_t>(rest - 6)
    return True
