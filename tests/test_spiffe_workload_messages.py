"""The two messages, compared with Google's reading of the same bytes."""

from __future__ import annotations

import pytest
from spiffe._proto import workload_pb2

from uproxy.errors import MessageError
from uproxy.spiffe.protobuf import write_fields
from uproxy.spiffe.workload_messages import (
    MAX_BUNDLES,
    MAX_MESSAGE_BYTES,
    MAX_SVIDS,
    WireSvid,
    X509BundlesResponse,
    X509SvidResponse,
    decode_svid_response,
    encode_bundles_response,
    encode_svid_response,
)

SVID = WireSvid("spiffe://td/a", b"chain", b"key", b"bundle", "intérieur")
RESPONSE = X509SvidResponse((SVID, WireSvid("spiffe://td/b")), (b"crl",), (("other", b"root"),))
BUNDLES = X509BundlesResponse((b"crl",), (("spiffe://td", b"root"), ("other", b"")))


def test_an_svid_response_reads_as_it_was_written() -> None:
    assert decode_svid_response(encode_svid_response(RESPONSE)) == RESPONSE


def test_google_reads_what_we_write() -> None:
    theirs = workload_pb2.X509SVIDResponse.FromString(encode_svid_response(RESPONSE))
    bundles = workload_pb2.X509BundlesResponse.FromString(encode_bundles_response(BUNDLES))

    first = theirs.svids[0]
    assert (first.spiffe_id, first.x509_svid, first.x509_svid_key, first.bundle, first.hint) == (
        "spiffe://td/a", b"chain", b"key", b"bundle", "intérieur"
    )  # fmt: skip
    assert list(theirs.crl) == [b"crl"]
    assert dict(theirs.federated_bundles) == {"other": b"root"}
    assert dict(bundles.bundles) == {"spiffe://td": b"root", "other": b""}


def test_we_read_what_google_writes() -> None:
    theirs = workload_pb2.X509SVIDResponse(
        svids=[workload_pb2.X509SVID(spiffe_id="spiffe://td/a", hint="h")],
        federated_bundles={"x": b"1"},
    )

    ours = decode_svid_response(theirs.SerializeToString())

    assert ours == X509SvidResponse((WireSvid("spiffe://td/a", hint="h"),), (), (("x", b"1"),))


def test_no_bytes_are_an_empty_response() -> None:
    assert decode_svid_response(b"") == X509SvidResponse()


def test_an_unknown_field_is_stepped_over() -> None:
    unknown = write_fields([(77, b"future")]) + b"\x98\x06\x01"

    assert decode_svid_response(unknown + encode_svid_response(RESPONSE) + unknown) == RESPONSE


def test_the_last_of_a_repeated_singular_field_counts() -> None:
    svid = write_fields([(1, b"first"), (1, b"last"), (9, b"unknown")])

    assert decode_svid_response(write_fields([(1, svid)])).svids == (WireSvid("last"),)


def test_repeated_bundles_of_one_domain_are_kept_for_the_judge() -> None:
    entry = write_fields([(1, b"td"), (2, b"x")])

    response = decode_svid_response(write_fields([(3, entry), (3, entry)]))

    assert response.federated_bundles == (("td", b"x"), ("td", b"x"))


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x01",  # svids as a number
        b"\x15\x00\x00\x00\x00",  # crl as fixed32
        write_fields([(1, b"\x08\x01")]),  # spiffe_id as a number
        write_fields([(3, b"\x10\x01")]),  # a bundle as a number
    ],
)
def test_a_known_field_of_another_type_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError, match="has wire type"):
        decode_svid_response(data)


def test_text_that_is_not_utf8_is_refused_even_where_it_does_not_count() -> None:
    svid = write_fields([(5, b"\xff"), (5, b"good")])

    with pytest.raises(MessageError, match="X509SVID: field 5 is not UTF-8"):
        decode_svid_response(write_fields([(1, svid)]))


def test_a_message_beyond_four_mebibytes_is_refused() -> None:
    with pytest.raises(MessageError, match="more than 4194304"):
        decode_svid_response(write_fields([(2, b"x" * MAX_MESSAGE_BYTES)]))


@pytest.mark.parametrize(("number", "most"), [(1, MAX_SVIDS), (3, MAX_BUNDLES)])
def test_counts_are_capped(number: int, most: int) -> None:
    decode_svid_response(write_fields([(number, b"")] * most))

    with pytest.raises(MessageError, match=f"more than {most} of field {number}"):
        decode_svid_response(write_fields([(number, b"")] * (most + 1)))


def test_a_key_is_never_shown() -> None:
    assert "secret" not in repr(WireSvid(x509_svid_key=b"secret"))


def test_an_unknown_field_in_a_map_entry_is_refused() -> None:
    entry = write_fields([(1, b"td"), (2, b"x"), (3, b"?")])

    with pytest.raises(MessageError, match="field 3 has no place in a map"):
        decode_svid_response(write_fields([(3, entry)]))
