"""The two Workload API messages about X.509, as they travel: bytes to fields and back.

Not a judgment of what is inside: certificates, keys and bundles stay bytes here and are
judged in `workload_update`.  Rules: a message is at most MAX_MESSAGE_BYTES, every count is
capped, unknown fields are stepped over (WE-14) but for map entries, which can't grow any, a
known field must have its type.
Source: `workloadapi.proto` of the SPIFFE Workload API.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from uproxy.errors import MessageError
from uproxy.spiffe.protobuf import expect_bytes, read_fields, read_text, write_fields

MAX_MESSAGE_BYTES = 4 << 20
"""gRPC's own default; 130 federated trust domains take 110 KB."""
MAX_SVIDS = 256
MAX_BUNDLES = 4096
MAX_CRLS = 4096

_SVID_FIELDS = range(1, 6)
_SVID_TEXTS = (1, 5)


@dataclass(frozen=True, slots=True)
class WireSvid:
    """X509SVID: one identity with its key and its own trust domain's bundle."""

    spiffe_id: str = ""
    x509_svid: bytes = b""
    """Concatenated DER, leaf first."""
    x509_svid_key: bytes = field(default=b"", repr=False)
    """PKCS#8 DER, unencrypted."""
    bundle: bytes = b""
    """Concatenated DER."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class X509SvidResponse:
    """What FetchX509SVID streams: always the full set."""

    svids: tuple[WireSvid, ...] = ()
    crl: tuple[bytes, ...] = ()
    """DER, one list each."""
    federated_bundles: tuple[tuple[str, bytes], ...] = ()
    """Trust domain (as written) and concatenated DER; repetitions are kept for the judge."""


@dataclass(frozen=True, slots=True)
class X509BundlesResponse:
    """What FetchX509Bundles streams: always the full set, the caller's own domain included."""

    crl: tuple[bytes, ...] = ()
    bundles: tuple[tuple[str, bytes], ...] = ()


def decode_svid_response(data: bytes) -> X509SvidResponse:
    """Read an X509SVIDResponse.

    Raises:
        MessageError: too large, too many, or not this message.
    """
    what = "X509SVIDResponse"
    known = _read_known(data, what, {1: MAX_SVIDS, 2: MAX_CRLS, 3: MAX_BUNDLES})
    return X509SvidResponse(
        svids=tuple(_decode_svid(payload) for payload in known[1]),
        crl=tuple(known[2]),
        federated_bundles=tuple(_decode_entry(payload) for payload in known[3]),
    )


def encode_svid_response(response: X509SvidResponse) -> bytes:
    """Write an X509SVIDResponse; equal responses give equal bytes."""
    return write_fields(
        [(1, _encode_svid(svid)) for svid in response.svids]
        + [(2, crl) for crl in response.crl]
        + [(3, _encode_entry(entry)) for entry in response.federated_bundles]
    )


def encode_bundles_response(response: X509BundlesResponse) -> bytes:
    """Write an X509BundlesResponse; equal responses give equal bytes."""
    return write_fields(
        [(1, crl) for crl in response.crl]
        + [(2, _encode_entry(entry)) for entry in response.bundles]
    )


def _read_known(data: bytes, what: str, caps: dict[int, int]) -> dict[int, list[bytes]]:
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
    fields: dict[int, bytes] = {}
    for number, wire_type, payload in read_fields(data, "X509SVID"):
        if number in _SVID_FIELDS:
            expect_bytes(number, wire_type, "X509SVID")
            if number in _SVID_TEXTS:
                read_text(payload, number, "X509SVID")
            # the last of a repeated singular field counts
            fields[number] = payload
    spiffe_id, chain, key, bundle, hint = (fields.get(number, b"") for number in _SVID_FIELDS)
    return WireSvid(spiffe_id.decode(), chain, key, bundle, hint.decode())


def _decode_entry(data: bytes) -> tuple[str, bytes]:
    key, value = "", b""
    for number, wire_type, payload in read_fields(data, "bundles entry"):
        expect_bytes(number, wire_type, "bundles entry")
        if number == 1:
            key = read_text(payload, number, "bundles entry")
        elif number == 2:
            value = payload
        else:
            # a map's entry has no future: libraries disagree on what this would mean
            raise MessageError(f"bundles entry: field {number} has no place in a map")
    return key, value


def _encode_svid(svid: WireSvid) -> bytes:
    fields = (svid.spiffe_id.encode(), svid.x509_svid, svid.x509_svid_key, svid.bundle,
              svid.hint.encode())  # fmt: skip
    return write_fields((number, value) for number, value in enumerate(fields, 1) if value)


def _encode_entry(entry: tuple[str, bytes]) -> bytes:
    return write_fields([(1, entry[0].encode()), (2, entry[1])])
