"""What is answered on a call, and when."""

from __future__ import annotations

from uproxy.authority.calls import NOTHING, CallRefusedError, Once, Reply, Watch, no_identity
from uproxy.identity.workload_api.framing import Status


def test_a_watch_sends_at_once_and_then_what_has_changed() -> None:
    contents: list[bytes | None] = [b"one"]
    watch = Watch(lambda: contents[-1])
    assert watch.started() == Reply(b"one")
    assert watch.received(b"") is NOTHING
    assert watch.changed() is NOTHING
    contents.append(b"two")
    assert watch.changed() == Reply(b"two")
    contents.append(None)
    assert watch.changed() == Reply(None, (Status.PERMISSION_DENIED, "no identity issued"))


def test_a_request_is_answered_once() -> None:
    once = Once(lambda request: request.upper())
    assert once.started() is NOTHING
    assert once.changed() is NOTHING
    assert once.received(b"a") == Reply(b"A", (Status.OK, ""))


def test_a_refusal_ends_the_call() -> None:
    def refuse(request: bytes) -> bytes:
        raise CallRefusedError(Status.INVALID_ARGUMENT, request.decode())

    def deny(_request: bytes) -> bytes:
        raise no_identity()

    assert Once(refuse).received(b"why") == Reply(None, (Status.INVALID_ARGUMENT, "why"))
    assert Once(deny).received(b"").end == (Status.PERMISSION_DENIED, "no identity issued")
