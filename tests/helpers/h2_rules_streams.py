"""Rules of tests/helpers/h2_rules.py about streams: which errors are theirs, and what still comes
on those that are over."""

from __future__ import annotations

from h2.exceptions import FlowControlError

from tests.helpers.h2_case import Case, breaks, is_plain, resets
from tests.helpers.h2_library import Account, State
from uproxy.hbone.codes import ErrorCode, FrameType


def idle_streams_cannot_be_reset(case: Case, said: Account) -> Account | None:
    """§6.4: RST_STREAM on an idle stream is an error of the connection; h2 ignores it."""
    if case.frame.kind == FrameType.RST_STREAM and case.before is State.IDLE:
        return None if said.broken else breaks(ErrorCode.PROTOCOL_ERROR)
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
    return Account() if case.before is State.IDLE else resets(case, ErrorCode.FRAME_SIZE_ERROR)


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
        return resets(case, ErrorCode.PROTOCOL_ERROR)
    return Account()


def data_before_an_answer_concerns_a_stream(case: Case, said: Account) -> Account | None:
    """§8.1: an answer begins with HEADERS, and one that is malformed is an error of its stream; h2
    ends the connection."""
    if case.frame.kind != FrameType.DATA or case.server or case.answered:
        return None
    is_right = is_plain(case.error) and case.before is State.OPEN
    return resets(case, ErrorCode.PROTOCOL_ERROR) if is_right else None


def windows_of_streams_concern_streams(case: Case, said: Account) -> Account | None:
    """§6.9.1: DATA that exceeds a stream's window is an error of the stream, or of the connection:
    h2 chooses this."""
    is_ours = case.frame.kind == FrameType.DATA and len(case.frame.payload) <= case.room
    if is_ours and isinstance(case.error, FlowControlError):
        return resets(case, ErrorCode.FLOW_CONTROL_ERROR)
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
        return breaks(ErrorCode.STREAM_CLOSED)
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
        return resets(case, ErrorCode.STREAM_CLOSED)
    return None
