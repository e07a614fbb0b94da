"""What is true of a session and of a CONNECT, whatever a peer sends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.helpers.hbone_sessions import AUTHORITY, session, settings
from uproxy.hbone import frames, headers
from uproxy.hbone.codes import PREFACE, TunnelError
from uproxy.hbone.events import Broken, DataReceived, Event, RequestReceived, WindowOpened
from uproxy.hbone.headers import Decoder, Encoder, MalformedError, NotServedError
from uproxy.hbone.session import Session

_STREAMS = 3


def pieces(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut a stream into pieces of such lengths, and the rest."""
    cut = []
    for length in cuts:
        cut.append(stream[:length])
        stream = stream[length:]
    return [*cut, stream]


def begun(*, server: bool) -> tuple[Session, bytes]:
    """Return a session in which streams may be open, and what its peer says first."""
    subject = session(server=server, max_streams=_STREAMS, streams_per_connection=_STREAMS)
    if server:
        return subject, PREFACE + settings()
    for _ in range(_STREAMS):
        subject.send(subject.open(AUTHORITY), b"early")
    return subject, settings(MAX_CONCURRENT_STREAMS=_STREAMS) + frames.SETTINGS_ACK


def heard(said: Sequence[bytes], *, server: bool) -> tuple[list[Event], bytes]:
    """Return what a session makes of what a peer says, and its answers.  Events are as if there
    had been one piece: DATA in sequence is one, and windows aren't told."""
    subject, first = begun(server=server)
    events: list[Event] = []
    for piece in (first, *said):
        for event in subject.receive(piece, 0.0):
            if isinstance(event, DataReceived):
                add(events, event)
            elif not isinstance(event, WindowOpened):
                events.append(event)
    check_end(subject, events)
    return events, subject.take_output()


def add(events: list[Event], event: DataReceived) -> None:
    """Append bytes, or add them to the last event if that are bytes of the same stream."""
    before = events[-1] if events else None
    if isinstance(before, DataReceived) and before.stream == event.stream:
        events[-1] = DataReceived(event.stream, before.data + event.data)
    else:
        events.append(event)


def check_end(subject: Session, events: Sequence[Event]) -> None:
    """A tunnel breaks once, and then it is over."""
    ends = [at for at, event in enumerate(events) if isinstance(event, Broken)]
    assert ends in ([], [len(events) - 1])
    assert subject.held >= 0
    if ends:
        assert (subject.streams, subject.room) == (0, 0)
        assert subject.receive(frames.ping(bytes(8), ack=False), 0.0) == []
    else:
        assert subject.streams <= _STREAMS


def check_cuts(said: bytes, cuts: Iterable[int]) -> None:
    """However a stream is cut, a session of either role hears and answers the same."""
    for server in (True, False):
        whole = heard([said], server=server)
        assert heard(pieces(said, cuts), server=server) == whole, (server, said, cuts)


def check_connect(block: bytes) -> None:
    """Any header block is a request that says the same when it is written again, or is refused."""
    try:
        received = Decoder().decode(block)
    except TunnelError:
        return
    try:
        request = headers.read_request(received)
    except (MalformedError, NotServedError):
        return
    assert request.headers == tuple(each for each in received if not each[0].startswith(":"))
    assert request.authority.ip is not None
    assert headers.read_authority(str(request.authority)) == request.authority
    assert all(name == name.lower() and "\n" not in value for name, value in request.headers)
    again = Encoder().encode(headers.connect(request.authority_text, request.headers))
    # in latin-1 each byte is a character, in the UTF-8 of who writes some are two
    if again.isascii() or all(text.isascii() for header in received for text in header):
        assert headers.read_request(Decoder().decode(again)) == request


def check_request(block: bytes) -> None:
    """A server's session tells of a block what its parts do."""
    subject, first = begun(server=True)
    subject.receive(first, 0.0)
    events = subject.receive(frames.headers(1, block or b"\x20", end=False), 0.0)
    assert len(events) == 1
    assert isinstance(events[0], RequestReceived) == bool(subject.streams)
