"""Where the `h2` library and we differ on purpose: each difference is a rule with its reason, and
the sections are those of RFC 9113.

A rule says, from a frame and h2's account of it, what the account should have been.  It doesn't
know ours, so that the corrected account is still another's judgement.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeAlias

import hpack
from h2.exceptions import FlowControlError, FrameTooLargeError, ProtocolError
from hyperframe.exceptions import HyperframeError

from tests.helpers.h2_library import Account, Said, State
from uproxy.hbone.budgets import MAX_INFORMATIONAL
from uproxy.hbone.codes import (
    ACK,
    END_HEADERS,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    PADDED,
    PRIORITY,
    ErrorCode,
    FrameType,
    Setting,
)
from uproxy.hbone.frames import Frame

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_STATUS = re.compile(rb"[1-5][0-9][0-9]")
_AUTHORITY = re.compile(rb"(?:\[([0-9a-fA-F:.]*:[0-9a-fA-F:.]*)\]|([0-9.]+)):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Case:
    """A frame, and what is known before it."""

    frame: Frame
    server: bool
    first: bool
    block: Frame | None
    """The HEADERS whose block isn't complete."""
    before: State
    """Of the frame's stream."""
    answered: bool
    """Whether the answer to our request has come."""
    room: int
    """Bytes of DATA that the connection has room for."""
    full: bool
    """Whether a client may open no stream more."""
    ping: bytes
    """What an answer to our last PING has."""
    away: int
    """The lowest last stream that the peer's GOAWAYs have said."""
    informational: int
    """Answers 1xx that the stream has."""
    error: ProtocolError | None
    """Why h2 has ended the connection."""

    @property
    def head(self) -> Frame | None:
        """The HEADERS of the block that this frame completes, if h2 could read and decode it."""
        if not self.frame.flags & END_HEADERS or self.is_undecodable or self.is_unreadable:
            return None
        if self.frame.kind == FrameType.CONTINUATION:
            return self.block
        return self.frame if self.frame.kind == FrameType.HEADERS else None

    @property
    def is_undecodable(self) -> bool:
        return isinstance(self.error and self.error.__cause__, hpack.HPACKError)

    @property
    def is_unreadable(self) -> bool:
        """Whether the frame's length is wrong, or what it says of itself."""
        cause = self.error and self.error.__cause__
        return isinstance(self.error, FrameTooLargeError) or isinstance(cause, HyperframeError)

    @property
    def is_request(self) -> bool:
        return self.server and self.before is State.IDLE


Rule: TypeAlias = Callable[[Case, Account], Account | None]
"""Returns what the account should be; None: it is right."""


def _breaks(code: ErrorCode) -> Account:
    return Account(broken=int(code))


def _resets(case: Case, code: ErrorCode) -> Account:
    """The stream is reset; a request is refused by that."""
    stream = case.frame.stream
    refused: list[Said] = [("refused", stream)] if case.is_request else []
    return Account(refused, [("reset", stream, int(code))])


# Translations: how h2 is told what it wouldn't understand.


def ignores_the_reserved_bit(frame: Frame) -> Frame | None:
    """§6.9: the first bit of WINDOW_UPDATE is ignored; h2 takes it for a part of the number."""
    if (
        frame.kind == FrameType.WINDOW_UPDATE
        and len(frame.payload) == 4
        and frame.payload[0] & 0x80
    ):
        return frame._replace(payload=bytes([frame.payload[0] & 0x7F]) + frame.payload[1:])
    return None


def takes_a_block_of_nothing_but_padding(frame: Frame) -> Frame | None:
    """§6.2: only padding that exceeds what is left for the block is an error."""
    if _content(frame) == b"" and frame.flags & PADDED and frame.kind == FrameType.HEADERS:
        skipped = 6 if frame.flags & PRIORITY else 1
        return frame._replace(flags=frame.flags & ~PADDED, payload=frame.payload[1:skipped])
    return None


def ignores_what_headers_depend_on(frame: Frame) -> Frame | None:
    """§5.3.2: priorities are ignored; h2 follows RFC 7540, where a stream that depends on itself is
    an error."""
    if frame.kind == FrameType.HEADERS and frame.flags & PRIORITY and _content(frame) is not None:
        at = 1 if frame.flags & PADDED else 0
        if int.from_bytes(frame.payload[at : at + 4]) & 0x7FFFFFFF == frame.stream:
            payload = frame.payload[:at] + bytes(4) + frame.payload[at + 4 :]
            return frame._replace(payload=payload)
    return None


def ignores_alternative_services(frame: Frame) -> Frame | None:
    """§5.5: a type that isn't known is ignored, whatever is in it; h2 knows ALTSVC (RFC 7838)."""
    return frame._replace(kind=0xEE) if frame.kind == 0xA else None


TRANSLATIONS = (
    ignores_the_reserved_bit,
    takes_a_block_of_nothing_but_padding,
    ignores_what_headers_depend_on,
    ignores_alternative_services,
)


def _content(frame: Frame) -> bytes | None:
    """The block of HEADERS; None: the frame is shorter than its flags say."""
    begin = (1 if frame.flags & PADDED else 0) + (5 if frame.flags & PRIORITY else 0)
    end = len(frame.payload)
    if frame.flags & PADDED:
        end -= frame.payload[0] if frame.payload else 0
    return frame.payload[begin:end] if begin <= end else None


# Rules: streams.


def idle_streams_cannot_be_reset(case: Case, said: Account) -> Account | None:
    """§6.4: RST_STREAM on an idle stream is an error of the connection; h2 ignores it."""
    if case.frame.kind == FrameType.RST_STREAM and case.before is State.IDLE:
        return None if said.broken else _breaks(ErrorCode.PROTOCOL_ERROR)
    return None


def lengths_of_priority_concern_a_stream(case: Case, said: Account) -> Account | None:
    """§6.3: PRIORITY that hasn't 5 bytes is an error of its stream, which an idle one can't have
    (§5.1); h2 ends the connection."""
    if (
        case.frame.kind != FrameType.PRIORITY
        or len(case.frame.payload) == 5
        or not case.frame.stream
    ):
        return None
    return Account() if case.before is State.IDLE else _resets(case, ErrorCode.FRAME_SIZE_ERROR)


def priorities_are_ignored(case: Case, said: Account) -> Account | None:
    """§5.3.2: RFC 7540's error for a stream that depends on itself is gone with priorities."""
    is_whole = case.frame.kind == FrameType.PRIORITY and len(case.frame.payload) == 5
    return Account() if is_whole and case.frame.stream and said.broken else None


def increments_of_0_concern_a_stream(case: Case, said: Account) -> Account | None:
    """§6.9: WINDOW_UPDATE by 0 on a stream is an error of the stream, and nothing on one that is
    over (§5.1); h2 ends the connection."""
    frame = case.frame
    if frame.kind != FrameType.WINDOW_UPDATE or not frame.stream or frame.payload != bytes(4):
        return None
    if case.before is State.IDLE:
        return None
    if case.before in (State.OPEN, State.HALF_CLOSED):
        return _resets(case, ErrorCode.PROTOCOL_ERROR)
    return Account()


def data_before_an_answer_concerns_a_stream(case: Case, said: Account) -> Account | None:
    """§8.1: an answer begins with HEADERS, and one that is malformed is an error of its stream; h2
    ends the connection."""
    if case.frame.kind != FrameType.DATA or case.server or case.answered:
        return None
    is_right = _is_plain(case.error) and case.before is State.OPEN
    return _resets(case, ErrorCode.PROTOCOL_ERROR) if is_right else None


def windows_of_streams_concern_streams(case: Case, said: Account) -> Account | None:
    """§6.9.1: DATA that exceeds a stream's window is an error of the stream, or of the connection:
    h2 chooses this."""
    is_ours = case.frame.kind == FrameType.DATA and len(case.frame.payload) <= case.room
    if is_ours and isinstance(case.error, FlowControlError):
        return _resets(case, ErrorCode.FLOW_CONTROL_ERROR)
    return None


def what_is_in_flight_after_our_reset_is_ignored(case: Case, said: Account) -> Account | None:
    """§5.1: whoever has sent RST_STREAM discards what comes; h2 resets again, as RFC 7540 says."""
    is_data = case.frame.kind == FrameType.DATA and not said.broken
    if case.before is State.RESET_BY_US and (is_data or case.head is not None):
        return Account()
    return None


def requests_on_what_the_peer_reset_are_refused(case: Case, said: Account) -> Account | None:
    """§5.1: frames on a closed stream may be an error of the connection, and HEADERS of a client
    that numbers its streams anew is one; h2 resets the stream, as RFC 7540 says."""
    if case.server and case.head is not None and case.before is State.RESET_BY_PEER:
        return _breaks(ErrorCode.STREAM_CLOSED)
    return None


def answers_on_what_is_over_are_ignored(case: Case, said: Account) -> Account | None:
    """§5.1: minimal processing is allowed for all streams that are closed, and a server can't open
    one with HEADERS; h2 resets the stream or ends the connection."""
    over = (State.RESET_BY_PEER, State.ENDED)
    return Account() if not case.server and case.head and case.before in over else None


def blocks_after_the_end_concern_a_stream(case: Case, said: Account) -> Account | None:
    """§5.1: HEADERS after END_STREAM are an error of the stream, whatever they say; h2 ends the
    connection if they are malformed too."""
    if case.head is not None and case.before is State.HALF_CLOSED and said.broken:
        return _resets(case, ErrorCode.STREAM_CLOSED)
    return None


# Rules: headers.


def malformed_messages_concern_a_stream(case: Case, said: Account) -> Account | None:
    """§8.1.1: a malformed request or response is an error of its stream; h2 ends the connection."""
    if case.head is None or not _is_plain(case.error) or not case.frame.stream & 1:
        return None
    is_right = case.is_request or case.before is State.OPEN
    return _resets(case, ErrorCode.PROTOCOL_ERROR) if is_right else None


def names_are_tokens(case: Case, said: Account) -> Account | None:
    """RFC 9110 §5.1: a name is a token; h2 refuses only what §8.2.1 names."""
    names = [name for name, _ in _headers(said) if not name.startswith(b":")]
    if all(_TOKEN.fullmatch(name) for name in names):
        return None
    return _resets(case, ErrorCode.PROTOCOL_ERROR)


def a_connect_has_an_authority(case: Case, said: Account) -> Account | None:
    """§8.5: a CONNECT has `:authority`, with host and port; h2 takes an empty one, and `host`."""
    request = _request(said)
    if request is None or request[b":method"] != b"CONNECT" or request.get(b":authority"):
        return None
    return _resets(case, ErrorCode.PROTOCOL_ERROR)


def a_connect_is_not_extended(case: Case, said: Account) -> Account | None:
    """RFC 8441 §3: `:protocol` is for peers that announce it, which we don't; h2 takes it."""
    if b":protocol" in (_request(said) or ()):
        return _resets(case, ErrorCode.PROTOCOL_ERROR)
    return None


def a_method_is_not_empty(case: Case, said: Account) -> Account | None:
    """RFC 9110 §9.1: a method is a token; h2 takes an empty one."""
    if (_request(said) or {}).get(b":method") == b"":
        return _resets(case, ErrorCode.PROTOCOL_ERROR)
    return None


def a_tunnel_carries_connect_to_addresses(case: Case, said: Account) -> Account | None:
    """Other methods and authorities are well formed, and answered with 400: what comes of their
    content is not wanted (§8.1: RST_STREAM with NO_ERROR)."""
    request, stream = _request(said), case.frame.stream
    if request is None:
        return None
    if request[b":method"] == b"CONNECT" and _is_address(request[b":authority"]):
        return None
    ended = ("end", stream) in said.heard
    resets: list[Said] = [] if ended else [("reset", stream, int(ErrorCode.NO_ERROR))]
    return Account([("refused", stream)], [("answer", stream, 400, True), *resets])


def a_status_has_three_digits(case: Case, said: Account) -> Account | None:
    """§8.3.2, RFC 9110 §15: h2 takes anything for a `:status`; and HTTP/2 has no 101 (§8.6)."""
    if not said.heard or said.heard[0][0] not in ("answer", "informational"):
        return None
    status = dict(said.heard[0][2])[b":status"]
    if _STATUS.fullmatch(status) and status != b"101":
        return None
    return _resets(case, ErrorCode.PROTOCOL_ERROR)


def informational_answers_are_few(case: Case, said: Account) -> Account | None:
    """A limit of ours: an answer must follow so many informational ones."""
    is_one = bool(said.heard) and said.heard[0][0] == "informational"
    if is_one and case.informational >= MAX_INFORMATIONAL:
        return _resets(case, ErrorCode.PROTOCOL_ERROR)
    return None


def streams_above_the_limit_are_refused(case: Case, said: Account) -> Account | None:
    """§5.1.2: a stream above SETTINGS_MAX_CONCURRENT_STREAMS is reset, with REFUSED_STREAM so that
    it may be tried again; h2, which would end the connection, isn't told of the limit."""
    if case.full and case.is_request and case.head is not None and case.frame.stream & 1:
        return _resets(case, ErrorCode.REFUSED_STREAM)
    return None


def trailers_are_not_told(case: Case, said: Account) -> Account | None:
    """Nobody reads them: an application of a tunnel has bytes, and their end."""
    return _without("trailers", said)


def informational_answers_are_not_told(case: Case, said: Account) -> Account | None:
    """§8.1: they are no answer, and nobody waits for 103."""
    return _without("informational", said)


# Rules: the connection.


def only_our_ping_is_answered(case: Case, said: Account) -> Account | None:
    """An acknowledgement of no PING of ours says nothing of the peer; h2 tells it."""
    return _without("pong", said) if case.frame.payload != case.ping else None


def unknown_codes_are_internal_errors(case: Case, said: Account) -> Account | None:
    """§7: h2 passes the number on."""
    known = [_with_known_code(each) for each in said.heard]
    return Account(known, said.sent, said.broken) if known != said.heard else None


def goaways_never_rise(case: Case, said: Account) -> Account | None:
    """§6.8: the last stream of a GOAWAY isn't above that of one before; and its first bit is
    reserved."""
    told = [
        ("goaway", min(each[1] & 0x7FFFFFFF, case.away), *each[2:]) if each[0] == "goaway" else each
        for each in said.heard
    ]
    return Account(told, said.sent, said.broken) if told != said.heard else None


def acknowledgements_of_settings_are_empty(case: Case, said: Account) -> Account | None:
    """§6.5: one that isn't is FRAME_SIZE_ERROR; h2 says PROTOCOL_ERROR."""
    frame = case.frame
    is_wrong = frame.kind == FrameType.SETTINGS and frame.flags & ACK and frame.payload
    return _breaks(ErrorCode.FRAME_SIZE_ERROR) if is_wrong and not frame.stream else None


def each_setting_is_judged(case: Case, said: Account) -> Account | None:
    """§6.5.3: settings are taken one after the other; of one that is there twice h2 sees the last.
    §6.5.2: a server may not allow push; h2 lets it."""
    frame = case.frame
    if frame.kind != FrameType.SETTINGS or frame.flags & ACK or len(frame.payload) % 6:
        return None
    for at in range(0, len(frame.payload), 6):
        pair = frame.payload[at : at + 6]
        code = _judge_setting(int.from_bytes(pair[:2]), int.from_bytes(pair[2:]), case)
        if code is not None:
            return _breaks(code)
    return None


def _judge_setting(setting: int, value: int, case: Case) -> ErrorCode | None:
    match setting:
        case Setting.INITIAL_WINDOW_SIZE if value > MAX_WINDOW:
            return ErrorCode.FLOW_CONTROL_ERROR
        case Setting.ENABLE_PUSH if value > (1 if case.server else 0):
            return ErrorCode.PROTOCOL_ERROR
        case Setting.MAX_FRAME_SIZE if not 1 << 14 <= value < 1 << 24:
            return ErrorCode.PROTOCOL_ERROR
        case Setting.ENABLE_CONNECT_PROTOCOL if value > 1:
            return ErrorCode.PROTOCOL_ERROR
    return None


def a_block_that_cannot_be_decoded_has_a_code(case: Case, said: Account) -> Account | None:
    """§4.3: COMPRESSION_ERROR; h2 says PROTOCOL_ERROR."""
    is_oversized = isinstance(case.error and case.error.__cause__, hpack.OversizedHeaderListError)
    if case.is_undecodable and not is_oversized:
        return _breaks(ErrorCode.COMPRESSION_ERROR)
    return None


def a_block_begins_with_headers(case: Case, said: Account) -> Account | None:
    """§6.10: CONTINUATION without HEADERS is PROTOCOL_ERROR of the connection; to h2 it depends on
    the stream."""
    is_naked = case.frame.kind == FrameType.CONTINUATION and case.block is None
    return _breaks(ErrorCode.PROTOCOL_ERROR) if is_naked else None


def padding_does_not_reach_into_priority(case: Case, said: Account) -> Account | None:
    """§6.2: padding that exceeds what is left for the block is PROTOCOL_ERROR; h2 doesn't count the
    bytes of the priority."""
    frame = case.frame
    begin = (1 if frame.flags & PADDED else 0) + (5 if frame.flags & PRIORITY else 0)
    if frame.kind != FrameType.HEADERS or not frame.flags & PADDED or len(frame.payload) < begin:
        return None
    return None if _content(frame) is not None else _breaks(ErrorCode.PROTOCOL_ERROR)


def servers_open_no_streams(case: Case, said: Account) -> Account | None:
    """§5.1.1, §8.4: HEADERS with an even number are PROTOCOL_ERROR as soon as they begin; h2 waits
    for the whole block."""
    is_even = case.frame.kind == FrameType.HEADERS and not case.frame.stream & 1
    return _breaks(ErrorCode.PROTOCOL_ERROR) if is_even else None


def nothing_is_pushed(case: Case, said: Account) -> Account | None:
    """§8.4: PUSH_PROMISE is PROTOCOL_ERROR, as soon as it begins; h2 waits for the whole block."""
    is_push = case.frame.kind == FrameType.PUSH_PROMISE
    return _breaks(ErrorCode.PROTOCOL_ERROR) if is_push else None


def blocks_are_not_interrupted(case: Case, said: Account) -> Account | None:
    """§6.10: only CONTINUATION of the same stream may follow, otherwise PROTOCOL_ERROR; h2 first
    looks at what the other frame says."""
    if case.block is None:
        return None
    frame = case.frame
    goes_on = frame.kind == FrameType.CONTINUATION and frame.stream == case.block.stream
    return None if goes_on else _breaks(ErrorCode.PROTOCOL_ERROR)


def a_length_is_judged_first(case: Case, said: Account) -> Account | None:
    """§4.2: of two faults of a frame one is named: we name that it is too long."""
    if len(case.frame.payload) > MAX_FRAME_BYTES and said.broken:
        return _breaks(ErrorCode.FRAME_SIZE_ERROR)
    return None


def a_connection_begins_with_settings(case: Case, said: Account) -> Account | None:
    """§3.4: everything else, a mere acknowledgement too, is PROTOCOL_ERROR; h2 takes anything."""
    begins = case.frame.kind == FrameType.SETTINGS and not case.frame.flags & ACK
    return _breaks(ErrorCode.PROTOCOL_ERROR) if case.first and not begins else None


RULES: tuple[Rule, ...] = (
    idle_streams_cannot_be_reset,
    lengths_of_priority_concern_a_stream,
    priorities_are_ignored,
    increments_of_0_concern_a_stream,
    data_before_an_answer_concerns_a_stream,
    windows_of_streams_concern_streams,
    what_is_in_flight_after_our_reset_is_ignored,
    requests_on_what_the_peer_reset_are_refused,
    answers_on_what_is_over_are_ignored,
    blocks_after_the_end_concern_a_stream,
    malformed_messages_concern_a_stream,
    names_are_tokens,
    a_connect_has_an_authority,
    a_connect_is_not_extended,
    a_method_is_not_empty,
    a_tunnel_carries_connect_to_addresses,
    a_status_has_three_digits,
    informational_answers_are_few,
    streams_above_the_limit_are_refused,
    trailers_are_not_told,
    informational_answers_are_not_told,
    only_our_ping_is_answered,
    unknown_codes_are_internal_errors,
    goaways_never_rise,
    acknowledgements_of_settings_are_empty,
    each_setting_is_judged,
    a_block_that_cannot_be_decoded_has_a_code,
    a_block_begins_with_headers,
    padding_does_not_reach_into_priority,
    servers_open_no_streams,
    nothing_is_pushed,
    blocks_are_not_interrupted,
    a_length_is_judged_first,
    a_connection_begins_with_settings,
)
"""In this order, each of what those before it have left: errors of the connection come last,
because they end it whatever else is wrong."""


def _is_plain(error: ProtocolError | None) -> bool:
    """Whether h2 could read the frame, and has no more to say of it than PROTOCOL_ERROR."""
    return type(error) is ProtocolError and not isinstance(error.__cause__, HyperframeError)


def _headers(said: Account) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that were heard."""
    is_block = said.heard and said.heard[0][0] in ("request", "answer", "informational", "trailers")
    headers: tuple[tuple[bytes, bytes], ...] = said.heard[0][2] if is_block else ()
    return headers


def _request(said: Account) -> dict[bytes, bytes] | None:
    is_one = said.heard and said.heard[0][0] == "request"
    return dict(reversed(said.heard[0][2])) if is_one else None


def _is_address(text: bytes) -> bool:
    """Whether it is an IP address as it is in URLs, and a port."""
    found = _AUTHORITY.fullmatch(text)
    if found is None or not 0 < int(found[3]) < 1 << 16:
        return False
    try:
        ip_address((found[1] or found[2]).decode())
    except ValueError:
        return False
    return True


def _without(kind: str, said: Account) -> Account | None:
    rest = [each for each in said.heard if each[0] != kind]
    return Account(rest, said.sent, said.broken) if rest != said.heard else None


def _with_known_code(said: Said) -> Said:
    if said[0] in ("reset", "goaway"):
        return (*said[:2], int(ErrorCode.of(said[2])), *said[3:])
    return said
