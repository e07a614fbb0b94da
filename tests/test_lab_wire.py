"""The wire's reader: against OpenSSL's bytes, and against bytes that are wrong in one place."""

from __future__ import annotations

from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from tests.helpers.captured_tls import SECRET, conversation
from uproxy.lab.wire import (
    CIPHERS,
    ClientHello,
    KeyShare,
    TlsRecord,
    WireError,
    read_client_hello,
    read_conversation,
    read_records,
    read_server_hello,
)

CLIENT, SERVER = conversation()


def hello_of(way: bytes) -> bytes:
    return read_records(way)[0].body


def test_openssls_tls_1_3_is_read_from_its_bytes() -> None:
    seen = read_conversation(CLIENT, SERVER)
    assert seen.server.version == 0x0304
    assert 0x0304 in seen.client.versions
    assert seen.server.cipher in CIPHERS
    assert seen.encrypted_records > 2
    assert seen.encrypted_bytes > len(SECRET)
    assert SECRET not in CLIENT + SERVER


def test_the_post_quantum_share_has_the_sizes_of_its_standard() -> None:
    there, back = read_conversation(CLIENT, SERVER).agreed
    # ML-KEM-768's encapsulation key, or its ciphertext, and an X25519 share (FIPS 203, §8)
    assert (there, back) == (KeyShare(0x11EC, 1184 + 32), KeyShare(0x11EC, 1088 + 32))


def test_another_group_is_told_as_what_it_is() -> None:
    there, back = read_conversation(*conversation(curve=ec.SECP256R1())).agreed
    assert (there, back) == (KeyShare(0x0017, 65), KeyShare(0x0017, 65))


def test_the_application_protocols_on_offer_are_read() -> None:
    asked, answered = conversation(protocols=(b"h2", b"http/1.1"))
    assert read_conversation(asked, answered).client.protocols == (b"h2", b"http/1.1")
    assert read_conversation(CLIENT, SERVER).client.protocols == ()


def test_tls_1_2_is_not_taken_for_1_3() -> None:
    with pytest.raises(WireError, match=r"isn't TLS 1\.3"):
        read_conversation(*conversation(SSL.TLS1_2_VERSION))


def test_a_record_that_has_not_arrived_whole_is_left_alone() -> None:
    assert read_records(CLIENT[:-1]) == read_records(CLIENT)[:-1]
    assert read_records(CLIENT[:4]) == ()


def test_a_hello_may_span_records() -> None:
    hello = hello_of(CLIENT)
    halves = hello[:100], hello[100:]
    split = b"".join(b"\x16\x03\x01" + len(half).to_bytes(2, "big") + half for half in halves)
    rest = CLIENT[5 + len(hello) :]
    assert read_conversation(split + rest, SERVER) == read_conversation(CLIENT, SERVER)


def test_half_a_hello_is_none() -> None:
    with pytest.raises(WireError, match="no whole hello"):
        read_conversation(CLIENT[:200], SERVER)


@pytest.mark.parametrize("start", ["00030100051234567890", "1603020001ff", "16030141010000"])
def test_what_is_no_record_is_refused(start: str) -> None:
    with pytest.raises(WireError, match="no TLS record at byte 0"):
        read_records(bytes.fromhex(start))


def test_plaintext_is_refused() -> None:
    with pytest.raises(WireError):
        read_conversation(b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n")


def test_a_record_in_the_open_behind_the_hellos_is_refused() -> None:
    alert = bytes.fromhex("15030300020100")
    with pytest.raises(WireError, match="type 21 travels in the open"):
        read_conversation(CLIENT, SERVER + alert)


def test_a_hello_of_the_other_side_is_refused() -> None:
    with pytest.raises(WireError, match="message 1 was expected, 2 came"):
        read_conversation(SERVER, SERVER)


def test_a_retry_request_is_told_from_a_server_hello() -> None:
    random = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
    hello = hello_of(SERVER)
    with pytest.raises(WireError, match="HelloRetryRequest"):
        read_server_hello(hello[:6] + random + hello[38:])


def test_an_extension_that_is_there_twice_is_refused() -> None:
    extension = bytes.fromhex("002b00020304")
    body = bytes(34) + b"\0" + bytes(3) + b"\0\x0c" + extension * 2
    with pytest.raises(WireError, match="extension 43 is there twice"):
        read_server_hello(b"\2" + len(body).to_bytes(3, "big") + body)


def test_a_client_without_extensions_offers_nothing_we_know() -> None:
    body = bytes(34) + b"\0" + b"\0\2\x13\1" + b"\1\0" + b"\0\0"
    hello = read_client_hello(b"\1" + len(body).to_bytes(3, "big") + body)
    assert hello == ClientHello(versions=(), shares=(), protocols=())


def test_bytes_behind_a_hello_are_refused() -> None:
    with pytest.raises(WireError, match="1 bytes too many"):
        read_server_hello(hello_of(SERVER) + b"\0")


def test_a_group_that_was_not_offered_is_refused() -> None:
    seen = read_conversation(conversation(curve=ec.SECP256R1())[0], SERVER)
    with pytest.raises(WireError, match="0x11ec, which wasn't offered"):
        _ = seen.agreed


def test_records_keep_what_they_carry() -> None:
    assert read_records(b"\x17\x03\x03\0\2ab") == (TlsRecord(23, 0x0303, b"ab"),)


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(client: bytes, server: bytes) -> None:
    with pytest.raises(WireError):
        read_conversation(client, server)


@given(st.integers(0, len(CLIENT) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(place: int, value: int) -> None:
    changed = CLIENT[:place] + bytes([value]) + CLIENT[place + 1 :]
    with suppress(WireError):
        read_conversation(changed, SERVER)
