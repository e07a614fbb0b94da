"""The compiled session and the `h2` library understand each other, whatever applications do and
however bytes are cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hypothesis import given

from tests.helpers import probes

CANCEL = 8
CONNECT = [(":method", "CONNECT"), (":authority", "192.0.2.1:8080"), ("baggage", "a=b")]
STREAMS = (1, 3, 5)

steps = st.lists(
    st.tuples(
        st.sampled_from(["ours", "theirs"]),
        st.sampled_from(STREAMS),
        st.sampled_from(["send", "send", "send", "end", "reset"]),
        st.integers(0, 70_000),
    ),
    max_size=25,
)
cuts = st.sampled_from([3, 100, 1 << 20])


class Tunnel:
    """A compiled session and one of h2, with what each has received of each stream."""

    def __init__(self, *, h2_is_client: bool, cut: int, window: int) -> None:
        self.client = h2_is_client
        self.cut = cut
        self.ours: Any = probes.load("session_probe").SessionProbe(
            server=h2_is_client, stream_window=1 << 17, releases=False
        )
        self.theirs = H2Connection(H2Configuration(client_side=h2_is_client, header_encoding=None))
        # traps of h2: other ways to set a window are not sent, and it announces extended CONNECT
        self.theirs.local_settings = Settings(
            client=h2_is_client, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.theirs.initiate_connection()
        self.received: dict[str, dict[int, bytes]] = {"ours": {}, "theirs": {}}
        self.ended: dict[str, set[int]] = {"ours": set(), "theirs": set()}
        self.reset: set[int] = set()
        self.pump()

    def pump(self) -> None:
        """Carry bytes until nobody has any."""
        while True:
            said, heard = self.theirs.data_to_send(), self.ours.take_output()
            if not said and not heard:
                return
            for piece in pieces(said, self.cut):
                for event in self.ours.receive(piece):
                    self.hear(event)
            assert self.ours.broken is None
            for piece in pieces(heard, self.cut):
                for each in self.theirs.receive_data(piece):
                    self.hear_of_h2(each)

    def hear(self, event: tuple[Any, ...]) -> None:
        match event:
            case ("request", stream, authority, _, _):
                assert authority == b"192.0.2.1:8080"
                self.ours.answer(stream, 200)
            case ("data", stream, data):
                self.received["ours"][stream] = self.received["ours"].get(stream, b"") + data
            case ("end", stream):
                self.ended["ours"].add(stream)
            case ("reset", stream, *_):
                self.reset.add(stream)

    def hear_of_h2(self, event: Event) -> None:
        match event:
            case RequestReceived():
                assert dict(event.headers)[b":authority"] == b"192.0.2.1:8080"
                self.theirs.send_headers(event.stream_id, [(":status", "200")])
            case ResponseReceived():
                assert dict(event.headers)[b":status"] == b"200"
            case DataReceived():
                received = self.received["theirs"]
                received[event.stream_id] = received.get(event.stream_id, b"") + event.data
                if event.flow_controlled_length:
                    self.theirs.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
            case StreamEnded():
                self.ended["theirs"].add(event.stream_id)
            case StreamReset():
                self.reset.add(event.stream_id)

    def open(self) -> None:
        for stream in STREAMS:
            if self.client:
                self.theirs.send_headers(stream, CONNECT)
            else:
                assert self.ours.open(b"192.0.2.1:8080") == stream
        self.pump()

    def send(self, who: str, stream: int, data: bytes) -> int:
        """Have one end send; return how many bytes it took."""
        if who == "ours":
            return len(data) if self.ours.send(stream, data) == 0 else 0
        sent = 0
        while sent < len(data):
            room = min(self.theirs.local_flow_control_window(stream), 16_384, len(data) - sent)
            if room <= 0:
                break
            self.theirs.send_data(stream, data[sent : sent + room])
            sent += room
        return sent

    def end(self, who: str, stream: int) -> None:
        if who == "ours":
            self.ours.finish(stream)
        else:
            self.theirs.end_stream(stream)

    def abort(self, who: str, stream: int) -> None:
        self.reset.add(stream)
        if who == "ours":
            self.ours.reset(stream, CANCEL)
        else:
            self.theirs.reset_stream(stream, CANCEL)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("h2_is_client", [True, False])
@given(steps=steps, cut=cuts, window=st.sampled_from([0, 1000, 65_535, 1 << 20]))
def test_bytes_arrive_whole_and_in_order_until_their_end(
    h2_is_client: bool, steps: list[tuple[str, int, str, int]], cut: int, window: int
) -> None:
    tunnel = Tunnel(h2_is_client=h2_is_client, cut=cut, window=window)
    tunnel.open()
    sent: dict[tuple[str, int], bytes] = {}
    over: set[tuple[str, int]] = set()
    for number, (who, stream, what, size) in enumerate(steps):
        if (who, stream) in over or stream in tunnel.reset:
            continue
        if what == "send":
            data = bytes([number]) * size
            taken = tunnel.send(who, stream, data)
            sent[who, stream] = sent.get((who, stream), b"") + data[:taken]
        elif what == "end":
            over.add((who, stream))
            tunnel.end(who, stream)
        elif {("ours", stream), ("theirs", stream)} - over:
            try:
                tunnel.abort(who, stream)
            except ProtocolError:
                continue  # h2 has closed it
        tunnel.pump()
    for stream in STREAMS:
        for who, other in (("ours", "theirs"), ("theirs", "ours")):
            wanted, got = sent.get((who, stream), b""), tunnel.received[other].get(stream, b"")
            assert wanted.startswith(got)
            if stream not in tunnel.reset and not (who == "ours" and window == 0):
                assert got == wanted
                assert (stream in tunnel.ended[other]) == ((who, stream) in over)
