"""What a peer presents is measured to the byte, and read no further than that."""

from __future__ import annotations

import pytest

from tests.helpers.der import certificate, message, signed, value
from uproxy.errors import UntrustedError
from uproxy.lab.pki import Authority
from uproxy.model import Alert
from uproxy.spiffe.presented import (
    MAX_CHAIN,
    MAX_CHAIN_BYTES,
    MAX_DEPTH,
    MAX_EXTENSIONS,
    MAX_KEY,
    MAX_NAME_PARTS,
    MAX_PARTS,
    MAX_TEXT,
    NotAMessageError,
    leaf_only,
    read_chain,
)

SVID = Authority("example.org").intermediate().issue()
NULL = value(5, b"")
NO_DER = "the peer sent what is no certificate"


def refused(*ders: bytes, is_tls13: bool = True) -> str:
    """Why these certificates are refused; empty: they aren't."""
    try:
        chain = read_chain(message(*ders, is_tls13=is_tls13), is_tls13=is_tls13)
    except UntrustedError as error:
        return error.reason if error.alert is Alert.BAD_CERTIFICATE else "another alert"
    assert chain == ders
    return ""


@pytest.mark.parametrize("is_tls13", [True, False])
def test_svids_are_read_in_the_order_they_were_sent(is_tls13: bool) -> None:
    assert refused(*SVID.der, is_tls13=is_tls13) == ""


def test_certificates_and_their_bytes_are_counted() -> None:
    small = certificate()
    assert refused(*[small] * MAX_CHAIN) == ""
    assert "11 certificates; at most 10" in refused(*[small] * (MAX_CHAIN + 1))
    rest = MAX_CHAIN_BYTES - len(message(certificate(signature=bytes(128))))
    assert refused(certificate(signature=bytes(128 + rest))) == ""
    large = certificate(signature=bytes(128 + rest + 1))
    assert "certificates of 65537 bytes; at most 65536" in refused(large)
    huge = certificate(signature=bytes(70_000))
    for is_tls13 in (True, False):
        assert "at most 65536" in refused(huge, is_tls13=is_tls13)


def test_values_are_counted_to_the_last() -> None:
    """An outline has ten."""
    most = NULL * (MAX_PARTS - 10)
    assert refused(certificate(most)) == refused(certificate(validity=most)) == ""
    assert "more than 200 parts" in refused(certificate(most + NULL))
    # and no further: what comes then may be anything
    assert "more than 200 parts" in refused(certificate(most + NULL * 3 + b"\x05\x09"))


def test_names_are_counted_whether_there_is_a_version_or_not() -> None:
    for version in (b"", value(0xA0, b"\x02\x01\x02")):
        most = NULL * (MAX_NAME_PARTS - 1)
        both = certificate(names=most, issuer=most, version=version)
        assert refused(both) == ""
        assert "more than 20 attributes" in refused(certificate(names=most + NULL, version=version))
        assert "more than 20 attributes" in refused(
            certificate(issuer=most + NULL, version=version)
        )
        assert refused(certificate(NULL * 100, version=version)) == ""


def test_extensions_are_counted() -> None:
    def extended(count: int, *, before: bytes = b"") -> bytes:
        return certificate(more=before + value(0xA3, value(0x30, value(0x30, b"") * count)))

    assert refused(extended(MAX_EXTENSIONS)) == ""
    assert "of 21 extensions; at most 20" in refused(extended(MAX_EXTENSIONS + 1))
    # behind an issuer's unique identifier
    assert "of 21 extensions" in refused(extended(MAX_EXTENSIONS + 1, before=value(0x81, b"")))


def test_keys_and_all_else_are_measured() -> None:
    def key(size: int) -> bytes:
        return value(3, bytes(size - 5))

    assert refused(certificate(key(MAX_KEY))) == ""
    assert "a public key of 4097 bytes; at most 4096" in refused(certificate(key(MAX_KEY + 1)))
    rest = MAX_TEXT - len(signed(names=value(12, bytes(128))))
    # a key, and the four bytes of its length, come on top
    for some, room in ((b"", rest), (key(1000), rest - 3)):
        assert refused(certificate(some, value(12, bytes(128 + room)))) == ""
        words = "with 8193 bytes of names and extensions; at most 8192"
        assert words in refused(certificate(some, value(12, bytes(128 + room + 1))))


def test_values_may_lie_in_each_other_up_to_a_depth() -> None:
    deep = b""
    for _ in range(MAX_DEPTH - 4):  # the certificate, what is signed and the key are around it
        deep = value(0x30, deep)
    assert refused(certificate(deep)) == ""
    assert refused(certificate(value(0x30, deep))) == NO_DER


@pytest.mark.parametrize(
    "der",
    [
        certificate().replace(b"\x30", b"\x31", 1),
        certificate()[:2] + b"\x31" + certificate()[3:],
        certificate() + b"\0",
        certificate() + NULL,
        certificate(b"\x1f\x00"),
        certificate(b"\x3f\x00"),
        certificate(b"\xbf\x00"),
        certificate(b"\x30\x80" + NULL * 64),
        certificate(b"\x04\x84\0\0\0\0"),
        certificate(b"\x04\x82\x01"),
        certificate(b"\x04\x83\x01\x00"),
        certificate(b"\x05\x09"),
        certificate(b"\x05"),
        # a value that goes on behind the end of what it is in
        certificate(b"\x30\x03\x04\x03a" + NULL * MAX_PARTS),
    ],
)
def test_what_is_no_der_is_no_certificate(der: bytes) -> None:
    assert refused(der) == NO_DER


def test_lengths_of_one_to_four_bytes_are_read() -> None:
    for header in (b"\x1e\x00", b"\x1e\x81\x00", b"\x1e\x82\x00\x00", b"\x1e\x83\x00\x00\x00"):
        assert refused(certificate(header)) == ""
    assert refused(certificate(b"\x1e\x7f" + bytes(127))) == ""


def test_one_value_in_octets_is_looked_into_and_anything_else_is_not() -> None:
    """As in extensions."""
    many, broken = NULL * MAX_PARTS, value(0x30, b"\x05\x09")
    assert "parts" in refused(certificate(value(4, value(0x30, many))))
    for content in (
        many,
        b"\x05",
        b"\x1f\x00",
        value(0x30, broken + many),
        value(0x30, b"") + b"\0",
    ):
        assert refused(certificate(value(4, content))) == ""
    # what follows octets that are broken inside is counted
    assert "parts" in refused(certificate(value(4, value(0x30, broken)) + many))
    assert refused(certificate(value(4, value(0x30, broken)) + b"\x05\x09")) == NO_DER


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\0", b"\0\0\0", message(), message(*SVID.der)[:-1], message(*SVID.der) + b"\0",
        b"\1" + message(*SVID.der)[1:], b"\0\0\0\2\0\0", b"\0\0\0\3\0\0\1",
        b"\0\0\0\5\0\0\1a\0",
    ],
)  # fmt: skip
def test_what_is_no_message_is_left_to_openssl(body: bytes) -> None:
    with pytest.raises(NotAMessageError):
        read_chain(body, is_tls13=True)


def test_what_follows_the_leaf_becomes_one_extension_of_its_length() -> None:
    leaf = SVID.der[0]
    assert leaf_only(message(leaf)) == message(leaf)
    body = message(*SVID.der, *SVID.der)
    alone = leaf_only(body)
    assert alone is not None
    start = len(message(leaf)) - 2
    assert alone[:start] == body[:start]
    rest = len(body) - start - 2
    extension = b"\xfa\xfa" + (rest - 4).to_bytes(2, "big")
    assert alone[start:] == rest.to_bytes(2, "big") + extension + body[start + 6 :]
    assert read_chain(alone, is_tls13=True) == (leaf,)


def test_an_extension_has_65535_bytes_at_most_and_a_leaf_its_bounds() -> None:
    leaf = certificate()
    rest = 0xFFFF - (len(message(leaf, leaf)) - len(message(leaf)))
    assert leaf_only(message(leaf, leaf + bytes(rest))) is not None
    assert leaf_only(message(leaf, leaf + bytes(rest + 1))) is None
    assert leaf_only(message(leaf + b"\0", leaf)) is None
