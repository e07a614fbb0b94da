"""The admin listeners open as configured, and an address that can't be had is named."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.helpers.admin import FakeFacts
from uproxy.app.administration import Administration
from uproxy.config.settings import AdminSettings
from uproxy.errors import UproxyError
from uproxy.lab.ports import free_port
from uproxy.model import SystemdAddress, TcpAddress, UnixAddress
from uproxy.proxy.admin.sources import Sources
from uproxy.systemd import PassedSockets


def answers(port: int, path: str) -> bytes:
    """The status line of a GET."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return client.recv(4096).split(b"\r\n")[0]


async def test_each_listener_answers_for_its_surface(tmp_path: Path) -> None:
    ready, path = free_port(), tmp_path / "admin.sock"
    administration = Administration(Sources(FakeFacts(), FakeFacts), PassedSockets({}))
    administration.open(AdminSettings(UnixAddress(str(path)), None, TcpAddress("127.0.0.1", ready)))
    await administration.start()
    assert path.is_socket()
    assert b"200" in await asyncio.to_thread(answers, ready, "/livez")
    assert b"404" in await asyncio.to_thread(answers, ready, "/connections")
    await administration.close()
    assert not path.exists()


async def test_unix_sockets_have_the_mode_and_owner_that_are_configured(tmp_path: Path) -> None:
    owner = f"{os.getuid()}:{os.getgid()}"
    paths = [tmp_path / name for name in ("admin", "metrics", "ready")]
    administration = Administration(Sources(FakeFacts(), FakeFacts), PassedSockets({}))
    first, second, third = (UnixAddress(str(path)) for path in paths)
    administration.open(AdminSettings(first, second, third, 0o620, owner))
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o620}
    await administration.close()
    with pytest.raises(UproxyError, match=r"admin \(listen\): owner 'no-such-user'"):
        administration.open(AdminSettings(first, None, None, owner="no-such-user"))


@pytest.mark.privileged
async def test_unix_sockets_are_given_to_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    administration = Administration(Sources(FakeFacts(), FakeFacts), PassedSockets({}))
    administration.open(AdminSettings(UnixAddress(str(path)), None, None, owner="1234:4321"))
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)
    await administration.close()


async def test_an_address_in_use_names_the_listener_it_was_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = TcpAddress("127.0.0.1", other.getsockname()[1])
        administration = Administration(Sources(FakeFacts(), FakeFacts), PassedSockets({}))
        with pytest.raises(
            UproxyError, match=r"admin \(metrics\): 127\.0\.0\.1:.* is in use"
        ) as no:
            administration.open(AdminSettings(None, taken, None))
        assert str(no.value).endswith("each uProxy of a machine needs its own; null does without")
        await administration.close()


async def test_an_admin_socket_of_systemd_must_be_local() -> None:
    with socket.create_server(("0.0.0.0", 0)) as wide:
        administration = Administration(
            Sources(FakeFacts(), FakeFacts), PassedSockets({"admin": (wide.fileno(),)})
        )
        with pytest.raises(UproxyError, match="reachable from other machines"):
            administration.open(AdminSettings(SystemdAddress("admin"), None, None))
        await administration.close()
