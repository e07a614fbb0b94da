"""The outlines of certificates and of the message that has them: as much as bounds look at."""

from __future__ import annotations


def message(*ders: bytes, is_tls13: bool = True) -> bytes:
    """The body of a Certificate message (RFC 8446 section 4.4.2, RFC 5246 section 7.4.2)."""
    entries = b"".join(
        len(der).to_bytes(3, "big") + der + (b"\0\0" if is_tls13 else b"") for der in ders
    )
    return (b"\0" if is_tls13 else b"") + len(entries).to_bytes(3, "big") + entries


def value(tag: int, content: bytes) -> bytes:
    """One value, whose length has one byte or four."""
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    return bytes((tag, 0x83)) + size.to_bytes(3, "big") + content


def signed(
    key: bytes = b"",
    names: bytes = b"",
    more: bytes = b"",
    *,
    version: bytes = b"",
    issuer: bytes = b"",
    validity: bytes = b"",
) -> bytes:
    """What the issuer signs of a certificate: ten values with what is around it.  `names` are in
    its subject."""
    return b"".join(
        (version, value(2, b"\1"), value(0x30, b""), value(0x30, issuer), value(0x30, validity),
         value(0x30, names), value(0x30, key), more)
    )  # fmt: skip


def certificate(
    key: bytes = b"",
    names: bytes = b"",
    more: bytes = b"",
    *,
    signature: bytes = b"\0",
    **rest: bytes,
) -> bytes:
    """A certificate with the parts of `signed`."""
    content = value(0x30, signed(key, names, more, **rest))
    return value(0x30, content + value(0x30, b"") + value(3, signature))
