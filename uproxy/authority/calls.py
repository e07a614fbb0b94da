"""What the server answers on one gRPC call, whatever the method; no I/O.

A method makes an `Answering` for each call; the server tells it when the call begins, what the
client sends, and when the authority's contents have changed, and does what each `Reply` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from uproxy.errors import UproxyError
from uproxy.identity.workload_api.framing import Status


class CallRefusedError(UproxyError):
    """A call ends with a gRPC status that isn't OK; the message is the client's to read."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


def no_identity() -> CallRefusedError:
    """Return the refusal of whoever matches no entry."""
    return CallRefusedError(Status.PERMISSION_DENIED, "no identity issued")


@dataclass(frozen=True, slots=True)
class Reply:
    """What to send, and how to end the call then."""

    message: bytes | None = None
    end: tuple[Status, str] | None = None
    """None: it stays open."""


NOTHING: Final = Reply()


class Answering(Protocol):
    """One call."""

    def started(self) -> Reply:
        """The client has called; its request may follow."""

    def received(self, message: bytes) -> Reply:
        """The client has sent a message."""

    def changed(self) -> Reply:
        """The authority's contents may have changed."""


class Watch:
    """Sends a message at once, and again whenever it changes; the request is empty."""

    def __init__(self, handout: Callable[[], bytes | None]) -> None:
        """`handout` returns the message as it is now; None: the caller has no identity."""
        self._handout = handout
        self._sent: bytes | None = None

    def started(self) -> Reply:
        return self.changed()

    def received(self, message: bytes) -> Reply:  # noqa: ARG002  it says nothing
        return NOTHING

    def changed(self) -> Reply:
        message = self._handout()
        if message is None:
            return ending(no_identity())
        if message == self._sent:
            return NOTHING
        self._sent = message
        return Reply(message)


class Once:
    """Answers one request with one message."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        """`answer` may raise CallRefusedError."""
        self._answer = answer

    def started(self) -> Reply:
        return NOTHING

    def received(self, message: bytes) -> Reply:
        try:
            return Reply(self._answer(message), (Status.OK, ""))
        except CallRefusedError as error:
            return ending(error)

    def changed(self) -> Reply:
        return NOTHING


def ending(error: CallRefusedError) -> Reply:
    """Return the reply that ends a call by an error."""
    return Reply(None, (error.status, str(error)))
