"""Header blocks of a CONNECT and of its answer (RFC 9113 §8, RFC 7541).

Blocks that we send leave the peer's dynamic table alone, so that the same request is the same bytes
whenever it is sent.  What is received is judged by the rules of §8.2 and §8.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import hpack
from hpack.hpack import encode_integer

from uproxy.hbone.budgets import (
    MAX_HEADER_LIST_BYTES,
    MAX_TABLE_UPDATES,
    Flood,
    FloodError,
)
from uproxy.hbone.codes import HEADER_TABLE_BYTES, ErrorCode, TunnelError
from uproxy.hbone.events import Headers, Request
from uproxy.model import TcpAddress

CALLER = "x-uproxy-caller"
"""With it an L7 proxy names, on its CONNECT, the SPIFFE ID of the caller for which it connects."""
PROOF = "x-uproxy-proof"
"""With it a caller proves, on a CONNECT, who it is to whom an L7 proxy connects for it: a
JWT-SVID."""

_UPDATE = 0x20
"""The first bits of a change of the dynamic table's size (RFC 7541 §6.3)."""
_UPDATE_MASK = 0xE0
_UPDATE_VALUE = 0x1F
_NEVER_INDEXED = True

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""A token without capitals (§8.2.1)."""
_VALUE = re.compile(r"(?![ \t])[^\x00\r\n]*(?<![ \t])")
"""§8.2.1."""
_STATUS = re.compile(r"[1-5][0-9][0-9]")
_AUTHORITY = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})")
"""An IP address as it is in URLs, and a port."""
_OF_ONE_CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
"""Headers that HTTP/2 doesn't have (§8.2.2)."""
_SHOWN_CHARACTERS = 80


class MalformedError(ValueError):
    """Headers break a rule of §8, which ends the stream with PROTOCOL_ERROR."""


class NotServedError(ValueError):
    """A request is well formed and isn't one that a tunnel is for; the answer is 400."""


class Decoder:
    """Header blocks into names and values, with the dynamic table of one tunnel."""

    def __init__(self) -> None:
        self._hpack = hpack.Decoder(MAX_HEADER_LIST_BYTES)

    def decode(self, block: bytes) -> list[tuple[str, str]]:
        """Return the headers of a whole block; each byte is a character.

        Raises:
            FloodError: They are longer than MAX_HEADER_LIST_BYTES.
            TunnelError: The block can't be decoded; nor can those that follow.
        """
        _check_updates(block)
        try:
            decoded = self._hpack.decode(block, raw=True)
        except hpack.OversizedHeaderListError as error:
            raise FloodError(Flood.HEADERS) from error
        except hpack.HPACKError as error:
            reason = f"a header block can't be decoded: {error}"[:_SHOWN_CHARACTERS]
            raise TunnelError(ErrorCode.COMPRESSION_ERROR, reason) from error
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in decoded]


def _check_updates(block: bytes) -> None:
    """Refuse a block that changes the table's size over and over."""
    at = updates = 0
    while at < len(block) and block[at] & _UPDATE_MASK == _UPDATE:
        updates += 1
        if updates > MAX_TABLE_UPDATES:
            raise FloodError(Flood.HEADERS)
        at += 1
        if block[at - 1] & _UPDATE_VALUE == _UPDATE_VALUE:  # the number goes on
            while at < len(block) and block[at] & 0x80:
                at += 1
            at += 1


class Encoder:
    """Names and values into header blocks that the peer's dynamic table has no part in."""

    def __init__(self) -> None:
        self._smallest = self._size = self._said = HEADER_TABLE_BYTES

    def resize(self, size: int) -> None:
        """The peer's SETTINGS allow its dynamic table a size; a smaller one must be confirmed in
        the next block (RFC 7541 §4.2), a larger one isn't used."""
        self._size = min(size, HEADER_TABLE_BYTES)
        self._smallest = min(self._smallest, self._size)

    def encode(self, headers: Iterable[tuple[str, str]]) -> bytes:
        """Return a block with such headers."""
        fields = ((name, value, _NEVER_INDEXED) for name, value in headers)
        return self._updates() + _HPACK.encode(fields, huffman=False)

    def _updates(self) -> bytes:
        sizes = [self._smallest] if self._smallest < min(self._said, self._size) else []
        if sizes or self._size != self._said:
            sizes.append(self._size)
        self._smallest = self._said = self._size
        return b"".join(_update(size) for size in sizes)


_HPACK = hpack.Encoder()
"""Shared, because what is never indexed leaves no trace in it."""


def _update(size: int) -> bytes:
    encoded = encode_integer(size, 5)
    encoded[0] |= _UPDATE
    return bytes(encoded)


def connect(authority: str, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of a CONNECT: Envoy refuses one with `:scheme` or `:path`."""
    return [(":method", "CONNECT"), (":authority", authority), *headers]


def answer(status: int, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of an answer."""
    return [(":status", str(status)), *headers]


def read_request(received: list[tuple[str, str]]) -> Request:
    """Judge the headers of a request.

    Raises:
        MalformedError: They break a rule of HTTP/2, or of an ordinary CONNECT (§8.5).
        NotServedError: It isn't a CONNECT, or not one to an IP address and a port.
    """
    pseudo, headers = _split(received, {":method", ":authority", ":scheme", ":path", ":protocol"})
    method = pseudo.get(":method")
    if not method:
        raise MalformedError("a request has no :method")
    if method != "CONNECT":
        if ":scheme" not in pseudo or ":path" not in pseudo:
            raise MalformedError(f"a {_shown(method)} has no :scheme or no :path")
        raise NotServedError(f"a tunnel carries CONNECT, not {_shown(method)}")
    if ":protocol" in pseudo:
        raise MalformedError("this is no extended CONNECT: it may have no :protocol")
    if pseudo.keys() != {":method", ":authority"}:
        raise MalformedError("a CONNECT has :method and :authority, no more and no less")
    text = pseudo[":authority"]
    if not text:
        raise MalformedError(":authority is empty")
    if any(name == "host" and value.lower() != text.lower() for name, value in headers):
        raise MalformedError("host says something else than :authority")
    authority = read_authority(text)
    if authority is None:
        reason = f":authority {_shown(text)} isn't an IP address and a port, as in 192.0.2.1:8080"
        raise NotServedError(reason)
    return Request(authority, text, headers)


def read_authority(text: str) -> TcpAddress | None:
    """Return the address in an `:authority`; None if it isn't an IP address and a port."""
    found = _AUTHORITY.fullmatch(text)
    if found is None or not 0 < int(found[3]) < 1 << 16:
        return None
    try:
        ip = IPv6Address(found[1]) if found[1] else IPv4Address(found[2])
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return TcpAddress(str(mapped or ip), int(found[3]))


def read_answer(received: list[tuple[str, str]]) -> tuple[int, Headers]:
    """Return the status and the other headers of an answer.

    Raises:
        MalformedError: They break a rule of HTTP/2.
    """
    pseudo, headers = _split(received, {":status"})
    status = pseudo.get(":status", "")
    if not _STATUS.fullmatch(status) or status == "101":
        raise MalformedError(f"an answer has the :status {_shown(status)}")
    return int(status), headers


def check_trailers(received: list[tuple[str, str]]) -> None:
    """Judge the headers after the data, which nobody reads.

    Raises:
        MalformedError: They break a rule of HTTP/2.
    """
    _split(received, set())


def _split(received: list[tuple[str, str]], known: set[str]) -> tuple[dict[str, str], Headers]:
    """Return the pseudo-headers, and those that follow (§8.3)."""
    pseudo: dict[str, str] = {}
    headers: list[tuple[str, str]] = []
    for name, value in received:
        if not _VALUE.fullmatch(value):
            raise MalformedError(f"the value of {_shown(name)} has characters that it may not have")
        if name.startswith(":"):
            if name not in known or name in pseudo or headers:
                raise MalformedError(f"the pseudo-header {_shown(name)} is out of place")
            pseudo[name] = value
        else:
            _check(name, value)
            headers.append((name, value))
    return pseudo, tuple(headers)


def _check(name: str, value: str) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedError(f"{_shown(name)} is no name of a header")
    if name in _OF_ONE_CONNECTION or (name == "te" and value.lower() != "trailers"):
        raise MalformedError(f"HTTP/2 has no header {name}")


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_CHARACTERS])
