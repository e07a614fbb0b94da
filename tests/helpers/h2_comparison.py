"""The compiled session and the `h2` library hear the same bytes of a peer, and are compared frame
by frame: what they make of it, what they send because of it, which streams are open, and windows.

An application uses the session; whatever that sends is said by h2 too, which raises if it may not
be said.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hpack
from h2.settings import SettingCodes

from tests.helpers import hbone_sessions_native
from tests.helpers.h2_case import Case
from tests.helpers.h2_library import Account, Library, Said, sent_as_answer, split
from tests.helpers.h2_rules import RULES
from tests.helpers.h2_translations import TRANSLATIONS
from tests.helpers.hbone_sessions import AUTHORITY
from tests.helpers.hbone_talk import Draw, FluentTalk, Numbers, Talk, follow, in_order
from uproxy.hbone import budgets
from uproxy.hbone.codes import (
    END_HEADERS,
    END_STREAM,
    MAX_STREAM_ID,
    PREFACE,
    FrameType,
)
from uproxy.hbone.events import (
    AnswerReceived,
    Broken,
    DataReceived,
    EndReceived,
    Event,
    GoAwayReceived,
    PongReceived,
    RequestReceived,
    RequestRefused,
    ResetReceived,
    SettingsReceived,
)
from uproxy.hbone.frames import Frame, frame

_OPENED = 3
"""Streams that a client of ours has open when its peer begins to talk."""


class Comparison:
    """A session and h2 in one role."""

    def __init__(self, *, server: bool, opened: int = 0, **settings: int) -> None:
        self.subject = hbone_sessions_native.session(server=server, **settings)
        self.probe: Any = self.subject._probe
        self.over = False
        self.applied: set[str] = set()
        """The rules that have been of use."""
        self._server = server
        self._most = settings.get("max_streams", 1024)
        self._connection_window = settings.get("connection_window", 1 << 20)
        self._frames = 0
        self._block: Frame | None = None
        self._block_bytes = self._continuations = 0
        self._away = MAX_STREAM_ID
        self._coder = hpack.Decoder()
        greeting = self.subject.take_output()
        self.theirs = Library(server=server, greeting=greeting)
        self._follow_output(greeting.removeprefix(PREFACE))
        self._ping()
        for _ in range(opened):
            self.open()

    def _ping(self) -> None:
        self.subject.ping()
        _, ping = split(self.subject.take_output())[0]
        self._pong = ping.payload

    def open(self) -> None:
        """Have our client open a stream, if it may."""
        if self.subject.room and not self.over:
            self.subject.open(AUTHORITY)
            self._follow_output(self.subject.take_output())
            assert self._away == MAX_STREAM_ID, "a stream was opened after GOAWAY"

    def say(self, said: bytes) -> None:
        """Let both hear frames, until one of them ends the connection."""
        if said.startswith(PREFACE):
            assert self.subject.receive(PREFACE, 0.0) == []
            self.theirs.connection.receive_data(PREFACE)
        for whole, each in split(said.removeprefix(PREFACE)):
            if not self.over:
                self._say_one(whole, each)

    def _say_one(self, whole: bytes, said: Frame) -> None:
        case = self._case(said)
        expected = self._judgement(case, whole)
        self._note(case)
        events = self.subject.receive(whole, 0.0)
        output = self.subject.take_output()
        account = _account(events, output)
        flood = next((each.flood for each in events if isinstance(each, Broken)), None)
        if flood is not None:
            assert self._is_much(said), f"{flood} after {self._frames} frames"
            self.over = True
            return
        assert account == expected, (account, expected, case)
        self.over = account.broken is not None
        if self.over:
            return
        self._follow_output(output)
        for event in events:
            follow(self.subject, event)
            if isinstance(event, PongReceived):
                self._ping()
        self._follow_output(self.subject.take_output())
        self._compare_states(said)

    def _judgement(self, case: Case, whole: bytes) -> Account:
        """What h2 says of a frame, or would if it followed the rules."""
        told = case.frame
        for translate in TRANSLATIONS:
            if (translated := translate(told)) is not None:
                told = translated
                self.applied.add(translate.__name__)
        if told != case.frame:
            whole = frame(told.kind, told.flags, told.stream, told.payload)
        account, error = self.theirs.hear(whole, told)
        case = replace(case, error=error)
        for rule in RULES:
            corrected = rule(case, account)
            if corrected is not None and corrected != account:
                account = corrected
                self.applied.add(rule.__name__)
        return account

    def _case(self, said: Frame) -> Case:
        connection = self.theirs.connection
        return Case(
            frame=said,
            server=self._server,
            first=self._frames == 0,
            block=self._block,
            before=self.theirs.state(said.stream),
            answered=self.theirs.is_answered(said.stream),
            room=connection.inbound_flow_control_window,
            full=self._is_full(),
            ping=self._pong,
            away=self._away,
            informational=self.theirs.informational.get(said.stream, 0),
            error=None,
        )

    def _is_full(self) -> bool:
        """Whether a client has as many streams as it may; those that are over and not read count
        too, in a larger number."""
        kept = int(self.probe.streams) >= 2 * self._most
        return len(self.theirs.open) >= self._most or kept

    def _note(self, case: Case) -> None:
        """Remember what later frames depend on."""
        said = case.frame
        self._frames += 1
        if said.kind == FrameType.HEADERS:
            self._block, self._block_bytes, self._continuations = said, 0, 0
        if said.kind in (FrameType.HEADERS, FrameType.CONTINUATION):
            self._block_bytes += len(said.payload)
            self._continuations += said.kind == FrameType.CONTINUATION
            if said.flags & END_HEADERS:
                self._block = None
        if said.kind == FrameType.GOAWAY:
            last = int.from_bytes(said.payload[:4]) & MAX_STREAM_ID
            self._away = min(self._away, last)

    def _is_much(self, said: Frame) -> bool:
        """Whether a peer may have reached one of our limits against attacks (§10.5), which h2
        hasn't."""
        return (
            self._frames >= min(bucket.burst for bucket in budgets.BUCKETS.values())
            or self._continuations > budgets.MAX_CONTINUATIONS
            or self._block_bytes > budgets.MAX_HEADER_LIST_BYTES
            or (said.kind == FrameType.SETTINGS and len(said.payload) > 6 * budgets.MAX_SETTINGS)
        )

    # what we send

    def _follow_output(self, output: bytes) -> None:
        for _, said in split(output):
            headers: list[tuple[str, str]] = []
            if said.kind == FrameType.HEADERS:
                # the peer has said how large its table is, and the block must follow
                self._coder.max_allowed_table_size = (
                    self.theirs.connection.remote_settings.header_table_size
                )
                headers = [(str(name), str(value)) for name, value in self._decoded(said)]
            self.theirs.follow(said, headers)

    def _decoded(self, said: Frame) -> Any:
        return self._coder.decode(said.payload)

    # what is known after a frame

    def _compare_states(self, said: Frame) -> None:
        connection, open_streams = self.theirs.connection, self.theirs.open
        ours = self.probe.windows_of_streams()
        theirs = {
            each: stream.outbound_flow_control_window for each, stream in open_streams.items()
        }
        assert ours == theirs, ("windows to send", said)
        ours = {each: self.probe.state(each)["receive_window"] for each in open_streams}
        theirs = {each: stream.inbound_flow_control_window for each, stream in open_streams.items()}
        assert ours == theirs, ("windows to receive", said)
        outbound = connection.outbound_flow_control_window
        inbound = connection.inbound_flow_control_window
        assert self.probe.windows == (outbound, inbound), said
        self._check_credit()
        limit = connection.remote_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS, MAX_STREAM_ID)
        assert self.subject.allowed in (limit, None), said

    def _check_credit(self) -> None:
        """A peer whose bytes are all read may send half of a window at least: otherwise it could
        wait for ever."""
        least = self.theirs.connection.local_settings.initial_window_size // 2
        for each in self.theirs.open:
            state = self.probe.state(each)
            is_read = not state["unread"] and not state["receive_ended"]
            assert not is_read or state["receive_window"] >= least, each
        _, inbound = self.probe.windows
        assert self.probe.unread or inbound >= self._connection_window // 2


def _account(events: list[Event], output: bytes) -> Account:
    """What our session makes of a frame."""
    account = Account()
    for _, said in split(output):
        if said.kind == FrameType.GOAWAY:
            account.broken = int.from_bytes(said.payload[4:8])
        elif said.kind == FrameType.HEADERS:
            fields: Any = hpack.Decoder().decode(said.payload)
            ends = bool(said.flags & END_STREAM)
            account.sent.append(("answer", said.stream, int(dict(fields)[":status"]), ends))
        elif (told := sent_as_answer(said)) is not None:
            account.sent.append(told)
    reset = {each[1] for each in account.sent if each[0] == "reset"}
    account.heard = [
        told for event in in_order(events) if (told := _told(event, reset)) is not None
    ]
    if account.broken is not None:
        assert isinstance(events[-1], Broken)
        assert events[-1].code == account.broken
        account.sent = []
    return account


def _told(event: Event, reset: set[int]) -> Said | None:
    match event:
        case RequestReceived(stream, request):
            head = ((b":authority", _raw(request.authority_text)), (b":method", b"CONNECT"))
            return ("request", stream, head + _pairs(request.headers))
        case RequestRefused(stream):
            return ("refused", stream)
        case AnswerReceived(stream, status, headers):
            return ("answer", stream, ((b":status", b"%d" % status), *_pairs(headers)))
        case DataReceived(stream, data):
            return ("data", stream, data)
        case EndReceived(stream):
            return ("end", stream)
        case ResetReceived(stream, code, _, after_end) if stream not in reset:
            return ("reset", stream, int(code), after_end)
        case GoAwayReceived(last, code, debug):
            return ("goaway", last, int(code), debug)
        case PongReceived():
            return ("pong",)
        case SettingsReceived():
            return ("settings",)
    return None


def _raw(text: str) -> bytes:
    return text.encode("latin-1")


def _pairs(headers: Any) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((_raw(name), _raw(value)) for name, value in headers)


def check(data: bytes) -> Comparison:
    """Compare what both make of a peer that says what the bytes choose."""
    numbers = Numbers(data)
    server, settings = bool(numbers.draw(1)), _settings(numbers.draw)
    made = Comparison(server=server, opened=0 if server else _OPENED, **settings)
    talk: Talk = FluentTalk(numbers.draw, server=not server, opened=0 if server else _OPENED)
    if numbers.draw(3) == 0:
        talk = Talk(numbers.draw)
    made.say(talk.greeting(server=not server))
    while numbers and not made.over:
        if not server and talk.one_of((False, False, False, True)):
            made.open()
        made.say(talk.frame())
    return made


def _settings(draw: Draw) -> dict[str, int]:
    """Those that are used where they aren't configured, or small ones."""
    if draw(1):
        return {}
    return {"max_streams": 2, "stream_window": 1 << 16, "connection_window": 1 << 16}
