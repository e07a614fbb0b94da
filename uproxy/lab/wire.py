"""TLS as it can be read on a wire: records, the two hellos, and what only counts (RFC 8446).

It decrypts nothing and knows no socket.  Rules: what isn't TLS as the RFC writes it is a
WireError, never a guess; every length is checked; a record that hasn't arrived whole is
left alone.  So what it reports was read from the bytes, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from uproxy.errors import UproxyError

_T = TypeVar("_T")

CHANGE_CIPHER_SPEC = 20
HANDSHAKE = 22
APPLICATION_DATA = 23

VERSIONS = {0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}
GROUPS = {0x0017: "P-256", 0x001D: "X25519", 0x11EC: "X25519MLKEM768"}
CIPHERS = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
}
"""By the numbers of IANA's TLS registries; the ones that uProxy offers by default."""

_RECORD_TYPES = {CHANGE_CIPHER_SPEC, 21, HANDSHAKE, APPLICATION_DATA}
_RECORD_VERSIONS = {0x0301, 0x0303}  # 0x0301 in a first ClientHello only (RFC 8446 §5.1)
_MAX_RECORD = 2**14 + 256
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_SUPPORTED_VERSIONS, _KEY_SHARE = 43, 51
_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


class WireError(UproxyError):
    """The bytes aren't what RFC 8446 says they would be."""


@dataclass(frozen=True, slots=True)
class Record:
    """One TLS record as it was sent."""

    type: int
    version: int
    body: bytes


@dataclass(frozen=True, slots=True)
class KeyShare:
    """A key exchange group, by its number in IANA's registry, and the bytes spent on it."""

    group: int
    size: int


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What the caller offers."""

    versions: tuple[int, ...]
    """Of `supported_versions`; empty without that extension."""
    shares: tuple[KeyShare, ...]


@dataclass(frozen=True, slots=True)
class ServerHello:
    """What the other end chose."""

    version: int
    """Of `supported_versions`, or the field that came before it."""
    cipher: int
    share: KeyShare


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a captured connection says about itself."""

    client: ClientHello
    server: ServerHello
    sealed_records: int
    """Records of application data, both ways; in TLS 1.3 certificates are in such records too."""
    sealed_bytes: int

    @property
    def agreed(self) -> tuple[KeyShare, KeyShare]:
        """The key shares, there and back, that the connection's secret comes from.

        Raises:
            WireError: the server chose a group that it had no share of.
        """
        group = self.server.share.group
        for share in self.client.shares:
            if share.group == group:
                return share, self.server.share
        raise WireError(f"the server chose the group {group:#06x}, which wasn't offered")


def read_conversation(from_client: bytes, from_server: bytes) -> Conversation:
    """Read both directions of one connection from their first byte on.

    Raises:
        WireError: they aren't TLS, or their hellos can't be read.
    """
    client_hello, client_rest = _split(read_records(from_client))
    server_hello, server_rest = _split(read_records(from_server))
    client, server = read_client_hello(client_hello), read_server_hello(server_hello)
    sealed = [len(one.body) for one in (*client_rest, *server_rest) if _is_sealed(one)]
    return Conversation(client, server, sealed_records=len(sealed), sealed_bytes=sum(sealed))


def read_records(data: bytes) -> tuple[Record, ...]:
    """Every whole record (RFC 8446 §5.1).

    Raises:
        WireError: something that isn't a record.
    """
    return tuple(_records(data))


def read_client_hello(message: bytes) -> ClientHello:
    """A ClientHello with its header (RFC 8446 §4.1.2).

    Raises:
        WireError: it isn't one.
    """
    body = _body(message, _CLIENT_HELLO)
    body.take(2 + 32)  # legacy_version, random
    body.vector(1)  # legacy_session_id
    body.vector(2)  # cipher_suites
    body.vector(1)  # legacy_compression_methods
    extensions = _extensions(body)
    offered = _Bytes(extensions.get(_SUPPORTED_VERSIONS, b"\0")).vector(1)
    shares = _Bytes(extensions.get(_KEY_SHARE, b"\0\0")).vector(2)
    return ClientHello(
        versions=tuple(_each(offered, lambda one: one.number(2))),
        shares=tuple(_each(shares, _key_share)),
    )


def read_server_hello(message: bytes) -> ServerHello:
    """A ServerHello with its header (RFC 8446 §4.1.3).

    Raises:
        WireError: it isn't one, or asks the client to try again.
    """
    body = _body(message, _SERVER_HELLO)
    version = body.number(2)
    if body.take(32) == _RETRY_RANDOM:
        raise WireError("a HelloRetryRequest stands where a ServerHello was expected")
    body.vector(1)  # legacy_session_id_echo
    cipher = body.number(2)
    body.take(1)  # legacy_compression_method
    extensions = _extensions(body)
    if _KEY_SHARE not in extensions:
        raise WireError("the ServerHello has no key share: this isn't TLS 1.3")
    if _SUPPORTED_VERSIONS in extensions:
        version = _whole(extensions[_SUPPORTED_VERSIONS], lambda one: one.number(2))
    return ServerHello(version, cipher, _whole(extensions[_KEY_SHARE], _key_share))


class _Bytes:
    """Takes bytes from the front, never more than there are."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise WireError(f"{count} bytes were announced, {self.left} are there")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes behind a length of `size` bytes (RFC 8446 §3.4)."""
        return self.take(self.number(size))

    def end(self) -> None:
        if self.left:
            raise WireError(f"{self.left} bytes too many")


def _records(data: bytes) -> Iterator[Record]:
    at = 0
    while len(data) - at >= 5:
        kind, version = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if kind not in _RECORD_TYPES or version not in _RECORD_VERSIONS or length > _MAX_RECORD:
            raise WireError(f"no TLS record at byte {at}: {data[at : at + 5].hex()}")
        if length > len(data) - at - 5:
            return
        yield Record(kind, version, data[at + 5 : at + 5 + length])
        at += 5 + length


def _split(records: tuple[Record, ...]) -> tuple[bytes, tuple[Record, ...]]:
    """The hello with its header, which may span records (RFC 8446 §5.1), and what follows."""
    message = b""
    for count, record in enumerate(records, 1):
        if record.type != HANDSHAKE:
            break
        message += record.body
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            return message, records[count:]
    raise WireError("no whole hello was captured")


def _is_sealed(record: Record) -> bool:
    """Whether a record behind the hellos is encrypted; the one that needn't be has no meaning.

    Raises:
        WireError: it is readable by everybody.
    """
    if record.type == CHANGE_CIPHER_SPEC and record.body == b"\1":
        return False  # for middleboxes (RFC 8446 §5, §D.4)
    if record.type != APPLICATION_DATA:
        raise WireError(f"a record of type {record.type} travels in the open after the hellos")
    return True


def _body(message: bytes, kind: int) -> _Bytes:
    whole = _Bytes(message)
    found = whole.number(1)
    if found != kind:
        raise WireError(f"handshake message {kind} was expected, {found} came")
    body = _Bytes(whole.vector(3))
    whole.end()
    return body


def _extensions(body: _Bytes) -> dict[int, bytes]:
    """By type; what stands behind them, or stands there twice, isn't allowed (§4.2)."""
    extensions: dict[int, bytes] = {}
    block = _Bytes(body.vector(2))
    body.end()
    while block.left:
        kind = block.number(2)
        if kind in extensions:
            raise WireError(f"extension {kind} is there twice")
        extensions[kind] = block.vector(2)
    return extensions


def _key_share(source: _Bytes) -> KeyShare:
    group = source.number(2)
    return KeyShare(group, len(source.vector(2)))


def _each(data: bytes, read: Callable[[_Bytes], _T]) -> Iterator[_T]:
    source = _Bytes(data)
    while source.left:
        yield read(source)


def _whole(data: bytes, read: Callable[[_Bytes], _T]) -> _T:
    source = _Bytes(data)
    value = read(source)
    source.end()
    return value
