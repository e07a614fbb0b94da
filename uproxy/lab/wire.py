"""Reads what an observer can see of TLS: records, hellos, and the sizes of encrypted data.

It decrypts nothing.  Rules: bytes that aren't TLS as RFC 8446 defines it raise a WireError;
every length is checked; an incomplete last record is ignored.
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
"""By their numbers in IANA's TLS registries; those that uProxy offers by default."""

_RECORD_TYPES = {CHANGE_CIPHER_SPEC, 21, HANDSHAKE, APPLICATION_DATA}
_RECORD_VERSIONS = {0x0301, 0x0303}  # 0x0301 in a first ClientHello only (RFC 8446 §5.1)
_MAX_RECORD = 2**14 + 256
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_ALPN, _SUPPORTED_VERSIONS, _KEY_SHARE = 16, 43, 51
_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


class WireError(UproxyError):
    """The bytes are not as RFC 8446 demands."""


@dataclass(frozen=True, slots=True)
class TlsRecord:
    """One TLS record."""

    type: int
    version: int
    body: bytes


@dataclass(frozen=True, slots=True)
class KeyShare:
    """A key exchange group, by its number in IANA's registry, and the bytes of its key."""

    group: int
    size: int


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What the client offers."""

    versions: tuple[int, ...]
    """From the extension `supported_versions`; empty without it."""
    shares: tuple[KeyShare, ...]
    protocols: tuple[bytes, ...]
    """Application protocols (ALPN, RFC 7301); TLS 1.3 encrypts the server's choice of them."""


@dataclass(frozen=True, slots=True)
class ServerHello:
    """What the server chose."""

    version: int
    """From the extension `supported_versions`, else from the older field."""
    cipher: int
    share: KeyShare


@dataclass(frozen=True, slots=True)
class Conversation:
    """What can be read from a captured connection."""

    client: ClientHello
    server: ServerHello
    encrypted_records: int
    """Encrypted records in both directions; in TLS 1.3 these include the certificates."""
    encrypted_bytes: int

    @property
    def agreed(self) -> tuple[KeyShare, KeyShare]:
        """The key shares of client and server from which the connection's keys were derived.

        Raises:
            WireError: the client sent no share of the server's group.
        """
        group = self.server.share.group
        for share in self.client.shares:
            if share.group == group:
                return share, self.server.share
        raise WireError(f"the server chose the group {group:#06x}, which wasn't offered")


def read_conversation(from_client: bytes, from_server: bytes) -> Conversation:
    """Read both directions of a connection from their first byte.

    Raises:
        WireError: they are not TLS, or their hellos can't be read.
    """
    client_hello, client_rest = _split(read_records(from_client))
    server_hello, server_rest = _split(read_records(from_server))
    client, server = read_client_hello(client_hello), read_server_hello(server_hello)
    encrypted = [len(one.body) for one in (*client_rest, *server_rest) if _is_encrypted(one)]
    return Conversation(
        client, server, encrypted_records=len(encrypted), encrypted_bytes=sum(encrypted)
    )


def read_records(data: bytes) -> tuple[TlsRecord, ...]:
    """Return the complete records (RFC 8446 §5.1).

    Raises:
        WireError: there is something else than a record.
    """
    return tuple(_records(data))


def read_client_hello(message: bytes) -> ClientHello:
    """Read a ClientHello with its handshake header (RFC 8446 §4.1.2).

    Raises:
        WireError: it is something else.
    """
    body = _body(message, _CLIENT_HELLO)
    body.take(2 + 32)  # legacy_version, random
    body.vector(1)  # legacy_session_id
    body.vector(2)  # cipher_suites
    body.vector(1)  # legacy_compression_methods
    extensions = _extensions(body)
    offered = _Bytes(extensions.get(_SUPPORTED_VERSIONS, b"\0")).vector(1)
    shares = _Bytes(extensions.get(_KEY_SHARE, b"\0\0")).vector(2)
    protocols = _Bytes(extensions.get(_ALPN, b"\0\0")).vector(2)
    return ClientHello(
        versions=tuple(_each(offered, lambda one: one.number(2))),
        shares=tuple(_each(shares, _key_share)),
        protocols=tuple(_each(protocols, lambda one: one.vector(1))),
    )


def read_server_hello(message: bytes) -> ServerHello:
    """Read a ServerHello with its handshake header (RFC 8446 §4.1.3).

    Raises:
        WireError: it is something else, or a HelloRetryRequest.
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
    """Reads from the front of some bytes; raises WireError if there are too few."""

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
        """Return the bytes after a length field of `size` bytes (RFC 8446 §3.4)."""
        return self.take(self.number(size))

    def end(self) -> None:
        """Refuse bytes that are left over."""
        if self.left:
            raise WireError(f"{self.left} bytes too many")


def _records(data: bytes) -> Iterator[TlsRecord]:
    at = 0
    while len(data) - at >= 5:
        kind, version = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if kind not in _RECORD_TYPES or version not in _RECORD_VERSIONS or length > _MAX_RECORD:
            raise WireError(f"no TLS record at byte {at}: {data[at : at + 5].hex()}")
        if length > len(data) - at - 5:
            return
        yield TlsRecord(kind, version, data[at + 5 : at + 5 + length])
        at += 5 + length


def _split(records: tuple[TlsRecord, ...]) -> tuple[bytes, tuple[TlsRecord, ...]]:
    """Return the first message, which may span records (RFC 8446 §5.1), and the records after
    it."""
    message = b""
    for count, record in enumerate(records, 1):
        if record.type != HANDSHAKE:
            break
        message += record.body
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            return message, records[count:]
    raise WireError("no whole hello was captured")


def _is_encrypted(record: TlsRecord) -> bool:
    """Return whether a record after the hellos is encrypted; a ChangeCipherSpec is not and
    counts as none.

    Raises:
        WireError: another kind of record is in plaintext.
    """
    if record.type == CHANGE_CIPHER_SPEC and record.body == b"\1":
        return False  # for middleboxes (RFC 8446 §5, §D.4)
    if record.type != APPLICATION_DATA:
        raise WireError(f"a record of type {record.type} travels in the open after the hellos")
    return True


def _body(message: bytes, kind: int) -> _Bytes:
    """Return the body of a handshake message, which must be of this kind."""
    whole = _Bytes(message)
    found = whole.number(1)
    if found != kind:
        raise WireError(f"handshake message {kind} was expected, {found} came")
    body = _Bytes(whole.vector(3))
    whole.end()
    return body


def _extensions(body: _Bytes) -> dict[int, bytes]:
    """Return the extensions by type; refuse repeated ones and bytes after them (§4.2)."""
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
    """Read values until the end of `data`."""
    source = _Bytes(data)
    while source.left:
        yield read(source)


def _whole(data: bytes, read: Callable[[_Bytes], _T]) -> _T:
    """Read one value that must fill `data`."""
    source = _Bytes(data)
    value = read(source)
    source.end()
    return value
