"""Whatever the bytes, we read in them what Google's protobuf reads, or refuse them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spiffe._proto import workload_pb2

from tests.helpers.workload_api import svid_message, svid_response
from tests.helpers.workload_oracle import check_message, spoil
from uproxy.lab.pki import Authority
from uproxy.spiffe.protobuf import write_fields
from uproxy.spiffe.workload_messages import (
    WireSvid,
    X509SvidResponse,
    decode_svid_response,
    encode_svid_response,
)

_HOME = Authority("example.org")
_ISSUED = _HOME.issue("/a")
_GOOD = svid_response(
    svid_message(_ISSUED, _HOME), federated={"partner.test": Authority("partner.test").der}
)

_texts = st.text(max_size=20)
_bytes = st.binary(max_size=40)
_svids = st.builds(WireSvid, _texts, _bytes, _bytes, _bytes, _texts)
_entries = st.tuples(_texts, _bytes)
_fields = st.lists(st.tuples(st.integers(1, 6), st.binary(max_size=30)), max_size=6)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read_as_google_reads_them(data: bytes) -> None:
    check_message(data)


@given(st.lists(st.tuples(st.integers(1, 6), _fields.map(write_fields)), max_size=4))
def test_any_fields_are_refused_or_read_as_google_reads_them(
    fields: list[tuple[int, bytes]],
) -> None:
    check_message(write_fields(fields))


# cryptography warns of odd certificates (a serial number of zero) that it reads all the same
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.binary(min_size=3, max_size=12))
def test_a_spoiled_message_is_refused_or_read_as_google_reads_it(patches: bytes) -> None:
    check_message(spoil(_GOOD, patches))


@given(st.lists(_svids, max_size=3), st.lists(_bytes, max_size=3), st.lists(_entries, max_size=3))
def test_what_is_written_is_read_back(
    svids: list[WireSvid], crls: list[bytes], bundles: list[tuple[str, bytes]]
) -> None:
    response = X509SvidResponse(tuple(svids), tuple(crls), tuple(bundles))

    data = encode_svid_response(response)

    assert decode_svid_response(data) == response
    assert dict(workload_pb2.X509SVIDResponse.FromString(data).federated_bundles) == dict(bundles)
