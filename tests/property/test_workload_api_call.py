"""Whatever a server sends, a call reports messages and then one ending, and never raises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from uproxy.authority.rpc import ServerConnection
from uproxy.identity.workload_api.framing import Status, frame
from uproxy.identity.workload_api.grpc import Call, Ended, Event

PATH = "/SpiffeWorkloadAPI/FetchX509SVID"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
HEADERS = b"\x88\x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64"
"""`:status: 200` and `content-type: application/grpc`, as HPACK writes them."""


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One HTTP/2 frame of any type, mostly on our stream, with a length that is right."""
    payload = draw(st.binary(max_size=40) | st.just(HEADERS) | st.just(frame(b"hello")))
    kind, flags = draw(st.integers(0, 12)), draw(st.sampled_from([0, 1, 4, 5, 8, 32, 255]))
    stream = draw(st.sampled_from([0, 1, 1, 1, 2, 3]))
    header = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return header + payload


def check(chunks: list[bytes]) -> None:
    call = Call(PATH, "localhost", 1000)
    call.data_to_send()
    events: list[Event] = []
    for chunk in [*chunks, b""]:
        events += call.receive(chunk)
        call.data_to_send()
    endings = [event for event in events if isinstance(event, Ended)]
    assert endings == events[-1:]


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=4))
def test_any_bytes_end_the_call_once(chunks: list[bytes]) -> None:
    check(chunks)
    check([SETTINGS, *chunks])


@given(st.lists(frames(), max_size=8))
def test_any_frames_end_the_call_once(sent: list[bytes]) -> None:
    check([SETTINGS, *sent])


@given(
    st.lists(st.binary(max_size=300), max_size=5),
    st.sampled_from(Status),
    st.text(max_size=50),
    st.integers(1, 500),
)
def test_what_the_server_says_arrives_however_it_is_cut(
    messages: list[bytes], status: Status, text: str, step: int
) -> None:
    server, call = ServerConnection(), Call(PATH, "localhost", 1000)
    server.receive(call.data_to_send())
    for message in messages:
        server.send(1, message)
    server.finish(1, status, text)
    sent = server.data_to_send()

    events = [
        event for at in range(0, len(sent), step) for event in call.receive(sent[at : at + step])
    ]

    assert [event.data for event in events[:-1] if not isinstance(event, Ended)] == messages
    # HTTP trims what surrounds a header's value
    line = "".join(sign if sign.isprintable() else " " for sign in text.strip(" "))
    assert events[-1] == Ended(line, int(status), is_orderly=status is Status.OK)
