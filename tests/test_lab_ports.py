"""Ports that are given to others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import deque

import pytest

from uproxy.errors import UproxyError
from uproxy.lab import ports
from uproxy.lab.ports import free_port, listens


def test_a_free_port_can_be_listened_at() -> None:
    port = free_port()
    assert not listens(port)
    with socket.create_server(("127.0.0.1", port)):
        assert listens(port)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Leave this process one port, which nothing listens at; return it."""
    port = free_port()
    monkeypatch.setattr(ports, "_FIRST", port)
    monkeypatch.setattr(ports, "_LAST", port + 1)
    monkeypatch.setattr(ports, "_left", [])
    monkeypatch.setattr(ports, "_claims", deque())
    return port


def test_no_port_is_given_that_is_taken(few: int) -> None:
    with (
        socket.create_server(("127.0.0.1", few)),
        pytest.raises(UproxyError, match=f"no port between {few} and {few + 1} of 127.0.0.1 is"),
    ):
        free_port()


def test_a_port_is_of_one_process_alone_though_nothing_listens_yet(few: int) -> None:
    asks = f"from uproxy.lab import ports; ports._FIRST, ports._LAST = {few}, {few + 1}\n"
    asks += "print(ports.free_port(), flush=True); input()"
    argv = [sys.executable, "-c", asks]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert int(other.stdout.readline()) == few
        with pytest.raises(UproxyError, match="is free"):
            free_port()
        other.communicate("\n")
    assert free_port() == few


def test_the_last_ports_of_a_process_all_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_BLOCK", 2)
    monkeypatch.setattr(ports, "_left", [])
    monkeypatch.setattr(ports, "_claims", deque())
    given = [free_port() for _ in range(16)]
    assert len(set(given)) == 16
    assert len(ports._claims) == 8
    free_port()
    assert len(ports._claims) == 8
    for claim in ports._claims:
        os.close(claim)
