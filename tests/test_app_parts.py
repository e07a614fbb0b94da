"""What is wired to what when a uProxy is built."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from uproxy.app import parts as module
from uproxy.app.doors import socket_plans
from uproxy.app.parts import Parts
from uproxy.config.settings import (
    DestinationSettings,
    FilesIdentity,
    IdentitySettings,
    OutboundSettings,
    Settings,
)
from uproxy.contract import Door
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import eventually
from uproxy.log import Log
from uproxy.model import TcpAddress, Transport
from uproxy.systemd import PassedSockets
from uproxy.transport.python import PythonEngine


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
    door = OutboundSettings(TcpAddress("127.0.0.1", free_port()), "db")
    identity = IdentitySettings(files=files)
    return Settings(identity, outbound=(door,), destinations={"db": to})


@pytest.fixture
async def parts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parts]:
    monkeypatch.setattr(module, "make_engine", lambda _name, _workers: PythonEngine())
    made = Parts(settings, Log(settings.log, settings.name), PassedSockets({}), {})
    yield made
    await made.resolver.stop()
    await made.source.stop()
    await made.engine.stop()


def in_force(parts: Parts) -> Door | None:
    """The door that the listener has, which must be the registry's snapshot's."""
    [opened] = parts.doors._open.values()  # nobody else asks for it
    return opened[1]


async def open_all(parts: Parts) -> Door:
    parts.current.put(parts.snapshot, parts.doors.open_new(socket_plans(parts.snapshot.settings)))
    door = in_force(parts)
    assert door is not None
    return door


async def test_an_identity_that_changes_gives_every_listener_another_door(parts: Parts) -> None:
    before = await open_all(parts)
    await parts.source.start()
    assert parts.snapshot.credentials.svid is not None
    assert in_force(parts) is not before


async def test_a_reload_gives_every_listener_another_door(parts: Parts) -> None:
    before, revision = await open_all(parts), parts.snapshot.revision
    settings = replace(parts.snapshot.settings, on_policy_change="keep")
    parts.current.put(parts.snapshot.with_settings(settings))
    assert in_force(parts) is not before
    assert parts.snapshot.revision > revision


async def test_a_name_that_is_resolved_gives_every_listener_another_door(parts: Parts) -> None:
    before = await open_all(parts)
    parts.resolver.start()
    await eventually(lambda: parts.snapshot.records, "localhost to be resolved")
    assert in_force(parts) is not before
    assert parts.snapshot.destinations["db"].addresses.listed
