"""What a session tells its caller about the other end of a tunnel."""

from __future__ import annotations

from dataclasses import dataclass, field

from uproxy.hbone.budgets import Flood
from uproxy.hbone.codes import ErrorCode
from uproxy.model import TcpAddress

Headers = tuple[tuple[str, str], ...]
"""Names and values in the order received, without pseudo-headers; a name may be there twice."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a CONNECT says; nothing of it is proven."""

    authority: TcpAddress
    """Where to connect to: an IP address in canonical form, IPv4-mapped ones as IPv4."""
    authority_text: str
    """The same as it was received."""
    headers: Headers = field(default=(), repr=False)
    """Those beside the ones that it must have; a token may be among them."""


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A client opened a stream; it waits for `Session.answer`."""

    stream: int
    request: Request


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A client's request was answered, or reset, by the session itself."""

    stream: int
    reason: str
    status: int | None = None
    """The status it was answered with; None: it was reset."""
    code: ErrorCode = ErrorCode.NO_ERROR
    """What it was reset with."""


@dataclass(frozen=True, slots=True)
class AnswerReceived:
    """A server answered our CONNECT."""

    stream: int
    status: int
    headers: Headers = ()
    ended: bool = False
    """The server sends nothing more; `EndReceived` follows."""


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Bytes arrived; `Session.consumed` is to be called when they went on."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class EndReceived:
    """The peer sends nothing more on this stream, to which we still may send."""

    stream: int


@dataclass(frozen=True, slots=True)
class ResetReceived:
    """The stream is over in both directions: nothing can be sent on it.  What it holds may still be
    consumed."""

    stream: int
    code: ErrorCode
    """The peer's; or ours, where `reason` says which rule the peer broke."""
    reason: str | None = None
    """None: the peer said no more than the code."""
    after_end: bool = False
    """The peer had ended its side before."""

    @property
    def is_orderly(self) -> bool:
        """Whether it only says that the peer takes no more, having sent everything, as Envoy does
        (RFC 9113 §8.1).  Everything else means that its connection was aborted."""
        return self.reason is None and self.after_end and self.code is ErrorCode.NO_ERROR


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """There is room to send where there was none."""

    stream: int
    """0: on the tunnel, so perhaps on every stream."""


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """The peer takes no new streams.  Those of ours above `last_stream`, which it never looked at,
    follow as `ResetReceived` with REFUSED_STREAM; the others go on."""

    last_stream: int
    code: ErrorCode
    debug: str


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The last PING was answered."""


@dataclass(frozen=True, slots=True)
class SettingsReceived:
    """The peer's SETTINGS are in force; `room` may have changed."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The peer broke a rule that ends the tunnel.  The GOAWAY that says so is to be sent; nothing
    is received any more."""

    code: ErrorCode
    reason: str
    flood: Flood | None = None
    """Of what there was too much; None: another rule."""


Event = (
    RequestReceived
    | RequestRefused
    | AnswerReceived
    | DataReceived
    | EndReceived
    | ResetReceived
    | WindowOpened
    | GoAwayReceived
    | PongReceived
    | SettingsReceived
    | Broken
)


class Told:
    """Events in the order in which they happened; DATA of one stream without anything between is
    one event, however many frames it came in."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stream = 0
        self._pieces: list[bytes] = []

    def add(self, event: Event) -> None:
        """Something happened."""
        self._flush()
        self._events.append(event)

    def add_data(self, stream: int, data: bytes) -> None:
        """Bytes arrived on a stream."""
        if stream != self._stream:
            self._flush()
            self._stream = stream
        self._pieces.append(data)

    def take(self) -> list[Event]:
        """Return what happened, once."""
        self._flush()
        events, self._events = self._events, []
        return events

    def _flush(self) -> None:
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._events.append(DataReceived(self._stream, data))
            self._pieces = []
        self._stream = 0
