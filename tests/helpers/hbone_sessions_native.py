"""The compiled engine's session with the methods of `uproxy.hbone.session.Session`, so that the
same tests can be put to both.

Only Python's session says that a window has opened: here that is found by looking at windows before
and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from tests.helpers import probes
from uproxy.hbone.budgets import Flood
from uproxy.hbone.codes import ErrorCode
from uproxy.hbone.events import (
    AnswerReceived,
    Broken,
    DataReceived,
    EndReceived,
    Event,
    GoAwayReceived,
    PongReceived,
    Request,
    RequestReceived,
    RequestRefused,
    ResetReceived,
    SettingsReceived,
    WindowOpened,
)
from uproxy.model import TcpAddress, TunnelSettings

Headers = tuple[tuple[str, str], ...]


def probe() -> Any:
    return probes.load("session_probe")


def session(*, server: bool = True, now: float = 0.0, **settings: int) -> NativeSession:
    """Return a new session with such settings."""
    return NativeSession(server=server, settings=TunnelSettings(**settings), now=now)


class NativeSession:
    """A compiled session that keeps what it receives until `consumed` is called."""

    def __init__(self, *, server: bool, settings: TunnelSettings, now: float) -> None:
        self._server = server
        self._probe = probe().SessionProbe(
            server=server,
            max_streams=settings.max_streams,
            streams_per_connection=settings.streams_per_connection,
            stream_window=settings.stream_window,
            connection_window=settings.connection_window,
            now=now,
            reads=False,
        )
        self._is_told = False

    # what it hears

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> list[Event]:
        before = self._windows()
        events = [_event(each) for each in self._probe.receive(bytes(data), now)]
        if self._probe.broken is None:
            after = self._windows()
            opened = [each for each in before if before[each] <= 0 < after.get(each, 0)]
            events.extend(WindowOpened(each) for each in sorted(opened))
        elif not self._is_told:
            self._is_told = True
            events.append(self._broken())
        return events

    def _broken(self) -> Broken:
        fault, code = self._probe.broken
        names = {number: Flood[name] for name, number in probe().floods().items()}
        return Broken(ErrorCode(code), probe().words(fault), names.get(self._probe.flood))

    def _windows(self) -> dict[int, int]:
        return {0: self._probe.windows[0], **self._probe.windows_of_streams()}

    # what it says

    def take_output(self) -> bytes:
        return bytes(self._probe.take_output())

    @property
    def has_output(self) -> bool:
        return bool(self._probe.peek_output())

    def open(self, authority: str, fields: Sequence[tuple[str, str]] = ()) -> int:
        if (stream := self._probe.open(authority.encode(), _extra(fields))) is None:
            raise RuntimeError("a tunnel without room was asked for a stream")
        return int(stream)

    def answer(
        self,
        stream: int,
        status: int,
        fields: Sequence[tuple[str, str]] = (),
        *,
        end: bool = False,
    ) -> None:
        if stream in self._probe and not self._probe.state(stream)["answered"]:
            self._probe.answer(stream, status, _extra(fields), end)

    def sendable(self, stream: int) -> int:
        if stream not in self._probe or self._probe.broken:
            return 0
        state = self._probe.state(stream)
        if not state["open"] or state["send_ended"] or (self._server and not state["answered"]):
            return 0
        return max(0, min(int(state["send_window"]), int(self._probe.windows[0])))

    def send(self, stream: int, data: bytes | bytearray | memoryview) -> int:
        if not self.sendable(stream):
            return 0
        return int(self._probe.send_what_goes(stream, bytes(data)))

    def finish(self, stream: int) -> None:
        if stream in self._probe:
            self._probe.finish(stream)

    def reset(self, stream: int, code: ErrorCode) -> None:
        if stream in self._probe:
            self._probe.reset(stream, int(code))

    def consumed(self, stream: int, count: int, now: float) -> None:
        if stream in self._probe:
            self._probe.consume(stream, count, now)

    def close(self, code: ErrorCode, _debug: str) -> None:
        self._probe.close(int(code))

    def ping(self) -> None:
        self._probe.ping()

    def go_away(self, *, final: bool) -> None:
        self._probe.go_away(final=final)

    # what is known of it

    @property
    def is_closed(self) -> bool:
        return self._probe.broken is not None

    @property
    def streams(self) -> int:
        return 0 if self._probe.broken else int(self._probe.streams)

    @property
    def room(self) -> int:
        return int(self._probe.room)

    @property
    def held(self) -> int:
        return int(self._probe.unread)

    @property
    def is_overfull(self) -> bool:
        return bool(self._probe.overfull)

    @property
    def allowed(self) -> int | None:
        allowed: int | None = self._probe.allowed
        return allowed

    @property
    def _highest(self) -> int:
        return int(self._probe.last_id)

    @_highest.setter
    def _highest(self, last: int) -> None:
        self._probe.last_id = last


def _extra(fields: Sequence[tuple[str, str]]) -> bytes:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    return bytes(probe().encoded(fields=pairs))


def _ordinary(fields: Sequence[tuple[bytes, bytes]]) -> Headers:
    return tuple(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in fields
        if not name.startswith(b":")
    )


def _request(text: bytes, where: tuple[bytes, int], fields: list[Any]) -> Request:
    ip = ip_address(where[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    authority = TcpAddress(str(mapped or ip), where[1])
    return Request(authority, text.decode("latin-1"), _ordinary(fields))


def _event(event: tuple[Any, ...]) -> Event:
    """Say in Python's words what the compiled session has called."""
    match event:
        case ("request", stream, text, where, fields):
            return RequestReceived(stream, _request(text, where, fields))
        case ("refused", stream, status, why):
            code = ErrorCode(0 if status else probe().code(why))
            return RequestRefused(stream, probe().words(why), status or None, code)
        case ("answer", stream, status, ended, fields):
            return AnswerReceived(stream, status, _ordinary(fields), ended)
        case ("data", stream, data):
            return DataReceived(stream, data)
        case ("end", stream):
            return EndReceived(stream)
        case ("reset", stream, code, why, after_end):
            reason = probe().words(why) if why else None
            return ResetReceived(stream, ErrorCode.of(code), reason, after_end)
        case ("goaway", last, code, debug):
            return GoAwayReceived(last, ErrorCode.of(code), repr(debug)[2:-1])
        case ("pong",):
            return PongReceived()
        case ("settings",):
            return SettingsReceived()
    raise AssertionError(event)
