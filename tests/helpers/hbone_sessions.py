"""The ends of tunnels without a network: sessions, and peers that say whatever a test wants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import hpack

from uproxy.hbone import frames
from uproxy.hbone.codes import END_HEADERS, END_STREAM, PREFACE, FrameType, Setting
from uproxy.hbone.events import Broken, DataReceived, Event
from uproxy.hbone.frames import Frame, Splitter
from uproxy.hbone.session import Session
from uproxy.model import TunnelSettings

AUTHORITY = "192.0.2.1:8080"
CONNECT = ((":method", "CONNECT"), (":authority", AUTHORITY))


def session(*, server: bool = True, now: float = 0.0, **settings: int) -> Session:
    """Return a new session with such settings."""
    return Session(server=server, settings=TunnelSettings(**settings), now=now)


class Pair:
    """A client and a server that talk with each other."""

    def __init__(self, **settings: int) -> None:
        self.client = session(server=False, **settings)
        self.server = session(server=True, **settings)
        self.pump()

    def pump(self) -> tuple[list[Event], list[Event]]:
        """Carry bytes until nobody has any; return what client and server have heard."""
        heard: tuple[list[Event], list[Event]] = ([], [])
        while self.client.has_output or self.server.has_output:
            heard[1].extend(self.server.receive(self.client.take_output(), 0.0))
            heard[0].extend(self.client.receive(self.server.take_output(), 0.0))
        return heard

    def open(self) -> int:
        """Open a stream, answered with 200."""
        stream = self.client.open(AUTHORITY)
        self.pump()
        self.server.answer(stream, 200)
        self.pump()
        return stream


class Peer:
    """A peer of one session, in frames that a test writes itself."""

    def __init__(self, subject: Session, *, server: bool) -> None:
        self.subject = subject
        self.now = 0.0
        self._splitter = Splitter(server=server)
        self._coder = hpack.Encoder()
        self.said: list[Frame] = []
        """What the session has said until now."""
        self.say(b"" if server else PREFACE, frames.settings([]), frames.SETTINGS_ACK)
        self.hear()

    def say(self, *said: bytes) -> list[Event]:
        """Send bytes in one piece; return what the session makes of them."""
        return self.subject.receive(b"".join(said), self.now)

    def hear(self) -> list[Frame]:
        """Return the frames that the session sends."""
        heard = list(self._splitter.split(self.subject.take_output()))
        self.said += heard
        return heard

    def block(self, headers: Iterable[tuple[str, str]] = CONNECT) -> bytes:
        """Return a header block, which uses the dynamic table."""
        return self._coder.encode(list(headers))

    def headers(
        self, stream: int, headers: Iterable[tuple[str, str]] = CONNECT, *, end: bool = False
    ) -> bytes:
        """Return HEADERS with such headers."""
        return frames.headers(stream, self.block(headers), end=end)

    def connect(self, stream: int = 1, *, answered: bool = True) -> list[Event]:
        """Open a stream on a server."""
        events = self.say(self.headers(stream))
        if answered:
            self.subject.answer(stream, 200)
            self.hear()
        return events


def client_of(subject: Session) -> Peer:
    """Return a client of a server's session."""
    return Peer(subject, server=False)


def server_of(subject: Session) -> Peer:
    """Return a server of a client's session."""
    return Peer(subject, server=True)


def data(stream: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    """Return DATA."""
    return frames.frame(FrameType.DATA, END_STREAM if end else 0, stream, payload)


def padded(stream: int, payload: bytes, padding: int, kind: int = FrameType.DATA) -> bytes:
    """Return DATA or HEADERS with so much padding."""
    flags = 0x8 | (END_HEADERS if kind == FrameType.HEADERS else 0)
    return frames.frame(kind, flags, stream, bytes([padding]) + payload + bytes(padding))


def settings(**values: int) -> bytes:
    """Return SETTINGS by their names."""
    return frames.settings([(Setting[name], value) for name, value in values.items()])


def kinds(heard: Sequence[Frame]) -> list[str]:
    """Return what frames are called."""
    return [frames.name(each) for each in heard]


def broken(events: Sequence[Event]) -> Broken:
    """Return the end of a tunnel, which must be the last event and the only one of its kind."""
    ends = [event for event in events if isinstance(event, Broken)]
    assert ends == list(events[-1:]), events
    return ends[0]


def bytes_of(events: Iterable[Event], stream: int) -> bytes:
    """Return the bytes that arrived on a stream."""
    return b"".join(
        event.data for event in events if isinstance(event, DataReceived) and event.stream == stream
    )
