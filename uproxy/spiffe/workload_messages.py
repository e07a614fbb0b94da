"""The Workload API's two X.509 messages: decoded to fields and encoded to bytes.

Certificates, keys and bundles stay bytes here; `workload_update` checks them.  Rules: a message
has at most MAX_MESSAGE_BYTES, and each kind of field a maximum count; unknown fields are
skipped (WE-14), except in map entries, which can have only two; a known field must have its
declared type.  Source: `workloadapi.proto` of the SPIFFE Workload API.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from uproxy.errors import MessageError
from uproxy.spiffe.protobuf import expect_bytes, read_fields, read_text, write_fields

MAX_MESSAGE_BYTES = 4 << 20
"""gRPC's default; a message with 130 federated trust domains has 110 KB."""
MAX_SVIDS = 256
MAX_BUNDLES = 4096
MAX_CRLS = 4096

_SVID_FIELDS = range(1, 6)
_SVID_TEXTS = (1, 5)


@dataclass(frozen=True, slots=True)
class WireSvid:
    """The message X509SVID: one identity with its key and the bundle of its own trust domain."""

    spiffe_id: str = ""
    x509_svid: bytes = b""
    """The chain as concatenated DER, leaf first."""
    x509_svid_key: bytes = field(default=b"", repr=False)
    """The private key as unencrypted PKCS#8 DER."""
    bundle: bytes = b""
    """The trust anchors as concatenated DER."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class X509SvidResponse:
    """The message that FetchX509SVID streams; each one is the full set."""

    svids: tuple[WireSvid, ...] = ()
    crl: tuple[bytes, ...] = ()
    """One CRL (DER) each."""
    federated_bundles: tuple[tuple[str, bytes], ...] = ()
    """(trust domain as written, concatenated DER); repeated ones are kept, `workload_update`
    refuses them."""


@dataclass(frozen=True, slots=True)
class X509BundlesResponse:
    """The message that FetchX509Bundles streams; each one is the full set, with the caller's
    domain."""

    crl: tuple[bytes, ...] = ()
    bundles: tuple[tuple[str, bytes], ...] = ()


def decode_svid_response(data: bytes) -> X509SvidResponse:
    """Decode an X509SVIDResponse.

    Raises:
        MessageError: too many bytes or fields, or not this message.
    """
    what = "X509SVIDResponse"
    known = read_known(data, what, {1: MAX_SVIDS, 2: MAX_CRLS, 3: MAX_BUNDLES})
    return X509SvidResponse(
        svids=tuple(_decode_svid(payload) for payload in known[1]),
        crl=tuple(known[2]),
        federated_bundles=tuple(decode_entry(payload) for payload in known[3]),
    )


def encode_svid_response(response: X509SvidResponse) -> bytes:
    """Encode an X509SVIDResponse; equal responses give equal bytes."""
    return write_fields(
        [(1, _encode_svid(svid)) for svid in response.svids]
        + [(2, crl) for crl in response.crl]
        + [(3, encode_entry(entry)) for entry in response.federated_bundles]
    )


def encode_bundles_response(response: X509BundlesResponse) -> bytes:
    """Encode an X509BundlesResponse; equal responses give equal bytes."""
    return write_fields(
        [(1, crl) for crl in response.crl]
        + [(2, encode_entry(entry)) for entry in response.bundles]
    )


def read_known(data: bytes, what: str, caps: dict[int, int]) -> dict[int, list[bytes]]:
    """Return the payloads of the fields in `caps`, which maps field numbers to maximum counts.

    Raises:
        MessageError: too many bytes or fields, or one of another kind.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(f"{what}: {len(data)} bytes are more than {MAX_MESSAGE_BYTES}")
    known: dict[int, list[bytes]] = {number: [] for number in caps}
    for number, wire_type, payload in read_fields(data, what):
        if number not in caps:
            continue
        expect_bytes(number, wire_type, what)
        if len(known[number]) == caps[number]:
            raise MessageError(f"{what}: more than {caps[number]} of field {number}")
        known[number].append(payload)
    return known


def _decode_svid(data: bytes) -> WireSvid:
    """Decode an X509SVID."""
    fields: dict[int, bytes] = {}
    for number, wire_type, payload in read_fields(data, "X509SVID"):
        if number in _SVID_FIELDS:
            expect_bytes(number, wire_type, "X509SVID")
            if number in _SVID_TEXTS:
                read_text(payload, number, "X509SVID")
            # if a singular field is repeated, the last one counts
            fields[number] = payload
    spiffe_id, chain, key, bundle, hint = (fields.get(number, b"") for number in _SVID_FIELDS)
    return WireSvid(spiffe_id.decode(), chain, key, bundle, hint.decode())


def decode_entry(data: bytes) -> tuple[str, bytes]:
    """Decode an entry of a map from trust domain to bundle.

    Raises:
        MessageError: it isn't one.
    """
    key, value = "", b""
    for number, wire_type, payload in read_fields(data, "bundles entry"):
        expect_bytes(number, wire_type, "bundles entry")
        if number == 1:
            key = read_text(payload, number, "bundles entry")
        elif number == 2:
            value = payload
        else:
            # libraries disagree on what another field in a map entry means
            raise MessageError(f"bundles entry: field {number} has no place in a map")
    return key, value


def _encode_svid(svid: WireSvid) -> bytes:
    fields = (svid.spiffe_id.encode(), svid.x509_svid, svid.x509_svid_key, svid.bundle,
              svid.hint.encode())  # fmt: skip
    return write_fields((number, value) for number, value in enumerate(fields, 1) if value)


def encode_entry(entry: tuple[str, bytes]) -> bytes:
    """Encode an entry of a map from trust domain to bundle."""
    return write_fields([(1, entry[0].encode()), (2, entry[1])])
