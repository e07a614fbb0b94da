"""Both engines read, and bound, what a peer presents alike, whatever it is."""

from __future__ import annotations

import ctypes

from hypothesis import example, given
from hypothesis import strategies as st

from tests.helpers.der import certificate, message, value
from uproxy.errors import UntrustedError
from uproxy.lab.pki import Authority
from uproxy.spiffe.presented import (
    MAX_CHAIN,
    MAX_EXTENSIONS,
    MAX_KEY,
    MAX_NAME_PARTS,
    MAX_PARTS,
    Excess,
    NotAMessageError,
    leaf_only,
    read_chain,
    refusal,
)
from uproxy.transport.native._engine import READ_PRESENTED

SVID = Authority("example.org").intermediate().issue()


class Presented(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int),
        ("ders", ctypes.c_void_p * MAX_CHAIN),
        ("sizes", ctypes.c_size_t * MAX_CHAIN),
    )


COMPILED = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(Presented), ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int,
    ctypes.POINTER(ctypes.c_size_t),
)(READ_PRESENTED)  # fmt: skip


def compiled(body: bytes, *, is_tls13: bool) -> tuple[bytes, ...] | tuple[str, str | None] | None:
    there, found = Presented(), ctypes.c_size_t()
    held = ctypes.create_string_buffer(body, len(body))
    data = ctypes.cast(held, ctypes.c_char_p)
    what = COMPILED(ctypes.byref(there), data, len(body), is_tls13, ctypes.byref(found))
    if what < 0:
        return None
    if what:
        error = refusal(what, found.value)
        return error.reason, error.rule
    return tuple(ctypes.string_at(there.ders[at], there.sizes[at]) for at in range(there.count))


def plain(body: bytes, *, is_tls13: bool) -> tuple[bytes, ...] | tuple[str, str | None] | None:
    try:
        return read_chain(body, is_tls13=is_tls13)
    except NotAMessageError:
        return None
    except UntrustedError as error:
        return error.reason, error.rule


_VALUES = st.recursive(
    st.binary(max_size=6).map(lambda content: value(4, content)),
    lambda inner: st.builds(
        lambda tag, parts: value(tag, b"".join(parts)),
        st.sampled_from((0x30, 0x31, 4, 0xA3)),
        st.lists(inner, max_size=6),
    ),
)
_CERTIFICATES = st.one_of(
    st.binary(max_size=40),
    st.builds(certificate, key=_VALUES, names=_VALUES),
    st.builds(certificate, more=st.one_of(_VALUES, _VALUES.map(lambda inner: value(0xA3, inner)))),
    st.sampled_from(SVID.der),
)
DEEP = b""
for _ in range(40):
    DEEP = value(0x30, DEEP)
IN_OCTETS = b""
for _ in range(40):
    IN_OCTETS = value(4, IN_OCTETS)
MANY = value(0xA3, value(0x30, value(0x30, b"") * (MAX_EXTENSIONS + 1)))


@given(st.lists(_CERTIFICATES, max_size=12), st.booleans())
@example([certificate(names=value(5, b"") * (MAX_PARTS + 1))], True)
@example([certificate(key=value(3, bytes(MAX_KEY - 4)))], True)
@example([certificate(names=DEEP)], False)
@example([certificate(names=value(5, b"") * MAX_NAME_PARTS)], True)
@example([certificate(names=IN_OCTETS)], False)
@example([certificate(more=MANY)], True)
@example([certificate(more=value(0xA3, b""))], True)
@example([certificate(names=value(4, value(0x30, b"\x30\x05")))], False)
def test_both_engines_read_certificates_alike(ders: list[bytes], is_tls13: bool) -> None:
    body = message(*ders, is_tls13=is_tls13)
    assert compiled(body, is_tls13=is_tls13) == plain(body, is_tls13=is_tls13)


@given(st.binary(max_size=80), st.integers(0, 2000), st.booleans())
def test_both_engines_read_broken_messages_alike(junk: bytes, at: int, is_tls13: bool) -> None:
    body = message(*SVID.der, is_tls13=is_tls13)
    at = min(at, len(body))
    for broken in (junk, body[:at], body[:at] + junk, body[:at] + junk + body[at + len(junk) :]):
        assert compiled(broken, is_tls13=is_tls13) == plain(broken, is_tls13=is_tls13)


def test_too_much_of_each_kind_has_its_words() -> None:
    for kind in Excess:
        error = refusal(kind, 12345)
        assert error.rule == ("X5-14" if kind is Excess.NOT_DER else "UP-1")
        assert error.reason.startswith("the peer sent ")


def test_a_key_and_a_depth_are_bounded() -> None:
    assert plain(
        message(certificate(key=value(3, bytes(MAX_KEY - 4))), is_tls13=True), is_tls13=True
    ) == (
        f"the peer sent a certificate with a public key of {MAX_KEY + 1} bytes; "
        f"at most {MAX_KEY} are read",
        "UP-1",
    )
    named = message(certificate(names=value(5, b"") * MAX_NAME_PARTS), is_tls13=True)
    assert plain(named, is_tls13=True) == (
        "the peer sent a certificate with a name of more than 20 attributes", "UP-1",
    )  # fmt: skip
    extended = message(certificate(more=MANY), is_tls13=True)
    assert plain(extended, is_tls13=True) == (
        "the peer sent a certificate of 21 extensions; at most 20 are read", "UP-1",
    )  # fmt: skip
    deep = plain(message(certificate(names=DEEP), is_tls13=True), is_tls13=True)
    assert deep == ("the peer sent what is no certificate", "X5-14")


@given(st.lists(st.sampled_from(SVID.der), min_size=1, max_size=9))
def test_a_message_of_the_leaf_alone_is_as_long_as_the_message_of_all(ders: list[bytes]) -> None:
    body = message(*ders, is_tls13=True)
    alone = leaf_only(body)
    assert alone is not None
    assert len(alone) == len(body)
    assert read_chain(alone, is_tls13=True) == (ders[0],)
