"""The messages of Envoy's secret discovery (SDS), as far as they are needed.

Rules as in `uproxy.spiffe.protobuf`.  Sources, all of Envoy's API version 3: `discovery.proto`,
`secret.proto`, `common.proto` and `tls_spiffe_validator_config.proto`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from uproxy.errors import MessageError
from uproxy.spiffe.protobuf import (
    LENGTH_DELIMITED,
    expect_bytes,
    read_fields,
    read_text,
    write_fields,
)

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105  a type's name
_VALIDATOR_TYPE = (
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
)
_VALIDATOR = "envoy.tls.cert_validator.spiffe"

MAX_NAMES = 256
"""Resource names in one request."""


@dataclass(frozen=True, slots=True)
class DiscoveryRequest:
    """What a client wants, and what it says of the last response."""

    names: tuple[str, ...] = ()
    """Empty: everything."""
    type_url: str = ""
    version: str = ""
    """That of the last response it could use."""
    nonce: str = ""
    """That of the response it answers; empty in a stream's first request."""
    error: str | None = None
    """Why it couldn't use that response; None: it could."""


@dataclass(frozen=True, slots=True)
class DiscoveryResponse:
    """Secrets, encoded."""

    secrets: tuple[bytes, ...]
    version: str = ""
    nonce: str = ""


def decode_discovery_request(data: bytes) -> DiscoveryRequest:
    """Decode a DiscoveryRequest.

    Raises:
        MessageError: it isn't one, or asks for too much.
    """
    what = "DiscoveryRequest"
    texts: dict[int, list[str]] = {1: [], 3: [], 4: [], 5: []}
    error = None
    for number, wire_type, payload in read_fields(data, what):
        if number in texts:
            expect_bytes(number, wire_type, what)
            texts[number].append(read_text(payload, number, what))
        elif number == 6:
            expect_bytes(number, wire_type, what)
            error = _status_text(payload)
    if len(texts[3]) > MAX_NAMES:
        raise MessageError(f"{what}: more than {MAX_NAMES} resource names")
    # an empty name is no name, as for SPIRE's agent
    names = tuple(dict.fromkeys(name for name in texts[3] if name))
    type_url, version, nonce = ((texts[number] or [""])[-1] for number in (4, 1, 5))
    return DiscoveryRequest(names, type_url, version, nonce, error)


def encode_discovery_response(response: DiscoveryResponse) -> bytes:
    """Encode a DiscoveryResponse."""
    resources = [(2, _any(SECRET_TYPE, secret)) for secret in response.secrets]
    version, nonce = response.version.encode(), response.nonce.encode()
    fields = [(1, version), *resources, (4, SECRET_TYPE.encode()), (5, nonce)]
    return write_fields((number, payload) for number, payload in fields if payload)


def encode_certificate(name: str, chain: bytes, key: bytes) -> bytes:
    """Encode a Secret with a certificate chain, leaf first, and its private key, both in PEM."""
    certificate = write_fields([(1, _inline(chain)), (2, _inline(key))])
    return write_fields([(1, name.encode()), (2, certificate)])


def encode_validation(name: str, bundles: Iterable[tuple[str, bytes]]) -> bytes:
    """Encode a Secret with which Envoy's SPIFFE validator checks each peer against the roots of its
    own trust domain; `bundles` are (trust domain, roots in PEM)."""
    domains = ((1, write_fields([(1, domain.encode()), (2, _inline(roots))]))
               for domain, roots in bundles)  # fmt: skip
    config = _any(_VALIDATOR_TYPE, write_fields(domains))
    extension = write_fields([(1, _VALIDATOR.encode()), (2, config)])
    return write_fields([(1, name.encode()), (4, write_fields([(12, extension)]))])


def _status_text(data: bytes) -> str:
    """Return the message of a google.rpc.Status."""
    text = ""
    for number, wire_type, payload in read_fields(data, "Status"):
        if number == 2 and wire_type == LENGTH_DELIMITED:
            text = read_text(payload, number, "Status")
    return text


def _any(type_url: str, value: bytes) -> bytes:
    return write_fields([(1, type_url.encode()), (2, value)])


def _inline(data: bytes) -> bytes:
    return write_fields([(2, data)])
