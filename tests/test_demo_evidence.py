"""What the demonstration reads as proof, and what it doesn't accept as such."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.helpers.captured_tls import conversation
from uproxy.demo.evidence import expect, port_of, read_wire, serial, time_left, verdict
from uproxy.errors import UproxyError
from uproxy.lab.tap import Capture


def captured(protocols: tuple[bytes, ...], curve: ec.EllipticCurve | None = None) -> Capture:
    capture = Capture()
    ways = conversation(protocols=protocols, curve=curve)
    for kept, said in zip(capture.both_ways, ways, strict=True):
        kept += said
    return capture


def test_a_wire_of_a_tunnel_is_read() -> None:
    assert read_wire(captured((b"h2",))).encrypted_records > 2


@pytest.mark.parametrize("protocols", [(), (b"http/1.1",), (b"h2", b"http/1.1")])
def test_who_offers_something_else_than_http2_makes_no_tunnel(protocols: tuple[bytes, ...]) -> None:
    with pytest.raises(UproxyError, match="the application protocols on offer are"):
        read_wire(captured(protocols))


def test_keys_without_the_post_quantum_half_are_noticed() -> None:
    with pytest.raises(UproxyError, match="the group is 0x0017"):
        read_wire(captured((b"h2",), ec.SECP256R1()))


def test_what_is_so_is_passed_over_and_what_is_not_ends_the_story() -> None:
    expect(True, "nothing")
    with pytest.raises(UproxyError, match="the demonstration failed: it rains"):
        expect(False, "it rains")


def test_a_verdict_names_the_rule_if_there_was_one() -> None:
    row = {"outcome": "denied", "rule": None, "error": "why"}
    assert verdict(row) == "denied: why"
    assert verdict({**row, "rule": "no-newsletters"}) == "denied (no-newsletters): why"


def test_a_port_is_what_follows_the_address() -> None:
    assert (port_of("127.0.0.1:8080"), port_of("[::1]:443")) == (8080, 443)


def test_a_certificate_is_told_by_serial_number_and_time_left() -> None:
    expires = datetime.now(UTC) + timedelta(minutes=10)
    certificate = {"expires": expires.isoformat(), "chain": [{"serial": "0a"}, {"serial": "0b"}]}
    assert (serial(certificate), time_left(certificate)) == ("0a", "for 10 min")
    assert serial({}) == ""
