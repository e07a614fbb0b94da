"""Ports that are given to others."""

from __future__ import annotations

import socket

import pytest

from uproxy.errors import UproxyError
from uproxy.lab import ports
from uproxy.lab.ports import free_port, listens


def test_a_free_port_can_be_listened_at() -> None:
    port = free_port()
    assert not listens(port)
    with socket.create_server(("127.0.0.1", port)):
        assert listens(port)


def test_no_port_is_given_twice_nor_one_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    monkeypatch.setattr(ports, "_FIRST", first)
    monkeypatch.setattr(ports, "_LAST", first + 1)
    with pytest.raises(UproxyError, match=f"no port between {first} and {first + 1}"):
        free_port()
    monkeypatch.setattr(ports, "_given", set())
    with socket.create_server(("127.0.0.1", first)), pytest.raises(UproxyError, match="is free"):
        free_port()
    assert free_port() == first
