"""The `h2` library judges what a peer of the compiled session says as the session does, but for
what tests/helpers/h2_rules.py names; and each of its rules makes a difference."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hpack import Encoder
from hypothesis import given

from tests.helpers.h2_comparison import Comparison, check
from tests.helpers.h2_rules import RULES
from tests.helpers.h2_translations import TRANSLATIONS
from tests.helpers.hbone_sessions import AUTHORITY, data, settings
from tests.helpers.hbone_talk import greeting
from uproxy.hbone import frames
from uproxy.hbone.codes import (
    ACK,
    END_HEADERS,
    PADDED,
    PRIORITY,
    ErrorCode,
    Setting,
)
from uproxy.hbone.frames import frame


@given(st.binary(max_size=400))
def test_h2_hears_and_answers_the_same(data: bytes) -> None:
    check(data)


def headers(stream: int, *fields: tuple[str, str], end: bool = False) -> bytes:
    """HEADERS with a block that leaves the table alone."""
    block = Encoder().encode([(*each, True) for each in fields])
    return frames.headers(stream, block, end=end)


METHOD, AUTH = (":method", "CONNECT"), (":authority", AUTHORITY)
CONNECT = headers(1, METHOD, AUTH)
ANSWER = headers(1, (":status", "200"))
WHOLE = CONNECT[9:]
"""A request's block."""
ON_ITSELF = bytes([0, 0, 0, 1, 9])
"""Priority of stream 1, which depends on itself."""

SERVER_EXAMPLES: dict[str, list[bytes]] = {
    "ignores_the_reserved_bit": [CONNECT, frame(8, 0, 1, bytes([0x80, 0, 0, 9]))],
    "takes_a_block_of_nothing_but_padding": [
        frame(1, PADDED, 1, bytes([3, 0, 0, 0])),
        frame(9, END_HEADERS, 1, WHOLE),
    ],
    "ignores_what_headers_depend_on": [frame(1, END_HEADERS | PRIORITY, 1, ON_ITSELF + WHOLE)],
    "ignores_alternative_services": [frame(0xA, 0, 0, b"\xff")],
    "idle_streams_cannot_be_reset": [CONNECT, frames.rst_stream(3, ErrorCode.CANCEL)],
    "lengths_of_priority_concern_a_stream": [CONNECT, frame(2, 0, 1, bytes(4))],
    "priorities_are_ignored": [CONNECT, frame(2, 0, 1, ON_ITSELF)],
    "increments_of_0_concern_a_stream": [CONNECT, frame(8, 0, 1, bytes(4))],
    "what_is_in_flight_after_our_reset_is_ignored": [
        headers(7, METHOD, AUTH),
        data(7, b"x"),  # at which the application loses interest
        data(7, b"y"),
        headers(7, ("x", "y"), end=True),
    ],
    "requests_on_what_the_peer_reset_are_refused": [
        CONNECT,
        frames.rst_stream(1, ErrorCode.CANCEL),
        CONNECT,
    ],
    "blocks_after_the_end_concern_a_stream": [
        headers(3, METHOD, AUTH),
        data(3, b"x", end=True),
        headers(3, (":status", "103"), end=True),
    ],
    "malformed_messages_concern_a_stream": [headers(1, METHOD, AUTH, (":path", "/"))],
    "names_are_tokens": [headers(1, METHOD, AUTH, ("a(b)", "x"))],
    "a_connect_has_an_authority": [headers(1, METHOD, (":authority", ""))],
    "a_connect_is_not_extended": [
        headers(1, METHOD, AUTH, (":scheme", "https"), (":path", "/"), (":protocol", "websocket"))
    ],
    "a_method_is_not_empty": [
        headers(1, (":method", ""), AUTH, (":scheme", "https"), (":path", "/"))
    ],
    "a_tunnel_carries_connect_to_addresses": [
        headers(1, METHOD, (":authority", "orders:80")),
        headers(3, (":method", "GET"), AUTH, (":scheme", "https"), (":path", "/"), end=True),
    ],
    "streams_above_the_limit_are_refused": [
        CONNECT,
        headers(3, METHOD, AUTH),
        headers(9, METHOD, AUTH),
        headers(11, (":path", "/")),
    ],
    "trailers_are_not_told": [CONNECT, headers(1, ("x", "y"), end=True)],
    "only_our_ping_is_answered": [
        frames.ping(bytes(8), ack=True),
        frames.ping(bytes(7) + b"\x01", ack=True),
        frames.ping(bytes(7) + b"\x01", ack=True),
    ],
    "unknown_codes_are_internal_errors": [CONNECT, frame(3, 0, 1, bytes([0, 0, 0, 99]))],
    "goaways_never_rise": [
        frames.go_away(3, ErrorCode.NO_ERROR, ""),
        frames.go_away(5, ErrorCode.NO_ERROR, "again"),
    ],
    "acknowledgements_of_settings_are_empty": [frame(4, ACK, 0, bytes(6))],
    "each_setting_is_judged": [
        settings(ENABLE_PUSH=1),
        frames.settings([(Setting.ENABLE_PUSH, 2), (Setting.ENABLE_PUSH, 1)]),
    ],
    "a_block_that_cannot_be_decoded_has_a_code": [frames.headers(1, b"\xff", end=False)],
    "a_block_begins_with_headers": [
        CONNECT,
        headers(1, ("x", "y"), end=True),
        frame(9, END_HEADERS, 1, WHOLE),
    ],
    "padding_does_not_reach_into_priority": [
        frame(1, PADDED | PRIORITY | END_HEADERS, 1, bytes([4]) + bytes(5) + bytes(2))
    ],
    "servers_open_no_streams": [frame(1, 0, 2, WHOLE)],
    "nothing_is_pushed": [frame(5, 0, 1, bytes([0, 0, 0, 2]) + WHOLE)],
    "blocks_are_not_interrupted": [frame(1, 0, 1, WHOLE), frame(8, 0, 0, bytes(3))],
    "a_length_is_judged_first": [frame(6, 0, 1, bytes(16_385))],
}
CLIENT_EXAMPLES: dict[str, list[bytes]] = {
    "data_before_an_answer_concerns_a_stream": [data(1, b"early"), data(3, b"early", end=True)],
    "windows_of_streams_concern_streams": [
        headers(3, (":status", "200")),
        *(data(3, bytes(16_384)) for _ in range(17)),
    ],
    "answers_on_what_is_over_are_ignored": [
        headers(1, (":status", "403"), end=True),
        ANSWER,
    ],
    "a_status_has_three_digits": [
        headers(1, (":status", "banana")),
        headers(3, (":status", "101")),
        headers(5, (":status", "2000")),
    ],
    "informational_answers_are_few": [headers(1, (":status", "103"))] * 6,
    "informational_answers_are_not_told": [headers(1, (":status", "103")), ANSWER],
}


def test_it_begins_with_settings() -> None:
    made = Comparison(server=True)
    made.say(greeting(server=False)[: -2 * 9] + frames.SETTINGS_ACK)
    assert made.applied == {"a_connection_begins_with_settings"}


@pytest.mark.parametrize("rule", SERVER_EXAMPLES)
def test_a_rule_makes_a_difference_to_a_server(rule: str) -> None:
    made = Comparison(server=True, max_streams=2)
    made.say(greeting(server=False))
    made.say(b"".join(SERVER_EXAMPLES[rule]))
    assert rule in made.applied


@pytest.mark.parametrize("rule", CLIENT_EXAMPLES)
def test_a_rule_makes_a_difference_to_a_client(rule: str) -> None:
    made = Comparison(server=False, opened=3)
    made.say(greeting(server=True))
    made.say(b"".join(CLIENT_EXAMPLES[rule]))
    assert rule in made.applied


def test_each_rule_has_an_example() -> None:
    named = {each.__name__ for each in (*TRANSLATIONS, *RULES)}
    assert named == {*SERVER_EXAMPLES, *CLIENT_EXAMPLES, "a_connection_begins_with_settings"}
