from __future__ import annotations

import struct
from datetime import UTC, datetime
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.docs import ROOT, blocks
from uproxy.contract import Arrival, PeerSvid
from uproxy.model import Address, TcpAddress, UnixAddress
from uproxy.proxy.proxyprotocol import preface
from uproxy.spiffe.ids import SpiffeId

WEB = "spiffe://example.org/ns/web/sa/frontend"


def arrival(source: Address, local: Address, identity: str | None = WEB) -> Arrival:
    peer = None if identity is None else PeerSvid(identity, (), datetime(2030, 1, 1, tzinfo=UTC))
    return Arrival(1, source, local, peer)


def told(of: Arrival) -> bytes:
    """The header where the peer connects for itself."""
    return preface(of, None if of.peer is None else SpiffeId.parse(of.peer.spiffe_id))


def test_for_whom_an_l7_proxy_connects_is_told_with_the_address_of_the_proxy() -> None:
    made = arrival(TcpAddress("10.0.0.1", 40000), TcpAddress("10.0.0.2", 8443), "spiffe://td/l7")
    assert read(preface(made, SpiffeId.parse(WEB)))[::4] == ("10.0.0.1", WEB)


def test_an_ipv4_caller_with_an_identity_byte_for_byte() -> None:
    made = told(arrival(TcpAddress("10.0.0.1", 40000), TcpAddress("10.0.0.2", 8443)))
    tlv = b"\xd0" + struct.pack("!H", len(WEB)) + WEB.encode()
    assert made == (
        bytes.fromhex("0d0a0d0a000d0a515549540a")
        + b"\x21\x11"
        + struct.pack("!H", 12 + len(tlv))
        + bytes([10, 0, 0, 1, 10, 0, 0, 2])
        + struct.pack("!HH", 40000, 8443)
        + tlv
    )


def test_the_example_in_the_reference_is_what_is_sent() -> None:
    page = ROOT / "docs" / "reference" / "proxy-protocol.md"
    [example] = [block.text for block in blocks(page) if block.info == "text"]
    web = "spiffe://example.org/web"
    made = told(arrival(TcpAddress("10.0.0.1", 40000), TcpAddress("10.0.0.2", 8443), web))
    assert made == bytes.fromhex(example)


def test_without_an_identity_there_is_no_tlv() -> None:
    made = told(arrival(TcpAddress("fd00::1", 1), TcpAddress("fd00::2", 2), None))
    assert made[12:16] == b"\x21\x21" + struct.pack("!H", 36)
    assert made[16:32] == ip_address("fd00::1").packed
    assert len(made) == 16 + 36


def test_a_dual_stack_sockets_v4_caller_is_told_as_v4() -> None:
    made = told(arrival(TcpAddress("::ffff:10.0.0.1", 1), TcpAddress("::ffff:10.0.0.2", 2)))
    assert made[13] == 0x11
    assert made[16:24] == bytes([10, 0, 0, 1, 10, 0, 0, 2])


def test_mixed_families_are_told_as_v6() -> None:
    made = told(arrival(TcpAddress("10.0.0.1", 1), TcpAddress("fd00::2", 2)))
    assert made[13] == 0x21
    assert made[16:32] == ip_address("::ffff:10.0.0.1").packed
    assert made[32:48] == ip_address("fd00::2").packed


def test_a_caller_on_a_unix_socket_has_an_identity_and_no_address() -> None:
    door = UnixAddress("/run/door")
    made = told(arrival(door, door))
    assert made[12:16] == b"\x21\x00" + struct.pack("!H", 3 + len(WEB))


def read(made: bytes) -> tuple[str, int, str, int, str | None]:
    """A reader of its own, after the specification's description."""
    assert made.startswith(b"\r\n\r\n\x00\r\nQUIT\n")
    command, family, length = struct.unpack_from("!BBH", made, 12)
    assert command == 0x21
    assert len(made) == 16 + length
    size = {0x11: 4, 0x21: 16}[family]
    source, local = made[16 : 16 + size], made[16 + size : 16 + 2 * size]
    ports = struct.unpack_from("!HH", made, 16 + 2 * size)
    rest = made[16 + 2 * size + 4 :]
    identity = None
    while rest:
        kind, size = struct.unpack_from("!BH", rest)
        value, rest = rest[3 : 3 + size], rest[3 + size :]
        identity = value.decode() if kind == 0xD0 else identity
    addresses = [str(ip_address(packed)) for packed in (source, local)]
    return addresses[0], ports[0], addresses[1], ports[1], identity


ports = st.integers(0, 65535)
v4 = st.builds(TcpAddress, st.ip_addresses(v=4).map(str), ports)


@given(v4, v4, st.none() | st.integers(0, 2000).map(lambda n: f"spiffe://td/{'x' * (n + 1)}"))
def test_a_reader_finds_what_was_written(
    source: TcpAddress, local: TcpAddress, identity: str | None
) -> None:
    found = read(told(arrival(source, local, identity)))
    assert found == (source.host, source.port, local.host, local.port, identity)
