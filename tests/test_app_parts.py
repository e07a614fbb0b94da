"""What is wired to what when a uProxy is built."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from uproxy.app import parts as module
from uproxy.app.parts import Parts
from uproxy.config.settings import DestinationSettings, FilesIdentity, IdentitySettings, Settings
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import eventually
from uproxy.log import Log
from uproxy.model import Direction, TcpAddress, Transport
from uproxy.systemd import Listeners
from uproxy.transport.twin import TwinEngine


class Asked(TwinEngine):
    """Counts how often it is told that what doors say may have changed."""

    def __init__(self, _name: str, _workers: int | None) -> None:
        super().__init__()
        self.again = 0

    def ask_again(self) -> None:
        self.again += 1
        super().ask_again()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    authority = Authority("example.org")
    issued = authority.issue("/ns/shop/sa/orders")
    svid, key, bundle = (tmp_path / name for name in ("svid.pem", "svid.key", "bundle.pem"))
    svid.write_bytes(issued.pem)
    key.write_bytes(issued.key_pem)
    bundle.write_bytes(authority.pem)
    files = FilesIdentity(str(svid), str(key), {"example.org": str(bundle)})
    to = DestinationSettings("db", (TcpAddress("localhost", 1),), Transport.MTLS)
    return Settings(IdentitySettings(files=files), destinations={"db": to})


@pytest.fixture
async def parts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parts]:
    monkeypatch.setattr(module, "make_engine", Asked)
    made = Parts(settings, Log(settings.log, settings.name), Listeners({}), {})
    yield made
    await made.resolver.stop()
    await made.source.stop()
    await made.engine.stop()


def asked(parts: Parts) -> Callable[[], bool]:
    """Whether the engine has been told since."""
    engine = parts.engine
    assert isinstance(engine, Asked)
    before = engine.again
    return lambda: engine.again > before


async def test_an_identity_that_changes_makes_the_engine_ask_again(parts: Parts) -> None:
    told = asked(parts)
    await parts.source.start()
    assert parts.connections.in_force.credentials.svid is not None
    assert told()


async def test_a_reload_makes_the_engine_ask_again(parts: Parts, settings: Settings) -> None:
    told = asked(parts)
    parts.connections.configure(replace(settings, on_policy_change="keep"))
    assert told()


async def test_a_name_that_is_resolved_makes_the_engine_ask_again(parts: Parts) -> None:
    told = asked(parts)
    await parts.resolver.start()
    db = parts.destinations[Direction.OUTBOUND, "db"]
    await eventually(lambda: db.candidates(0.0), "localhost to be resolved")
    assert told()
