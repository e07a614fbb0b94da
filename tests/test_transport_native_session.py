"""The compiled engine's session does what the tests of Python's want, and what only it does: it
takes all that is to be sent, lets streams take turns, and passes received bytes on without a
copy."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests import (
    test_hbone_attacks,
    test_hbone_control,
    test_hbone_sending,
    test_hbone_session,
)
from tests.helpers import hbone_sessions, hbone_sessions_native, probes
from tests.helpers.hbone_sessions import data, settings
from uproxy.hbone import budgets, codes, control, frames, sending, session, windows
from uproxy.hbone.budgets import BUCKETS, Flood
from uproxy.hbone.codes import PREFACE, FrameType
from uproxy.hbone.frames import Frame, Splitter

OF_PYTHON = (test_hbone_attacks, test_hbone_control, test_hbone_sending, test_hbone_session)
"""Tests of behaviour, which are put to the compiled session here."""

OTHER_WORDS = {
    "test_a_setting_out_of_its_range_ends_the_tunnel",
    "test_a_frame_for_a_stream_that_never_was_ends_the_tunnel",
    "test_a_server_may_not_push",
    "test_streams_above_the_limit_are_refused_until_one_has_ended",
    "test_headers_on_a_stream_that_has_ended_end_the_tunnel",
    "test_a_header_block_has_nothing_inside",
    "test_a_request_may_skip_ids",
    "test_a_request_that_is_no_connect_is_answered_with_400",
    "test_a_request_without_an_address_is_answered_with_400",
    "test_what_came_before_a_broken_rule_is_told",
    "test_after_a_close_nothing_is_heard_or_said",
}
"""Those that aren't: they want words with numbers in them, where the compiled session only says
which rule was broken.  That it ends in the same way is tests/property/test_hbone_engines.py's."""


def probe() -> Any:
    return probes.load("session_probe")


def _of(module: ModuleType) -> dict[str, Callable[..., None]]:
    name = module.__name__.rpartition(".")[2].removeprefix("test_")
    return {
        f"test_{name}_{each.removeprefix('test_')}": function
        for each, function in vars(module).items()
        if each.startswith("test_") and each not in OTHER_WORDS
    }


for _module in OF_PYTHON:
    globals().update(_of(_module))
client, server = test_hbone_session.client, test_hbone_session.server


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever one of Python's tests asks for a session, it gets a compiled one."""
    for module in (hbone_sessions, *OF_PYTHON):
        monkeypatch.setattr(module, "session", hbone_sessions_native.session)


def test_what_is_left_out_is_there() -> None:
    names = {name for module in OF_PYTHON for name in vars(module)}
    assert names >= OTHER_WORDS


def test_numbers_are_those_of_pythons_session() -> None:
    modules = (budgets, codes, control, sending, session, windows)
    for name, number in probe().constants().items():
        (theirs,) = {vars(module)[name] for module in modules if name in vars(module)}
        assert theirs == number, name
    assert probe().buckets() == {flood.name: tuple(BUCKETS[flood]) for flood in BUCKETS}
    assert probe().floods().keys() == {flood.name for flood in Flood}


def test_each_rule_has_its_words() -> None:
    for flood, number in probe().floods().items():
        words = budgets.FloodError(Flood[flood]).reason
        assert probe().words(probe().FLOOD + number) == words
    assert probe().words(probe().AUTHORITY).startswith(":authority {value} isn't an IP address")
    assert probe().words(probe().LAST) != ""
    assert probe().words(probe().LAST + 1) == ""


# A server whose client is written by hand.


class Server:
    """A compiled session as a server, which has heard a greeting."""

    def __init__(self, *, streams: int = 0, window: int = 65_535, **options: Any) -> None:
        self.session = probe().SessionProbe(server=True, **options)
        self._splitter = Splitter(server=False)
        self.hear(PREFACE + settings(INITIAL_WINDOW_SIZE=window))
        for number in range(streams):
            self.hear(connect(1 + 2 * number))
            self.session.answer(1 + 2 * number, 200)
        self.says()

    def hear(self, *said: bytes) -> list[tuple[Any, ...]]:
        events: list[tuple[Any, ...]] = self.session.receive(b"".join(said))
        return events

    def says(self) -> list[Frame]:
        return list(self._splitter.split(self.session.take_output()))


def connect(stream: int, *, end: bool = False) -> bytes:
    return frames.headers(stream, probe().encoded(b"192.0.2.1:8080"), end=end)


def grow(stream: int, count: int) -> bytes:
    return frames.window_update(stream, count)


def payloads(said: list[Frame], stream: int) -> bytes:
    return b"".join(each.payload for each in said if each.kind == 0 and each.stream == stream)


def test_what_windows_do_not_allow_waits_and_goes_when_they_do() -> None:
    server = Server(streams=1, window=10)
    assert server.session.send(1, b"0123456789abcdef") == 0
    assert server.session.state(1)["waiting"] == 6
    assert server.session.state(1)["unacknowledged"] == 10
    assert payloads(server.says(), 1) == b"0123456789"
    assert server.hear(grow(1, 2)) == [("writable", 1, 4)]
    assert server.hear(grow(1, 9)) == [("writable", 1, 0)]
    assert payloads(server.says(), 1) == b"abcdef"
    assert server.session.state(1)["send_window"] == 5


def test_an_end_follows_what_waits_on_its_last_frame() -> None:
    server = Server(streams=1, window=3)
    server.session.send(1, b"abcdef")
    assert server.session.finish(1) == 0
    assert server.session.send(1, b"more") == -1
    assert [each.flags for each in server.says()] == [0]
    server.hear(grow(1, 9))
    (last,) = server.says()
    assert (last.payload, last.flags) == (b"def", 1)


def test_an_end_rides_on_a_frame_that_is_still_there() -> None:
    server = Server(streams=2)
    server.session.send(1, b"abc")
    server.session.send(3, b"def")
    server.session.finish(1)
    assert [tuple(each) for each in server.says()] == [(0, 1, 1, b"abc"), (0, 0, 3, b"def")]
    server.session.finish(3)
    assert [tuple(each) for each in server.says()] == [(0, 1, 3, b"")]


def test_small_writes_in_a_row_share_a_frame() -> None:
    server = Server(streams=2)
    for _ in range(20_000):
        server.session.send(1, b"x")
    said = server.says()
    assert [len(each.payload) for each in said] == [16_384, 3_616]
    for stream in (1, 3, 3, 1):
        server.session.send(stream, b"x")
    assert [(each.stream, each.payload) for each in server.says()] == [
        (1, b"x"), (3, b"xx"), (1, b"x"),
    ]  # fmt: skip


def test_nothing_is_added_to_a_frame_that_was_taken() -> None:
    server = Server(streams=1)
    server.session.send(1, b"abc")
    assert payloads(server.says(), 1) == b"abc"
    server.session.send(1, b"def")
    assert [each.payload for each in server.says()] == [b"def"]


def test_an_output_that_is_not_taken_does_not_grow() -> None:
    server = Server(streams=2, window=1 << 30)
    server.hear(grow(0, 1 << 30))
    for _ in range(8):
        server.session.send(1, bytes(1 << 18))
    size = len(server.session.peek_output())
    assert 1 << 18 <= size < (1 << 18) + 17_000
    assert server.session.state(1)["waiting"] == (1 << 21) - (1 << 18)
    server.session.send(3, b"behind")
    total = 0
    while said := server.says():
        assert sum(len(each.payload) for each in said) < (1 << 18) + 17_000
        total += len(payloads(said, 1))
    assert total == 1 << 21
    assert server.session.state(3)["waiting"] == 0


def test_streams_that_wait_take_turns_of_64_kib() -> None:
    server = Server(streams=3, window=1 << 30)
    for stream in (1, 3, 5):
        server.session.send(stream, bytes(200_000))  # the tunnel's window is 65,535
    server.says()
    server.hear(grow(0, 5 * 65_536))
    said = [(each.stream, len(each.payload)) for each in server.says()]
    assert said == [(stream, 16_384) for stream in (1, 3, 5, 1) for _ in range(4)]
    assert [each.stream for each in server.says()] == [3] * 4


def test_a_stream_without_a_window_stops_no_other() -> None:
    server = Server(streams=2, window=1_000)
    server.session.send(1, bytes(5_000))
    server.session.send(3, bytes(500))
    assert payloads(server.says(), 3) == bytes(500)
    assert server.hear(grow(0, 1 << 20)) == []
    assert server.says() == []


def test_a_stream_whose_window_was_taken_away_stops_no_other() -> None:
    server = Server(streams=2)
    server.session.send(1, bytes(65_535))  # all of the tunnel's window
    server.session.send(1, bytes(10))
    server.says()
    server.hear(grow(1, 100))  # it waits for the tunnel's window only
    server.session.send(3, b"waits")  # behind the other
    server.hear(settings(INITIAL_WINDOW_SIZE=1_000))
    server.hear(grow(0, 1_000))
    said = server.says()
    assert payloads(said, 1) == b""
    assert payloads(said, 3) == b"waits"


def test_streams_above_the_limit_are_refused_and_so_are_many_that_nobody_releases() -> None:
    server = Server(streams=2, max_streams=2)
    server.session.releases = False
    refused = probe().TOO_MANY
    assert server.hear(connect(5)) == [("refused", 5, 0, refused)]
    for stream in (7, 9):
        server.hear(frames.rst_stream(stream - 6, codes.ErrorCode.CANCEL))
        assert server.hear(connect(stream))[0][:2] == ("request", stream)
    for stream in (7, 9):
        server.hear(frames.rst_stream(stream, codes.ErrorCode.CANCEL))
    assert (server.session.streams, server.session.open_streams) == (4, 0)
    assert server.hear(connect(11)) == [("refused", 11, 0, refused)]
    server.session.release(1)
    assert server.hear(connect(13))[0][:2] == ("request", 13)


def test_a_reset_forgets_what_waits() -> None:
    server = Server(streams=1, window=3)
    server.session.releases = False
    server.session.send(1, b"abcdef")
    server.session.reset(1, 8)
    assert server.session.state(1)["waiting"] == 0
    assert server.hear(grow(1, 100), grow(0, 100)) == []
    assert [each.kind for each in server.says()] == [FrameType.DATA, FrameType.RST_STREAM]
    assert server.session.send(1, b"x") == -1
    assert server.session.finish(1) == -1
    server.session.release(1)
    assert server.says() == []


def test_a_stream_that_is_released_in_the_middle_is_reset() -> None:
    server = Server(streams=1)
    server.session.release(1)
    assert [tuple(each) for each in server.says()] == [(3, 0, 1, b"\0\0\0\x08")]
    assert 1 not in server.session


def test_bytes_that_are_not_read_are_kept_and_read_in_order() -> None:
    server = Server(streams=1)
    server.session.reads = False
    server.hear(data(1, b"abc"), data(1, b"def"))
    assert server.hear(data(1, b"ghi", end=True)) == [("data", 1, b"ghi"), ("end", 1)]
    assert server.session.unread == server.session.state(1)["unread"] == 9
    server.session.read(1)
    assert server.session.take_events() == [("data", 1, b"abcdefghi")]
    assert server.session.unread == 0


def test_bytes_in_frames_of_one_stream_are_read_at_once() -> None:
    """As one slice of the buffer that was received: nothing is kept."""
    server = Server(streams=2)
    said = [data(1, b"abc"), grow(0, 1), data(1, b"d"), data(3, b"x"), data(1, b"e"), data(1, b"f")]
    server.session.receive(b"".join(said))
    server.session.slices.clear()
    server.session.receive(b"".join([data(1, b"ab"), data(1, b"cd"), data(1, b"ef")]))
    assert server.session.slices == [(1, 6)]
    server.session.receive(b"".join(said))
    assert server.session.slices[1:] == [(1, 3), (1, 1), (3, 1), (1, 2)]


def test_a_frame_is_passed_on_before_it_is_whole() -> None:
    server = Server(streams=1)
    whole = data(1, b"abcdef")
    assert server.hear(whole[:11]) == [("data", 1, b"ab")]
    assert server.hear(whole[11:]) == [("data", 1, b"cdef")]


def test_a_stream_released_while_its_frame_comes_takes_the_rest_with_it() -> None:
    server = Server(streams=2)
    whole = data(1, bytes(1_000))
    server.hear(whole[:100])
    server.session.release(1)
    assert server.hear(whole[100:], data(3, b"x")) == [("data", 3, b"x")]
    assert server.session.unread == 0
    assert server.session.broken is None


def test_a_stream_may_be_released_by_whoever_reads_it() -> None:
    server = Server(streams=2)
    server.session.kills = True
    assert server.hear(data(1, b"abc"), data(1, b"d", end=True), data(3, b"e")) == []
    assert server.session.streams == 0
    assert [each.kind for each in server.says()] == [FrameType.RST_STREAM] * 2
    assert server.session.unread == 0


def test_what_a_stream_keeps_is_bounded_by_its_window() -> None:
    server = Server(streams=1, stream_window=100_000)
    server.hear(frames.SETTINGS_ACK)
    server.session.reads = False
    server.hear(*(data(1, bytes(10_000)) for _ in range(10)))
    assert server.session.unread == 100_000
    (reset,) = server.hear(data(1, b"x"))
    assert reset[:3] == ("reset", 1, codes.ErrorCode.FLOW_CONTROL_ERROR)


def test_what_a_stream_keeps_is_read_in_pieces_whatever_comes_meanwhile() -> None:
    server = Server(streams=1, stream_window=4 << 20, connection_window=4 << 20)
    server.session.reads = False
    sent = b""
    for number in range(200):
        piece = bytes([number]) * 16_000
        server.hear(data(1, piece))
        sent += piece
    pieces = server.session.read_some(1, 2)
    for number in range(50):
        piece = bytes([number]) * 16_000
        server.hear(data(1, piece))
        sent += piece
    pieces += server.session.read_some(1, 100)
    assert max(map(len, pieces)) == 256 * 1024
    assert b"".join(pieces) == sent
    assert server.session.unread == 0


def test_a_thread_that_reads_late_again_and_again_keeps_no_more_memory_for_it() -> None:
    server = Server(streams=1, stream_window=1 << 20, connection_window=1 << 20)
    server.session.reads = False
    said = data(1, bytes(16_384)) * 16
    server.hear(*[said] * 2)
    for _ in range(200):
        server.hear(said)
        server.session.read_some(1, 1)
        server.says()
    assert server.session.held_room(1) <= 4 << 20


def test_what_windows_have_grown_by_is_counted_for_all_sessions_and_given_up_with_each() -> None:
    before = probe().grown_by_all()
    servers = [Server(streams=1) for _ in range(5)]
    for _ in range(100):
        for server in servers:
            server.hear(*(data(1, bytes(16_384)) for _ in range(8)))
            server.says()
    grown = [server.session.extra for server in servers]
    assert 2 << 20 < max(grown) <= 4 << 20
    assert 12 << 20 < sum(grown) == probe().grown_by_all() - before < 16 << 20
    servers[0].session.release(1)
    assert servers[0].session.extra == 0
    servers[1].session.lose()
    servers[1].session.release(1)
    del server, servers
    assert probe().grown_by_all() == before


def test_a_session_that_is_lost_says_nothing_and_keeps_what_it_has() -> None:
    server = Server(streams=1)
    server.session.reads = False
    server.hear(data(1, b"abc"))
    server.session.lose()
    assert server.session.take_output() == b""
    assert server.hear(data(1, b"def")) == []
    assert server.session.send(1, b"x") == -1
    server.session.read(1)
    assert server.session.take_events() == [("data", 1, b"abc")]
    server.session.release(1)
    assert server.session.take_output() == b""


def test_a_close_says_goodbye_once() -> None:
    server = Server()
    server.session.close(0)
    server.session.close(2)
    assert [tuple(each) for each in server.says()] == [(7, 0, 0, bytes(8))]


@pytest.mark.parametrize("step", [2, 4, 1 << 12])
def test_a_thousand_streams_are_found_whatever_their_numbers(step: int) -> None:
    server = Server(max_streams=1_000)
    ids = [1 + step * number for number in range(1_000)]
    server.hear(*(connect(each) for each in ids))
    assert server.session.streams == 1_000
    assert server.session.slots == 2_048
    for each in ids:
        server.session.answer(each, 200)
    assert len(server.hear(*(data(each, b"x") for each in ids))) == 1_000
    for each in ids[::-2] + ids[::2]:
        server.session.release(each)
        assert each not in server.session
    assert (server.session.streams, server.session.slots) == (0, 8)


@given(st.lists(st.integers(0, 60), max_size=120))
def test_streams_that_come_and_go_are_found_while_they_are_there(moves: list[int]) -> None:
    there: set[int] = set()
    server, last = Server(), -1
    for move in moves:
        if move < 25 and there:
            gone = sorted(there)[move % len(there)]
            there.remove(gone)
            server.session.release(gone)
        else:
            last += 2 * (1 + move)
            there.add(last)
            server.hear(connect(last))
        assert server.session.streams == len(there)
        assert all(each in server.session for each in there)
        assert server.session.broken is None


def test_an_idle_stream_is_small() -> None:
    _, stream = probe().sizes()
    slot = 16 / (3 / 8)  # each, where the table has just grown
    assert stream + 16 + slot <= 208


def test_a_quiet_session_keeps_no_large_output() -> None:
    server = Server(streams=1, window=1 << 20)
    server.session.send(1, bytes(60_000))
    server.says()
    assert server.session.output_room > 60_000
    server.session.trim()
    assert server.session.output_room == 0
    server.session.send(1, b"goes on")
    assert payloads(server.says(), 1) == b"goes on"
