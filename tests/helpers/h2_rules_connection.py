"""Rules of tests/helpers/h2_rules.py about the connection: settings, what ends it and with which
code."""

from __future__ import annotations

import hpack

from tests.helpers.h2_case import Case, breaks, content, without
from tests.helpers.h2_library import Account, Said
from uproxy.hbone.codes import (
    ACK,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    PADDED,
    PRIORITY,
    ErrorCode,
    FrameType,
    Setting,
)


def only_our_ping_is_answered(case: Case, said: Account) -> Account | None:
    """An acknowledgement of no PING of ours says nothing of the peer; h2 tells it."""
    return without("pong", said) if case.frame.payload != case.ping else None


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
    return breaks(ErrorCode.FRAME_SIZE_ERROR) if is_wrong and not frame.stream else None


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
            return breaks(code)
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
        return breaks(ErrorCode.COMPRESSION_ERROR)
    return None


def a_block_begins_with_headers(case: Case, said: Account) -> Account | None:
    """§6.10: CONTINUATION without HEADERS is PROTOCOL_ERROR of the connection; to h2 it depends on
    the stream."""
    is_naked = case.frame.kind == FrameType.CONTINUATION and case.block is None
    return breaks(ErrorCode.PROTOCOL_ERROR) if is_naked else None


def padding_does_not_reach_into_priority(case: Case, said: Account) -> Account | None:
    """§6.2: padding that exceeds what is left for the block is PROTOCOL_ERROR; h2 doesn't count the
    bytes of the priority."""
    frame = case.frame
    begin = (1 if frame.flags & PADDED else 0) + (5 if frame.flags & PRIORITY else 0)
    if frame.kind != FrameType.HEADERS or not frame.flags & PADDED or len(frame.payload) < begin:
        return None
    return None if content(frame) is not None else breaks(ErrorCode.PROTOCOL_ERROR)


def servers_open_no_streams(case: Case, said: Account) -> Account | None:
    """§5.1.1, §8.4: HEADERS with an even number are PROTOCOL_ERROR as soon as they begin; h2 waits
    for the whole block."""
    is_even = case.frame.kind == FrameType.HEADERS and not case.frame.stream & 1
    return breaks(ErrorCode.PROTOCOL_ERROR) if is_even else None


def nothing_is_pushed(case: Case, said: Account) -> Account | None:
    """§8.4: PUSH_PROMISE is PROTOCOL_ERROR, as soon as it begins; h2 waits for the whole block."""
    is_push = case.frame.kind == FrameType.PUSH_PROMISE
    return breaks(ErrorCode.PROTOCOL_ERROR) if is_push else None


def blocks_are_not_interrupted(case: Case, said: Account) -> Account | None:
    """§6.10: only CONTINUATION of the same stream may follow, otherwise PROTOCOL_ERROR; h2 first
    looks at what the other frame says."""
    if case.block is None:
        return None
    frame = case.frame
    goes_on = frame.kind == FrameType.CONTINUATION and frame.stream == case.block.stream
    return None if goes_on else breaks(ErrorCode.PROTOCOL_ERROR)


def a_length_is_judged_first(case: Case, said: Account) -> Account | None:
    """§4.2: of two faults of a frame one is named: we name that it is too long."""
    if len(case.frame.payload) > MAX_FRAME_BYTES and said.broken:
        return breaks(ErrorCode.FRAME_SIZE_ERROR)
    return None


def a_connection_begins_with_settings(case: Case, said: Account) -> Account | None:
    """§3.4: everything else, a mere acknowledgement too, is PROTOCOL_ERROR; h2 takes anything."""
    begins = case.frame.kind == FrameType.SETTINGS and not case.frame.flags & ACK
    return breaks(ErrorCode.PROTOCOL_ERROR) if case.first and not begins else None


def _with_known_code(said: Said) -> Said:
    if said[0] in ("reset", "goaway"):
        return (*said[:2], int(ErrorCode.of(said[2])), *said[3:])
    return said
