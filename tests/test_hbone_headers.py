"""Header blocks: what a CONNECT may say, and how ours are written."""

from __future__ import annotations

import hpack
import pytest

from tests.helpers.hbone_sessions import AUTHORITY, CONNECT
from uproxy.hbone import headers
from uproxy.hbone.budgets import MAX_HEADER_LIST_BYTES, Flood, FloodError
from uproxy.hbone.codes import ErrorCode, TunnelError
from uproxy.hbone.headers import Decoder, Encoder, MalformedError, NotServedError
from uproxy.model import TcpAddress

METHOD, AUTH = CONNECT
EXTRA = ("baggage", "k8s.namespace.name=shop")


def decoded(decoder: hpack.Decoder, block: bytes) -> list[tuple[str, str]]:
    """What a block says, to who has only hpack."""
    raw = decoder.decode(block, raw=True)
    return [(bytes(name).decode(), bytes(value).decode()) for name, value in raw]


def update(size: int) -> bytes:
    """A change of the dynamic table's size, in at most five bytes."""
    encoder = hpack.Encoder()
    encoder.header_table_size = size
    return encoder.encode([])


def test_a_connect_is_its_authority_and_its_headers() -> None:
    request = headers.read_request([*CONNECT, EXTRA, EXTRA])
    assert request.authority == TcpAddress("192.0.2.1", 8080)
    assert request.authority_text == AUTHORITY
    assert request.headers == (EXTRA, EXTRA)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:1", "192.0.2.1", 1),
        ("192.0.2.1:65535", "192.0.2.1", 65535),
        ("[2001:DB8::0:1]:80", "2001:db8::1", 80),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1", 80),
        ("[::]:80", "::", 80),
    ],
)
def test_an_authority_is_an_address_in_canonical_form(text: str, host: str, port: int) -> None:
    assert headers.read_authority(text) == TcpAddress(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "orders.shop.svc:80", "192.0.2.1", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536",
        "192.0.2.1:+80", "192.0.2.1:8 0", "192.0.2.1:000080", "192.0.2.256:80", "192.0.2:80",
        "192.0.2.01:80", "[192.0.2.1]:80", "2001:db8::1:80", "[2001:db8::1]", "[fe80::1%eth0]:80",
        "user@192.0.2.1:80", "192.0.2.1:80/", " 192.0.2.1:80", "192.0.2.1:80\n", "[::1]x:80", ":80",
        "192.0.2.1:٨٠",
    ],
)  # fmt: skip
def test_what_is_no_address_and_port_is_not_served(text: str) -> None:
    assert headers.read_authority(text) is None
    if text.strip() == text and text.isascii():
        with pytest.raises(NotServedError) as caught:
            headers.read_request([METHOD, (":authority", text)])
        assert str(caught.value) == (
            f":authority {text!r} isn't an IP address and a port, as in 192.0.2.1:8080"
        )


def test_a_long_authority_is_shown_in_part() -> None:
    with pytest.raises(NotServedError) as caught:
        headers.read_request([METHOD, (":authority", "a" * 9999)])
    assert str(caught.value).startswith(f":authority {'a' * 80!r} isn't")


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        ([AUTH], "no :method"),
        ([METHOD], "no more and no less"),
        ([METHOD, (":authority", "")], ":authority is empty"),
        ([METHOD, AUTH, (":scheme", "https")], "no more and no less"),
        ([METHOD, AUTH, (":path", "/")], "no more and no less"),
        (
            [METHOD, AUTH, (":path", "/"), (":scheme", "https"), (":protocol", "websocket")],
            "extended",
        ),
        ([METHOD, AUTH, AUTH], "':authority' is out of place"),
        ([METHOD, EXTRA, AUTH], "':authority' is out of place"),
        ([METHOD, AUTH, (":status", "200")], "':status' is out of place"),
        ([METHOD, AUTH, (":x", "y")], "':x' is out of place"),
        ([METHOD, AUTH, ("host", "192.0.2.1:8081")], "host says something else"),
        ([METHOD, AUTH, ("Baggage", "a")], "'Baggage' is no name"),
        ([METHOD, AUTH, ("", "a")], "'' is no name"),
        ([METHOD, AUTH, ("a b", "a")], "'a b' is no name"),
        ([METHOD, AUTH, ("a:", "a")], "'a:' is no name"),
        ([METHOD, AUTH, ("é", "a")], "is no name"),
        ([METHOD, AUTH, ("a", "b\r\nc: d")], "the value of 'a'"),
        ([METHOD, AUTH, ("a", "\0")], "the value of 'a'"),
        ([METHOD, AUTH, ("a", " b")], "the value of 'a'"),
        ([METHOD, AUTH, ("a", "b\t")], "the value of 'a'"),
        ([METHOD, AUTH, ("a", " ")], "the value of 'a'"),
        ([METHOD, AUTH, ("connection", "close")], "no header connection"),
        ([METHOD, AUTH, ("keep-alive", "9")], "no header keep-alive"),
        ([METHOD, AUTH, ("proxy-connection", "close")], "no header proxy-connection"),
        ([METHOD, AUTH, ("upgrade", "x")], "no header upgrade"),
        ([METHOD, AUTH, ("transfer-encoding", "chunked")], "no header transfer-encoding"),
        ([METHOD, AUTH, ("te", "gzip")], "no header te"),
        ([(":method", "GET"), AUTH, (":scheme", "https")], "'GET' has no :scheme or no :path"),
        ([(":method", "GET"), AUTH, (":path", "/")], "'GET' has no :scheme or no :path"),
    ],
)
def test_what_breaks_a_rule_is_malformed(received: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        headers.read_request(received)


@pytest.mark.parametrize(
    "header",
    [
        ("host", "192.0.2.1:8080"), ("te", "trailers"), ("te", "Trailers"), ("a", ""),
        ("a", "b c\td"), ("x-bytes", "\xff\x01"), ("!#$%&'*+-.^_`|~09az", "x"),
    ],
)  # fmt: skip
def test_what_breaks_no_rule_is_kept(header: tuple[str, str]) -> None:
    assert headers.read_request([*CONNECT, header]).headers == (header,)


def test_another_method_is_not_served() -> None:
    get = [(":method", "GET"), AUTH, (":scheme", "https"), (":path", "/")]
    with pytest.raises(NotServedError, match="carries CONNECT, not 'GET'"):
        headers.read_request(get)


def test_an_answer_is_its_status_and_its_headers() -> None:
    assert headers.read_answer([(":status", "200"), EXTRA]) == (200, (EXTRA,))
    assert headers.read_answer([(":status", "599")]) == (599, ())


@pytest.mark.parametrize(
    "received",
    [
        [], [EXTRA], [(":status", "")], [(":status", "20")], [(":status", "2000")],
        [(":status", "099")], [(":status", "600")], [(":status", "101")], [(":status", "+20")],
        [(":status", "200"), (":status", "200")], [(":status", "200"), (":path", "/")],
    ],
)  # fmt: skip
def test_an_answer_without_a_status_is_malformed(received: list[tuple[str, str]]) -> None:
    with pytest.raises(MalformedError):
        headers.read_answer(received)


def test_an_answer_without_a_status_says_so() -> None:
    with pytest.raises(MalformedError, match="an answer has the :status ''"):
        headers.read_answer([])


def test_trailers_have_no_pseudo_headers() -> None:
    headers.check_trailers([EXTRA])
    with pytest.raises(MalformedError):
        headers.check_trailers([(":status", "200")])


def test_what_we_send_is_the_same_bytes_each_time_and_leaves_the_table_alone() -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    said = [*CONNECT, EXTRA]
    assert headers.connect(AUTHORITY, [EXTRA]) == said
    blocks = [encoder.encode(said) for _ in range(3)]
    assert blocks == blocks[:1] * 3
    assert decoded(decoder, blocks[0]) == said
    assert not decoder.header_table.dynamic_entries
    assert encoder.encode(headers.answer(200, [])) == b"\x88"
    assert headers.answer(200, [EXTRA]) == [(":status", "200"), EXTRA]


def test_an_answer_that_is_in_no_table_leaves_it_alone_too() -> None:
    decoder = hpack.Decoder()
    block = Encoder().encode(headers.answer(403, []))
    assert block == b"\x18\x03403"
    assert decoded(decoder, block) == [(":status", "403")]
    assert not decoder.header_table.dynamic_entries


def sizes(*announced: int) -> list[bytes]:
    """The blocks that follow each other after a peer announced sizes of its table."""
    encoder = Encoder()
    for size in announced:
        encoder.resize(size)
    return [encoder.encode([(":status", "200")]) for _ in range(2)]


def test_a_smaller_table_is_confirmed_once() -> None:
    assert sizes(100) == [update(100) + b"\x88", b"\x88"]
    assert sizes(0) == [b"\x20\x88", b"\x88"]
    assert sizes(200, 100) == [update(100) + b"\x88", b"\x88"]


def test_a_table_that_was_smaller_for_a_moment_is_confirmed_with_both_sizes() -> None:
    assert sizes(0, 4096) == [b"\x20" + update_to_default() + b"\x88", b"\x88"]
    assert sizes(0, 50, 10, 200) == [b"\x20" + update(200) + b"\x88", b"\x88"]


def update_to_default() -> bytes:
    return b"\x3f\xe1\x1f"


def test_a_larger_table_is_not_used() -> None:
    assert sizes(1 << 20) == [b"\x88", b"\x88"]
    assert sizes(4096) == [b"\x88", b"\x88"]


def test_a_table_that_grows_again_later_is_confirmed_again() -> None:
    encoder = Encoder()
    encoder.resize(10)
    encoder.encode([])
    encoder.resize(20)
    assert encoder.encode([]) == update(20)
    encoder.resize(9999)
    assert encoder.encode([]) == update_to_default()
    assert encoder.encode([]) == b""


def test_a_block_is_decoded_with_the_table_of_those_before() -> None:
    coder, decoder = hpack.Encoder(), Decoder()
    long, short = (coder.encode([*CONNECT, EXTRA]) for _ in range(2))
    assert len(short) < 5 < len(long)
    assert decoder.decode(long) == decoder.decode(short) == [*CONNECT, EXTRA]


@pytest.mark.parametrize(
    "block",
    [
        b"\x80", b"\xff\xff\xff\xff\xff\xff\xff", b"\xfe", b"\x00\x05a", b"\x00\x81\xff\x00",
        b"\x88\x20", b"\x88\x20\x20\x20", b"\x3f\xff\xff\xff\x7f", b"\x40", b"\x3f", b"\x3f\x80",
    ],
)  # fmt: skip
def test_a_block_that_cannot_be_decoded_ends_the_tunnel(block: bytes) -> None:
    with pytest.raises(TunnelError, match="can't be decoded") as caught:
        Decoder().decode(block)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


def test_headers_are_as_long_as_announced_and_no_longer() -> None:
    def block(length: int) -> bytes:
        return hpack.Encoder().encode([("a", "b" * (length - 32 - 1))])

    assert Decoder().decode(block(MAX_HEADER_LIST_BYTES))
    with pytest.raises(FloodError) as caught:
        Decoder().decode(block(MAX_HEADER_LIST_BYTES + 1))
    assert caught.value.flood is Flood.HEADERS
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_few_bytes_do_not_become_many_headers() -> None:
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000)
    with pytest.raises(FloodError) as caught:
        decoder.decode(b"\xbe" * 1000)
    assert caught.value.flood is Flood.HEADERS


def test_the_size_of_the_table_changes_twice_in_a_block_at_most() -> None:
    ok = b"\x20" + update(300)
    assert Decoder().decode(ok + b"\x88") == [(":status", "200")]
    for three in (ok + b"\x20", ok + update(300), update(30) + ok, update(32) + ok, b"\x20" * 3):
        with pytest.raises(FloodError) as caught:
            Decoder().decode(three + b"\x88")
        assert caught.value.flood is Flood.HEADERS


def test_the_headers_of_l7_proxies_are_those_that_envoys_are_configured_with() -> None:
    assert (headers.CALLER, headers.PROOF) == ("x-uproxy-caller", "x-uproxy-proof")


def test_what_headers_say_is_in_no_traceback_because_tokens_are_among_them() -> None:
    request = headers.read_request([*CONNECT, (headers.PROOF, "a.token.of.ours")])
    assert "a.token.of.ours" not in repr(request)
