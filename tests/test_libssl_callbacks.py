"""What OpenSSL calls of Python is made when a session needs it; without it nobody is believed."""

from __future__ import annotations

import pytest

from tests.helpers.tls_sessions import PEER, plan, shake
from uproxy.errors import EngineError
from uproxy.libssl import Session, TlsError, callbacks, context_of
from uproxy.model import Role


def test_a_context_by_itself_believes_nobody() -> None:
    """Whoever forgets to judge a peer lets nobody in: the store is empty."""

    class Forgetful(Session):
        def _watch_handshake(self) -> None:
            self.asked = True

    client, server = (
        Forgetful(context_of(tls)) for tls in (plan(Role.CLIENT, PEER), plan(Role.SERVER))
    )
    with pytest.raises(TlsError):
        shake(client, server)


def test_where_code_may_not_be_made_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden:
        @staticmethod
        def callback(*_how: object, **_more: object) -> None:
            raise MemoryError("Cannot allocate write+execute memory")

    monkeypatch.setattr(callbacks, "ffi", Forbidden)
    with pytest.raises(EngineError, match=r"MemoryDenyWriteExecute=yes\): use engine: native"):
        callbacks.protocol_chooser([b"h2"])
