"""Our sessions and the `h2` library understand the same bytes in the same way, in both roles."""

from __future__ import annotations

import contextlib

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.hbone_sessions import AUTHORITY, session
from uproxy.hbone.codes import ErrorCode
from uproxy.hbone.events import (
    AnswerReceived,
    Broken,
    DataReceived,
    EndReceived,
    Event,
    PongReceived,
    RequestReceived,
    ResetReceived,
)
from uproxy.hbone.session import Session

Said = tuple[object, ...]
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["baggage", "forwarded", "x-long"]),
        st.text("abc=;,é", min_size=1, max_size=40) | st.just("v" * 1000),
    ),
    max_size=3,
)


def library(*, client: bool) -> h2.connection.H2Connection:
    """Return one end of a connection of h2's."""
    config = h2.config.H2Configuration(client_side=client, header_encoding=None)
    made = h2.connection.H2Connection(config)
    made.initiate_connection()
    return made


def of_h2(events: list[h2.events.Event]) -> list[Said]:
    """What h2 has heard, as tuples."""
    told: list[Said] = []
    for event in events:
        match event:
            case h2.events.RequestReceived() | h2.events.ResponseReceived():
                headers = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
                pseudo = [value for name, value in headers if name in (b":authority", b":status")]
                rest = [header for header in headers if not header[0].startswith(b":")]
                told.append(("headers", event.stream_id, pseudo[0], rest))
            case h2.events.DataReceived():
                told.append(("data", event.stream_id, event.data))
            case h2.events.StreamEnded():
                told.append(("end", event.stream_id))
            case h2.events.StreamReset():
                told.append(("reset", event.stream_id, int(event.error_code or 0)))
            case h2.events.PingAckReceived():
                told.append(("pong",))
    return merged(told)


def of_ours(events: list[Event]) -> list[Said]:
    """What a session of ours has heard, as tuples."""
    told: list[Said] = []
    for event in events:
        match event:
            case RequestReceived(stream=stream, request=request):
                raw = [(name.encode(), _raw(value)) for name, value in request.headers]
                told.append(("headers", stream, request.authority_text.encode(), raw))
            case AnswerReceived(stream=stream, status=status, headers=headers):
                raw = [(name.encode(), _raw(value)) for name, value in headers]
                told.append(("headers", stream, b"%d" % status, raw))
            case DataReceived(stream=stream, data=data):
                told.append(("data", stream, data))
            case EndReceived(stream=stream):
                told.append(("end", stream))
            case ResetReceived(stream=stream, code=code):
                told.append(("reset", stream, int(code)))
            case PongReceived():
                told.append(("pong",))
            case Broken():
                told.append(("broken", event.reason))
    return merged(told)


def _raw(value: str) -> bytes:
    return value.encode("latin-1")


def merged(told: list[Said]) -> list[Said]:
    """DATA of one stream in sequence is one."""
    made: list[Said] = []
    for each in told:
        if each[0] == "data" and made and made[-1][:2] == each[:2]:
            before, more = made[-1][2], each[2]
            assert isinstance(before, bytes)
            assert isinstance(more, bytes)
            made[-1] = (*each[:2], before + more)
        elif each[0] != "data" or each[2]:
            made.append(each)
    return made


ops = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "data", "data", "pad", "end", "reset", "ping", "table", "window", "priority"]
        ),
        st.integers(0, 3),
        _HEADERS,
        st.sampled_from([0, 1, 100, 3000]),
    ),
    max_size=25,
)


@given(ops)
def test_a_session_hears_what_h2_hears(
    script: list[tuple[str, int, list[tuple[str, str]], int]],
) -> None:
    """A client of h2's says something, once to h2 and once to a server's session."""
    client, theirs, ours = library(client=True), library(client=False), session()
    client.receive_data(theirs.data_to_send())
    streams: list[int] = []
    for what, which, headers, count in script:
        speak(client, streams, what, which, headers, count)
        said = client.data_to_send()
        assert of_ours(ours.receive(said, 0.0)) == of_h2(theirs.receive_data(said))
        for stream in streams:
            ours.answer(stream, 200)


def speak(
    client: h2.connection.H2Connection,
    streams: list[int],
    what: str,
    which: int,
    headers: list[tuple[str, str]],
    count: int,
) -> None:
    """Have a client of h2's say something, if it may."""
    stream = streams[which % len(streams)] if streams else 0
    # it knows that it may not say this, or has forgotten a stream that was reset
    with contextlib.suppress(h2.exceptions.ProtocolError, KeyError):
        match what:
            case "open":
                streams.append(client.get_next_available_stream_id())
                head = [(":method", "CONNECT"), (":authority", AUTHORITY)]
                client.send_headers(streams[-1], head + headers, end_stream=count == 1)
            case "ping":
                client.ping(b"abcdefgh")
            case "table":
                client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: count})
            case "window":
                client.increment_flow_control_window(count + 1, stream or None)
            case "priority":
                client.prioritize(2 * which + 1, weight=9, depends_on=0)
            case _ if stream:
                speak_on(client, stream, what, which, count)


def speak_on(
    client: h2.connection.H2Connection, stream: int, what: str, padding: int, count: int
) -> None:
    """Have a client of h2's say something on an open stream."""
    match what:
        case "data":
            client.send_data(stream, bytes(count))
        case "pad":
            client.send_data(stream, bytes(count), pad_length=padding)
        case "end":
            client.end_stream(stream)
        case "reset":
            client.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)


class Ours:
    """Our end of a conversation with h2."""

    def __init__(self, ours: Session, theirs: h2.connection.H2Connection) -> None:
        self.ours = ours
        self.theirs = theirs
        self.we_heard: list[Said] = []
        self.they_heard: list[Said] = []
        self.carry()

    def carry(self) -> None:
        """Carry bytes until nobody has any: h2 raises for what isn't in order."""
        while True:
            said, answered = self.ours.take_output(), self.theirs.data_to_send()
            if not said and not answered:
                return
            events = self.theirs.receive_data(said) if said else []
            for event in events:
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.theirs.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id or 0
                    )
            self.they_heard += of_h2(events)
            told = of_ours(self.ours.receive(answered, 0.0))
            for each in told:
                if each[0] == "data" and isinstance(each[1], int) and isinstance(each[2], bytes):
                    self.ours.consumed(each[1], len(each[2]), 0.0)
            self.we_heard += told


sizes = st.lists(st.sampled_from([1, 255, 16_384, 16_385, 70_000, 200_000]), max_size=6)


@given(_HEADERS, sizes, sizes, st.booleans())
def test_our_client_and_h2s_server_talk(
    headers: list[tuple[str, str]], up: list[int], down: list[int], reset: bool
) -> None:
    talk = Ours(session(server=False), library(client=False))
    stream = talk.ours.open(AUTHORITY, headers)
    talk.carry()
    raw = [(name.encode(), value.encode()) for name, value in headers]
    assert talk.they_heard == [("headers", stream, AUTHORITY.encode(), raw)]
    talk.theirs.send_headers(stream, [(":status", "200")])
    converse(talk, stream, up, down, reset=reset)
    assert talk.we_heard[0] == ("headers", stream, b"200", [])


@given(_HEADERS, sizes, sizes, st.booleans())
def test_h2s_client_and_our_server_talk(
    headers: list[tuple[str, str]], up: list[int], down: list[int], reset: bool
) -> None:
    talk = Ours(session(), library(client=True))
    stream = talk.theirs.get_next_available_stream_id()
    head = [(":method", "CONNECT"), (":authority", AUTHORITY)]
    talk.theirs.send_headers(stream, head + headers)
    talk.carry()
    raw = [(name.encode(), value.encode()) for name, value in headers]
    assert talk.we_heard == [("headers", stream, AUTHORITY.encode(), raw)]
    talk.ours.answer(stream, 200, headers)
    converse(talk, stream, up, down, reset=reset)
    assert talk.they_heard[0] == ("headers", stream, b"200", raw)


def converse(talk: Ours, stream: int, up: list[int], down: list[int], *, reset: bool) -> None:
    """Send bytes both ways, then the ends, or a reset instead of ours."""
    ours = theirs = 0
    for size in up:
        left = size
        while left:
            left -= talk.ours.send(stream, bytes(left))
            talk.carry()
        ours += size
    for size in down:
        left = size
        while left:
            room = min(talk.theirs.local_flow_control_window(stream), 16_384, left)
            talk.theirs.send_data(stream, bytes(room))
            left -= room
            talk.carry()
        theirs += size
    talk.theirs.end_stream(stream)
    talk.carry()
    if reset:
        talk.ours.reset(stream, ErrorCode.CANCEL)
    else:
        talk.ours.finish(stream)
    talk.carry()
    assert amount(talk.they_heard) == ours
    assert amount(talk.we_heard) == theirs
    assert talk.they_heard[-1] == (("reset", stream, 8) if reset else ("end", stream))
    assert ("end", stream) in talk.we_heard
    assert talk.ours.streams == 0


def amount(heard: list[Said]) -> int:
    """How many bytes have arrived."""
    return sum(len(each[2]) for each in heard if each[0] == "data" and isinstance(each[2], bytes))
