"""Netlink requests to the kernel's routing: rules, routes and addresses (rtnetlink(7)).

A socket belongs to the network namespace in which it was opened.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Final, Self

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR, _DONE = 2, 3
_REQUEST, _ACKNOWLEDGE, _DUMP = 0x1, 0x4, 0x300
NETFILTER: Final = 12
"""NETLINK_NETFILTER, the protocol of nftables and conntrack."""
CREATE_EXCLUSIVELY: Final = 0x600
"""NLM_F_CREATE | NLM_F_EXCL: EEXIST if it exists."""
CREATE_OR_REPLACE: Final = 0x500
"""NLM_F_CREATE | NLM_F_REPLACE."""
_LARGEST = 1 << 16
"""The size in bytes of the largest datagram from the kernel."""
_TYPE_BITS: Final = 0x3FFF
"""The bits of an attribute's 16-bit type field that are its type; the others are flags."""


Attributes = Mapping[int, bytes]


class Netlink:
    """One netlink socket; close it, or use it as a context manager."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def change(self, message: int, body: bytes, flags: int = 0) -> None:
        """Ask for a change and wait until it is made.

        Raises:
            OSError: the kernel's refusal.
        """
        self._send(message, flags | _ACKNOWLEDGE, body)
        for _ in self._receive():
            pass

    def dump(self, message: int, body: bytes) -> Iterator[bytes]:
        """Ask for all objects of a kind (NLM_F_DUMP) and yield the body of each message."""
        self._send(message, _DUMP, body)
        yield from self._receive()

    def _send(self, message: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        length = _HEADER.size + len(body)
        header = _HEADER.pack(length, message, flags | _REQUEST, self._sequence, 0)
        self._socket.send(header + body)

    def _receive(self) -> Iterator[bytes]:
        """Yield the bodies of the answer's messages, up to the one that ends it.

        Raises:
            OSError: the kernel answered with an error.
        """
        while True:
            data = self._socket.recv(_LARGEST)
            at = 0
            while at + _HEADER.size <= len(data):
                length, message, _, sequence, _ = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                at += _aligned(length)
                if sequence != self._sequence:
                    continue  # of a dump that nobody read to its end
                if message == _DONE:
                    return
                if message == _ERROR:
                    [code] = struct.unpack_from("=i", body)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                yield body


def attributes(values: Attributes) -> bytes:
    """Return attributes as a message has them: length, type, value, padded to four bytes."""
    return b"".join(
        (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value).ljust(
            _aligned(_ATTRIBUTE.size + len(value)), b"\0"
        )
        for kind, value in values.items()
    )


def read_attributes(data: bytes) -> dict[int, bytes]:
    """Return a message's attributes by type."""
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_BITS] = data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
