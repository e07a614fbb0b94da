"""Envoy's messages: what it asks is read, within bounds; what it gets is read by a real Envoy in
tests/e2e/test_envoy_gets_its_certificates_from_the_authority.py."""

from __future__ import annotations

import pytest

from uproxy.authority.discovery_messages import (
    MAX_NAMES,
    SECRET_TYPE,
    DiscoveryRequest,
    DiscoveryResponse,
    decode_discovery_request,
    encode_certificate,
    encode_discovery_response,
    encode_validation,
)
from uproxy.errors import MessageError
from uproxy.spiffe.protobuf import read_fields, write_fields, write_varint


def fields(data: bytes) -> list[tuple[int, bytes]]:
    return [(number, payload) for number, _, payload in read_fields(data, "it")]


def request(*pairs: tuple[int, bytes]) -> DiscoveryRequest:
    return decode_discovery_request(write_fields(pairs))


def test_a_request_is_read_whole() -> None:
    status = write_varint(1, 13) + write_fields([(2, b"no such key")])
    assert request(
        (1, b"2"), (2, b"a node that nobody reads"), (3, b"default"), (3, b"ALL"),
        (4, SECRET_TYPE.encode()), (5, b"7"), (6, status), (99, b""),
    ) == DiscoveryRequest(("default", "ALL"), SECRET_TYPE, "2", "7", "no such key")  # fmt: skip
    assert request() == DiscoveryRequest()
    assert request((6, b"")).error == ""


def test_names_count_once_and_empty_ones_not() -> None:
    assert request((3, b""), (3, b"a"), (3, b"b"), (3, b"a")).names == ("a", "b")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x08\x01",
        write_fields([(3, b"\xff")]),
        write_varint(6, 1),
        write_fields([(6, b"\xff")]),
        write_fields([(3, b"a")] * (MAX_NAMES + 1)),
    ],
)
def test_what_is_no_request_or_too_long_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode_discovery_request(data)


def test_a_response_has_its_secrets_and_what_an_answer_refers_to() -> None:
    data = encode_discovery_response(DiscoveryResponse((b"one", b"two"), "3", "4"))
    any_ = [write_fields([(1, SECRET_TYPE.encode()), (2, each)]) for each in (b"one", b"two")]
    assert fields(data) == [
        (1, b"3"), (2, any_[0]), (2, any_[1]), (4, SECRET_TYPE.encode()), (5, b"4"),
    ]  # fmt: skip
    assert fields(encode_discovery_response(DiscoveryResponse(()))) == [(4, SECRET_TYPE.encode())]


def test_a_certificate_comes_with_its_key() -> None:
    ((_, name), (kind, inner)) = fields(encode_certificate("default", b"chain", b"key"))
    assert (name, kind) == (b"default", 2)
    assert [(n, fields(each)) for n, each in fields(inner)] == [
        (1, [(2, b"chain")]),
        (2, [(2, b"key")]),
    ]


def test_roots_are_kept_by_trust_domain() -> None:
    data = encode_validation("ALL", [("a.test", b"A"), ("b.test", b"B")])
    ((_, name), (kind, context)) = fields(data)
    assert (name, kind) == (b"ALL", 4)
    ((number, extension),) = fields(context)
    assert number == 12
    ((_, validator), (_, any_)) = fields(extension)
    assert validator == b"envoy.tls.cert_validator.spiffe"
    ((_, kind_of), (_, config)) = fields(any_)
    assert kind_of.endswith(b".SPIFFECertValidatorConfig")
    domains = [fields(each) for _, each in fields(config)]
    assert [(domain, fields(roots)) for (_, domain), (_, roots) in domains] == [
        (b"a.test", [(2, b"A")]),
        (b"b.test", [(2, b"B")]),
    ]
