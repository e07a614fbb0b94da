"""A stream of a tunnel, as a relay sees it (`side.Side`): CONNECT, DATA, END_STREAM, RST_STREAM.

Its end is END_STREAM each way, a reset is RST_STREAM.  Bytes that came before a reset are read
before it is reported.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from uproxy.contract import PeerSvid, Refusal, RefusedError, TlsFacts
from uproxy.hbone import events, statuses
from uproxy.hbone.codes import ErrorCode
from uproxy.libssl import Buffer
from uproxy.model import Outcome
from uproxy.transport import failures
from uproxy.transport.python.side import StreamRefusedError
from uproxy.transport.through import END_DELAY_ANSWERED_S

if TYPE_CHECKING:
    from uproxy.transport.python.side import Failure, OnReady
    from uproxy.transport.python.tls import TlsChannel


class Tunnel(Protocol):
    """What a stream asks of the tunnel that carries it."""

    @property
    def channel(self) -> TlsChannel: ...

    def has_unsent(self, side: StreamSide) -> bool:
        """Whether bytes of a stream are among those that the socket hasn't taken."""

    def refused_by(self, error: Failure, *, at_l7: bool) -> Refusal | None:
        """Return what its end means for a CONNECT that wasn't answered, if it is a refusal."""

    def answer(self, stream: int, status: int, *, end: bool = False) -> None:
        """Answer a CONNECT."""

    def send(self, side: StreamSide, data: Buffer) -> int:
        """Take what the windows allow of `data`; return how many bytes that is."""

    def finish(self, side: StreamSide) -> None:
        """Send the end of a stream."""

    def reset(self, stream: int, code: ErrorCode) -> None:
        """Abort a stream, in both directions."""

    def consumed(self, stream: int, count: int) -> None:
        """Give so many bytes of the window back to the peer."""

    def forget(self, stream: int) -> None:
        """Nobody reads or writes a stream any more."""


class StreamSide:
    """One stream: the downstream side of who called through the tunnel, or the upstream side
    towards whom we called through it (`is_ours`)."""

    __slots__ = (
        "_at_l7", "_end_delay", "_end_timer", "_ended", "_finishing_since", "_is_deaf", "_on_lost",
        "_on_ready", "_output", "_reading", "_received", "_tunnel", "answered", "failure",
        "finished", "is_ours", "is_stranded", "read_at", "stream",
        "wrote_at",
    )  # fmt: skip

    must_read_first = False
    shown = None  # the tunnel's handshake is long over: no alert of it comes here

    def __init__(
        self,
        tunnel: Tunnel,
        stream: int,
        *,
        is_ours: bool,
        at_l7: bool = False,
        end_delay: float = 0.0,
    ) -> None:
        """`at_l7`: the tunnel ends at an L7 proxy; `end_delay`: for how many seconds at most our
        END_STREAM waits for the peer's, since bytes were read last."""
        self.is_ours = is_ours
        """Whether we have opened it."""
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the CONNECT was answered with 200; fails with a RefusedError."""
        self.failure: Failure | None = None
        self.finished = False
        """Whether our end was handed to the session, behind all that was written."""
        self.is_stranded = False
        """Whether it was lost with its tunnel to an L7 proxy, and holds nothing that has come."""
        self.stream = stream
        """Its number on the tunnel."""
        self.read_at = 0.0
        """When bytes were read last, or had come when none waited; monotonic seconds."""
        self.wrote_at = 0.0
        """When bytes were written last; monotonic seconds."""
        self._tunnel = tunnel
        self._received: deque[bytes] = deque()
        self._ended = False  # the peer's END_STREAM has come
        self._output = bytearray()  # waits for the window
        self._at_l7 = at_l7
        self._finishing_since: float | None = None  # monotonic seconds
        self._end_delay = end_delay
        self._end_timer: asyncio.TimerHandle | None = None  # while our end waits
        self._is_deaf = False  # the peer wants no more bytes, and is content
        self._on_ready: OnReady | None = None
        self._on_lost: Callable[[OSError], None] | None = None
        self._reading = False

    # What a relay uses.

    @property
    def who(self) -> str:
        return self._tunnel.channel.who

    @property
    def unsent(self) -> int:
        return len(self._output) + self._tunnel.has_unsent(self)

    @property
    def undelivered(self) -> int:
        return 0  # a RST_STREAM goes the way of the bytes before it, and doesn't overtake them

    @property
    def pending(self) -> bool:
        return bool(self._received) or self._ended or self.failure is not None

    def read(self) -> Buffer | None:
        if self._received:
            data, self.read_at = self._received.popleft(), monotonic()
            self._tunnel.consumed(self.stream, len(data))
            return data
        if self._ended:
            return b""
        if self.failure is not None:
            raise self.failure
        return None

    def write(self, data: Buffer) -> None:
        if self.failure is not None:
            raise self.failure
        if not self._is_deaf:
            self.wrote_at = monotonic()
            self._output += data
            self._push()

    def finish(self, *, in_order: bool = True) -> None:
        if in_order:
            self._finishing_since = monotonic()
            self._push()
        else:
            self.reset()

    def want(self, reading: bool, _writing: bool, on_ready: OnReady) -> None:
        self._reading, self._on_ready = reading, on_ready

    # What a connection uses besides.

    @property
    def peer(self) -> PeerSvid | None:
        """The peer that the tunnel's handshake has verified."""
        return self._tunnel.channel.peer

    @property
    def facts(self) -> TlsFacts | None:
        """What the tunnel's handshake negotiated."""
        return self._tunnel.channel.facts

    @property
    def gone(self) -> Failure | None:
        """Why nothing more comes but what was received."""
        return self.failure

    def accept(self) -> None:
        """Answer the CONNECT with 200: bytes may pass."""
        if self.failure is None:
            self.answered.set_result(None)
            self._tunnel.answer(self.stream, statuses.CONNECTED)

    def refuse(self, why: Refusal) -> None:
        """Answer the CONNECT with the status of a refusal, or reset it so that the peer may try
        again elsewhere."""
        if self.failure is not None or self.answered.done():
            return
        status = statuses.status_of(why.outcome)
        if status is None:
            self._abort(ErrorCode.REFUSED_STREAM)
        else:
            self._tunnel.answer(self.stream, status, end=True)
            self.lose(OSError(errno.ECONNRESET, ""))

    def turn_away(self) -> None:
        """Reset it, so that the peer opens it elsewhere: nobody has looked at its CONNECT."""
        if self.failure is None:
            self._abort(ErrorCode.REFUSED_STREAM)
        self._tunnel.forget(self.stream)

    def watch_loss(self, on_lost: Callable[[OSError], None]) -> None:
        """Call back once if it is reset before it is relayed; raise RefusedError if it was."""
        if self.failure is not None:
            raise RefusedError(failures.broken(self.who, self.failure))
        self._on_lost = on_lost

    def has_unread(self) -> bool:
        """Whether bytes that were received wait."""
        return bool(self._received)

    def lose(self, error: Failure) -> None:
        """Note why it has failed; the first failure stays."""
        self.failure = self.failure or error
        self._output.clear()
        self._wait_no_more()

    def close(self) -> None:
        """Nobody reads or writes it any more; what was written is still sent."""
        self._wait_no_more()
        if self.failure is None:  # does nothing to a stream that has ended both ways, and was read
            self._tunnel.reset(self.stream, ErrorCode.NO_ERROR if self._ended else ErrorCode.CANCEL)
        self._tunnel.forget(self.stream)

    def reset(self) -> None:
        """Abort it in both directions (RFC 9113 §8.5)."""
        if self.failure is None:
            self._abort(ErrorCode.CANCEL if self.is_ours else ErrorCode.CONNECT_ERROR)
        self._tunnel.forget(self.stream)

    # What the tunnel says.

    def on_event(self, event: events.Event) -> bool:
        """Take what has happened to it; return whether unsent bytes could be sent."""
        match event:
            case events.DataReceived(data=data):
                if not self._received:
                    self.read_at = monotonic()
                self._received.append(data)
            case events.EndReceived():
                self._ended = True
                self._push()  # our end may have waited for this
            case events.AnswerReceived(status=status):
                self._on_answer(status)
            case events.ResetReceived():
                self._on_reset(event)
            case events.WindowOpened():
                return self.on_window()
        return False

    def _on_answer(self, status: int) -> None:
        """The answer to our CONNECT has come."""
        if self.answered.done():
            return
        if status == statuses.CONNECTED:
            self.answered.set_result(None)
        else:
            meaning = statuses.meaning_of(status, at_l7=self._at_l7)
            self._fail_answer(RefusedError(Refusal(*meaning)))

    def _on_reset(self, event: events.ResetReceived) -> None:
        """The peer has aborted it, or (NO_ERROR behind its end) wants no more bytes of ours."""
        code = event.code
        if event.is_orderly:
            self._is_deaf = self.finished = True
            self._output.clear()
            self._wait_no_more()
            return
        self.lose(OSError(errno.ECONNRESET, ""))
        kind = StreamRefusedError if code is ErrorCode.REFUSED_STREAM else RefusedError
        why = Refusal(*statuses.meaning_of_reset(code, at_l7=self._at_l7))
        if event.reason is not None and code is not ErrorCode.REFUSED_STREAM:
            why = failures.broke_http2(self.who, event.reason)
        self._fail_answer(kind(why))

    def on_stalled(self) -> None:
        """It holds bytes that nobody reads, at the cost of other streams."""
        self._received.clear()
        self._abort(ErrorCode.ENHANCE_YOUR_CALM)

    def on_window(self) -> bool:
        """There may be room for what is unsent; return whether some of it was sent."""
        before = len(self._output)
        self._push()
        return len(self._output) < before

    def on_tunnel_lost(self, error: Failure, reason: str) -> None:
        """The tunnel has ended.  A CONNECT without an answer is sent again elsewhere, because no
        byte has gone, unless the tunnel's end is a refusal."""
        self.is_stranded = self._at_l7 and self.failure is None and not self.pending
        self.lose(OSError(errno.ENOLINK, "") if failures.is_cut(error) else error)
        refused = self._tunnel.refused_by(error, at_l7=self._at_l7)
        if refused is not None:
            self._fail_answer(RefusedError(refused))
        why = f"{reason}: {failures.NO_TUNNELS}"
        self._fail_answer(StreamRefusedError(Refusal(Outcome.CONNECT_FAILED, why)))

    def report(self, *, sent: bool) -> None:
        """Tell the relay, or who waits for a loss, what has changed."""
        if self._on_ready is not None:
            self._on_ready(self._reading and self.pending, sent)
        elif self._on_lost is not None and self.failure is not None:
            on_lost, self._on_lost = self._on_lost, None
            failure = self.failure
            on_lost(failure if isinstance(failure, OSError) else OSError(errno.ENOLINK, ""))

    def _push(self) -> None:
        """Send what window and socket allow, then the end if it is due."""
        if self.failure is not None or self._is_deaf:
            return
        if self._output:
            del self._output[: self._tunnel.send(self, self._output)]
        since = self._finishing_since
        if since is None or self._output or self.finished or self._must_wait(since):
            return
        self.finished = True
        self._wait_no_more()
        self._tunnel.finish(self)

    def _must_wait(self, since: float) -> bool:
        """Whether our end, which was due at `since`, has to wait for the peer's; if so, look again
        in time.  An L7 proxy that gets our end while a request is in flight drops the answer; who
        has sent nothing has asked for none."""
        if not self._end_delay or self._ended or not self.wrote_at:
            return False
        due = max(since, self.read_at) + self._end_delay
        if self.read_at >= self.wrote_at:
            due = self.read_at + min(self._end_delay, END_DELAY_ANSWERED_S)
        left = due - monotonic()
        if left <= 0:
            return False
        self._wait_no_more()
        self._end_timer = asyncio.get_running_loop().call_later(left, self._push)
        return True

    def _wait_no_more(self) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None

    def _abort(self, code: ErrorCode) -> None:
        self._tunnel.reset(self.stream, code)
        self.lose(OSError(errno.ECONNRESET, ""))

    def _fail_answer(self, error: RefusedError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
            self.answered.exception()  # who waited may be gone
