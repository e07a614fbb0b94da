"""PEM and DER, whole or damaged."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tests.helpers.odd_certificates import (
    serial_that_is_not_positive,
    with_a_broken_name,
    with_a_key_of_an_unknown_kind,
    with_its_last_extension_twice,
    with_serial,
)
from uproxy.errors import BundleError
from uproxy.lab.pki import Authority, Issued
from uproxy.spiffe import encoding

MIB = 1 << 20
CA = Authority()
ISSUED = CA.intermediate().issue()
LONG_DER = CA.issue(dns=tuple(f"{number}.example.org" for number in range(5000))).der[0]


def test_a_chain_is_read_in_order_from_pem_and_der() -> None:
    assert encoding.certificates(ISSUED.pem) == ISSUED.chain
    assert encoding.certificates(b"".join(ISSUED.der)) == ISSUED.chain


def test_text_around_pem_and_blocks_of_another_kind_are_passed_over() -> None:
    data = b"subject=x\n" + ISSUED.key_pem + ISSUED.pem + b"\nthe end"
    assert encoding.certificates(data) == ISSUED.chain


def test_pem_may_have_any_line_ends() -> None:
    assert encoding.certificates(ISSUED.pem.replace(b"\n", b"\r\n")) == ISSUED.chain


def test_lengths_of_every_form_are_understood() -> None:
    assert len(LONG_DER) > 0xFFFF
    parts = (
        b"\x30\x00",
        b"\x30\x7f" + bytes(0x7F),
        ISSUED.der[0],
        LONG_DER,
        b"\x30\x84\x00\x00\x00\x01a",
    )
    assert encoding.split_der(b"".join(parts)) == parts
    assert encoding.split_der(b"") == ()


NO_SEQUENCES = {
    "no length": b"\x30",
    "cut off": b"\x30\x02a",
    "indefinite": b"\x30\x80",
    "indefinite and long": b"\x30\x80" + bytes(0x80),
    "five octets": b"\x30\x85\x00\x00\x00\x00\x01a",
    "a set": b"\x31\x01a",
    "a rest": b"\x30\x01ab",
    "cut length": b"\x30\x82\x01",
}


@pytest.mark.parametrize("data", NO_SEQUENCES.values(), ids=NO_SEQUENCES)
def test_what_is_no_sequence_is_an_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        encoding.split_der(data)


@pytest.mark.parametrize(
    ("word", "data"),
    [
        ("damaged or cut off", ISSUED.pem[:-20]),
        ("damaged or cut off", ISSUED.pem + b"-----BEGIN CERTIFICATE-----\nAAAA"),
        ("not base64", ISSUED.pem.replace(b"MII", b"M!I")),
        ("not base64", ISSUED.pem.replace(b"MII", b"!!!!MII")),
        ("can't be read", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
        ("no certificate", ISSUED.key_pem),
        ("no certificate", b""),
        ("can't be read", b"\x30\x00"),
        ("cut off", ISSUED.der[0][:-1]),
        ("neither PEM nor DER", ISSUED.der[0] + b"\n"),
        ("at most 1048576 are read", b"\x30" * (MIB + 1)),
    ],
)
def test_damaged_certificates_are_an_error_in_words(word: str, data: bytes) -> None:
    with pytest.raises(BundleError, match=word):
        encoding.certificates(data)


def test_a_mib_is_read() -> None:
    padded = ISSUED.pem + b"\n" * (MIB - len(ISSUED.pem))
    assert encoding.certificates(padded) == ISSUED.chain


def _with_a_date_that_can_not_be(issued: Issued) -> bytes:
    """The same certificate (DER), with such a date instead of 2060-01-01."""
    der = issued.der[0]
    assert der.count(b"20600101000000Z") == 1
    return der.replace(b"20600101000000Z", b"00000101000000Z")


FAR = datetime(2060, 1, 1, tzinfo=UTC)
DAMAGED = {
    "a subject that isn't UTF-8": with_a_broken_name(ISSUED.chain[1], b"intermediate 1 of"),
    "an issuer that isn't UTF-8": with_a_broken_name(ISSUED.chain[1], b"CA of"),
    "a first day that can't be": _with_a_date_that_can_not_be(
        CA.issue(not_before=FAR, not_after=FAR + timedelta(days=1))
    ),
    "a last day that can't be": _with_a_date_that_can_not_be(CA.issue(not_after=FAR)),
    "a key of an unknown kind": encoding.der(with_a_key_of_an_unknown_kind(CA.root, CA.key)),
    "an extension twice": encoding.der(with_its_last_extension_twice(CA.root, CA.key)),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_found_when_a_certificate_is_read(what: str) -> None:
    """The library would find it in a handshake."""
    with pytest.raises(BundleError, match=r"a certificate can't be read: .+"):
        encoding.certificate(DAMAGED[what])
    assert encoding.outline(DAMAGED[what])


def test_of_a_librarys_message_the_first_line_is_told() -> None:
    assert encoding.first_line(ValueError("one line\nand another")) == "one line"
    assert encoding.first_line(ValueError("one line")) == "one line"


def test_a_certificate_is_exactly_one_element() -> None:
    assert encoding.certificate(ISSUED.der[0]) == ISSUED.certificate
    assert encoding.der(ISSUED.certificate) == ISSUED.der[0]
    with pytest.raises(BundleError):
        encoding.certificate(ISSUED.der[0] + b"\x00")


def test_a_flood_of_begin_lines_is_refused_in_one_pass() -> None:
    # quadratic work would take minutes, more than a test is given
    flood = b"-----BEGIN CERTIFICATE-----\n" * 35_000
    with pytest.raises(BundleError, match="damaged"):
        encoding.certificates(flood)


def test_a_certificate_of_an_unknown_version_is_an_error() -> None:
    version = b"\xa0\x03\x02\x01"
    for number in (0, 1, 3):
        data = ISSUED.der[0].replace(version + b"\x02", version + bytes([number]), 1)
        with pytest.raises(BundleError, match="can't be read"):
            encoding.certificate(data)


@pytest.mark.parametrize("tag", [0xA3, 0xA5], ids=["x400Address", "ediPartyName"])
def test_a_name_of_a_kind_nobody_uses_is_an_error(tag: int) -> None:
    issued = CA.issue(emails=("somebody@example.org",)).der[0]
    start = issued.index(b"somebody@") - 2
    assert issued[start] == 0x81
    with pytest.raises(BundleError, match="can't be read"):
        encoding.certificate(issued[:start] + bytes([tag]) + issued[start + 1 :])


READING = """\
import sys
from uproxy.spiffe import encoding
print(encoding.certificate(bytes.fromhex(sys.argv[1])).serial_number)
"""


def test_nobody_writes_to_our_log_with_a_certificate_that_the_library_warns_of() -> None:
    """Python prints warnings as two lines that are no JSON, and whoever calls could cause them."""
    odd = serial_that_is_not_positive(CA.issue().certificate, CA.key)
    done = subprocess.run(
        [sys.executable, "-c", READING, odd.hex()], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("-128\n", "")


@pytest.mark.parametrize("serial", ["0a1b", "00ff", "7f", "05", "0080"])
def test_a_serial_number_is_written_as_openssl_writes_it(serial: str) -> None:
    der = with_serial(CA.issue().certificate, bytes.fromhex(serial), CA.key)
    told = subprocess.run(
        ["openssl", "x509", "-noout", "-serial", "-inform", "DER"],
        input=der, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    written = encoding.serial_text(encoding.certificate(der))
    assert f"serial={written.upper()}\n" == told
