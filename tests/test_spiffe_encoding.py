"""PEM and DER, whole or damaged."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.odd_certificates import serial_that_is_not_positive, with_serial
from uproxy.errors import BundleError
from uproxy.lab.pki import Authority
from uproxy.spiffe import encoding

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
    short = b"\x30\x01a"
    assert len(LONG_DER) > 0xFFFF
    parts = (short, ISSUED.der[0], LONG_DER)
    assert encoding.split_der(b"".join(parts)) == parts
    assert encoding.split_der(b"") == ()


@pytest.mark.parametrize(
    "data",
    [b"\x30", b"\x30\x02a", b"\x30\x80\x00\x00", b"\x30\x85\x00\x00\x00\x00\x01a", b"\x31\x01a",
     b"\x30\x01ab", b"\x30\x82\x01"],
    ids=["no length", "cut off", "indefinite", "five octets", "a set", "a rest", "cut length"],
)  # fmt: skip
def test_what_is_no_sequence_is_an_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        encoding.split_der(data)


@pytest.mark.parametrize(
    ("word", "data"),
    [
        ("damaged or cut off", ISSUED.pem[:-20]),
        ("damaged or cut off", ISSUED.pem + b"-----BEGIN CERTIFICATE-----\nAAAA"),
        ("not base64", ISSUED.pem.replace(b"MII", b"M!I")),
        ("can't be read", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
        ("no certificate", ISSUED.key_pem),
        ("no certificate", b""),
        ("can't be read", b"\x30\x00"),
        ("cut off", ISSUED.der[0][:-1]),
        ("neither PEM nor DER", ISSUED.der[0] + b"\n"),
        ("at most", b"\x30" * (encoding.MAX_BYTES + 1)),
    ],
)
def test_damaged_certificates_are_an_error_in_words(word: str, data: bytes) -> None:
    with pytest.raises(BundleError, match=word):
        encoding.certificates(data)


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
