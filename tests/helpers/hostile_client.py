"""Clients that break the rules of TLS: with tlslite-ng, and with plain sockets.

`HostileClient` does a real handshake in which a `Twist` can replace, repeat or drop each message
that it sends, and afterwards sends records of any type and size.  `RawClient` is a TCP connection
that sends bytes, made with `hello` and `record`.  Each uses an address of 127.0.0.0/8 of its own,
so that uProxy's log doesn't rate-limit their lines.  Every wait has a deadline, and leaving the
`with` block closes the connection.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from uproxy.lab.pki import Issued

with warnings.catch_warnings():
    # it looks for asyncore, which Python 3.12 hasn't any more
    warnings.simplefilter("ignore", DeprecationWarning)
    from tlslite import constants, errors, extensions, messages
    from tlslite.handshakesettings import HandshakeSettings
    from tlslite.tlsconnection import TLSConnection
    from tlslite.utils.keyfactory import parsePEMKey
    from tlslite.x509 import X509
    from tlslite.x509certchain import X509CertChain

TIMEOUT_S = 15.0
"""Seconds that a client waits at most."""

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA, HEARTBEAT = 20, 21, 22, 23, 24
"""Record types (RFC 8446 §5.1, RFC 6520)."""

TLS_1_2, TLS_1_3 = (3, 3), (3, 4)

_PLACES = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Received:
    """What the other side sent until the connection ended."""

    data: bytes
    """The application data."""
    alert: int | None
    """The description of the alert that ended it (RFC 8446 §6.2); None: none, or close_notify."""
    reset: bool
    """Whether it ended with a TCP reset instead of a FIN."""


Twist = Callable[[Any], Iterable[Any]]
"""Returns what is sent instead of a tlslite message that is about to be sent."""


def message(kind: int, body: bytes) -> Any:
    """Return a handshake message, for a `Twist`."""
    return raw(HANDSHAKE, bytes([kind]) + len(body).to_bytes(3, "big") + body)


def raw(record: int, content: bytes) -> Any:
    """Return a record, for a `Twist`."""
    return messages.Message(record, bytearray(content))


def instead(kind: int, *others: Any) -> Twist:
    """Return a twist that replaces each handshake message of a type by others, or by nothing."""

    def twist(said: Any) -> Iterable[Any]:
        return others if getattr(said, "handshakeType", None) == kind else (said,)

    return twist


def unchanged(said: Any) -> Iterable[Any]:
    """The `Twist` that changes nothing."""
    return (said,)


class _Guest:
    """A TCP connection from a loopback address of its own."""

    def __init__(self, port: int) -> None:
        number = next(_PLACES)

        # another process may use the same addresses soon after: the ports differ
        self.host = f"127.{77 + os.getpid() % 64}.{number >> 8 & 255}.{number & 255}"
        self.socket = socket.create_connection(
            ("127.0.0.1", port), timeout=TIMEOUT_S, source_address=(self.host, 0)
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_bytes(self, data: bytes) -> Self:
        """Send bytes; if the other side has closed, only set `gone`."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.gone = True
        return self

    gone = False
    """Whether the other side closed the connection before everything was sent."""

    def finish(self) -> Self:
        """Send a FIN."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.gone = True
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        self.socket.close()


class RawClient(_Guest):
    """Sends bytes, and understands no more of the answer than unencrypted alerts."""

    def receive_until_end(self) -> Received:
        """Read until the other side ends the connection.

        Raises:
            TimeoutError: it doesn't.
        """
        heard, reset = bytearray(), False
        try:
            while more := self.socket.recv(1 << 16):
                heard += more
        except ConnectionResetError:
            reset = True
        return Received(bytes(heard), clear_alert(bytes(heard)), reset)

    def receive_record(self) -> tuple[int, bytes]:
        """Return the type and content of the next record.

        Raises:
            ConnectionError: the other side ended the connection.
        """
        header = self._exactly(5)
        return header[0], self._exactly(int.from_bytes(header[3:], "big"))

    def _exactly(self, count: int) -> bytes:
        heard = b""
        while len(heard) < count:
            more = self.socket.recv(count - len(heard))
            if not more:
                raise ConnectionError(f"ended {count - len(heard)} bytes short")
            heard += more
        return heard


class _Sealed:
    """Sends records under the current keys."""

    tls: Any
    gone = False
    """The other side had ended the connection before everything was said."""

    def send(self, data: bytes, record: int = APPLICATION_DATA) -> Self:
        """Send one record under the current keys, of any length."""
        said = messages.Message(record, bytearray(data))
        try:
            for _ in self.tls._recordLayer.sendRecord(said):
                continue
            self.tls.sock.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.gone = True
        return self

    def renew_key(self) -> Self:
        """Switch to the next sending keys, after a KeyUpdate was sent."""
        session = self.tls.session
        session.cl_app_secret, session.sr_app_secret = (
            self.tls._recordLayer.calcTLS1_3KeyUpdate_reciever(
                session.cipherSuite, session.cl_app_secret, session.sr_app_secret
            )
        )
        return self


class HostileClient(_Guest, _Sealed):
    """A TLS client that does what tlslite does, except where a test changes it."""

    def __init__(
        self,
        port: int,
        shows: Issued | None,
        *,
        signs: Issued | None = None,
        twist: Twist = unchanged,
        version: tuple[int, int] = TLS_1_3,
    ) -> None:
        """`shows` has the chain to present; `signs` the key to sign with instead of the chain's
        own."""
        super().__init__(port)
        self.tls = _Twisted(self.socket, twist)
        self._chain = None if shows is None else _chain(shows.der)
        owner = signs or shows
        self._key = None if owner is None else parsePEMKey(owner.key_pem.decode(), private=True)
        self._version = version
        self._data = b""

    def handshake(self) -> Self:
        """Do the client's part of the handshake; in TLS 1.3 a refusal comes after it."""
        self.tls.handshakeClientCert(self._chain, self._key, settings=_settings(self._version))
        return self

    def update_key(self, *, ask: bool, extra: bytes = b"") -> Self:
        """Send a KeyUpdate, `ask` for one in return, and switch to the next keys."""
        self.send(key_update(ask=ask) + extra, HANDSHAKE)
        return self.renew_key()

    def receive(self, count: int) -> bytes:
        """Return this many bytes of application data.

        Raises:
            errors.TLSError, OSError: the connection ended instead.
        """
        heard = bytes(self.tls.read(count, count))
        self._data += heard
        return heard

    def receive_record(self) -> tuple[int, bytes]:
        """Return the type and decrypted content of the next record.

        Raises:
            errors.TLSError, OSError: the connection ended instead.
        """
        for heard in self.tls._recordLayer.recvRecord():
            if heard not in (0, 1):  # what a socket that doesn't block would wait for
                header, parser = heard
                return header.type, bytes(parser.bytes)
        raise AssertionError("neither a record nor an error")

    def receive_until_end(self) -> Received:
        """Read until the other side ends the connection.

        Raises:
            TimeoutError: it doesn't.
        """
        alert, reset = None, False
        try:
            while more := self.tls.read(1 << 16, 1):
                self._data += bytes(more)
        except errors.TLSRemoteAlert as said:
            alert = int(said.description)
        except errors.TLSAbruptCloseError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            reset = True
        return Received(self._data, alert, reset)

    def refused(self) -> Received:
        """Do a handshake that is refused, during it or after it; return what the other side
        sent."""
        try:
            self.handshake()
        except errors.TLSRemoteAlert as said:
            return Received(b"", int(said.description), reset=False)
        except errors.TLSAbruptCloseError:
            return Received(b"", None, reset=False)
        except (ConnectionResetError, BrokenPipeError):
            return Received(b"", None, reset=True)
        return self.receive_until_end()


class HostileServer(_Sealed):
    """A TLS server that does what tlslite does, and sends what a test wants."""

    def __init__(
        self,
        accepted: socket.socket,
        shows: Issued,
        *,
        asks: bool = True,
        version: tuple[int, int] = TLS_1_3,
    ) -> None:
        """Do the handshake on an accepted connection; if `asks`, the client must present a
        certificate."""
        accepted.settimeout(TIMEOUT_S)
        self.tls = TLSConnection(accepted)
        self.tls.closeSocket = False
        self.tls.handshakeServer(
            certChain=_chain(shows.der),
            privateKey=parsePEMKey(shows.key_pem.decode(), private=True),
            reqCert=asks,
            settings=_settings(version),
        )

    @classmethod
    def refused(cls, accepted: socket.socket, shows: Issued, **how: Any) -> tuple[int, int]:
        """Do a handshake that the client refuses; return the number of its alert, and the type of
        the record that the alert came in.

        Raises:
            AssertionError: the client doesn't refuse it with an alert.
        """
        heard = _Tapped(accepted)
        try:
            cls(heard, shows, **how)  # type: ignore[arg-type]  # a socket that remembers
        except errors.TLSRemoteAlert as said:
            return int(said.description), record_types(bytes(heard.bytes))[-1]
        raise AssertionError("not refused")

    def receive(self, count: int) -> bytes:
        """So many bytes of the application."""
        return bytes(self.tls.read(count, count))


class _Tapped:
    """A socket that remembers what it has received."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.bytes = bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recv(self, size: int) -> bytes:
        received = self._socket.recv(size)
        self.bytes += received
        return received


class _Twisted(TLSConnection):  # type: ignore[misc]  # tlslite has no types
    def __init__(self, connected: socket.socket, twist: Twist) -> None:
        super().__init__(connected)
        self._twist = twist
        self.closeSocket = False  # _Guest closes it
        self.ignoreAbruptClose = False

    def _sendMsg(self, msg: Any, *how: bool, **more: bool) -> Iterable[int]:  # noqa: N802  tlslite's
        for each in self._twist(msg):
            yield from super()._sendMsg(each, *how, **more)


def key_update(*, ask: bool) -> bytes:
    """Return a KeyUpdate message; `ask` for one in return."""
    return b"\x18\x00\x00\x01" + bytes([ask])


def session_ticket() -> bytes:
    """Return a NewSessionTicket message, which a TLS 1.3 server may send at any time."""
    ticket = os.urandom(200)
    body = b"\0\0\x1c\x20" + os.urandom(4) + b"\1\0" + len(ticket).to_bytes(2, "big") + ticket
    return b"\4" + (len(body) + 2).to_bytes(3, "big") + body + b"\0\0"


def hello(
    *,
    version: tuple[int, int] = TLS_1_2,
    versions: Sequence[tuple[int, int]] = (TLS_1_3,),
    ciphers: Sequence[int] = (0x1301,),
    groups: Sequence[int] = (0x001D,),
    shares: Sequence[int] = (0x001D,),
    signatures: Sequence[tuple[int, int]] = ((4, 3),),
    more: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """Return a ClientHello message that any TLS 1.3 server accepts, unless changed by the
    arguments.

    `shares` are random, which works until a key is needed; `more` are extensions; an empty list
    leaves its extension out.
    """
    offered = []
    if versions:
        offered.append(extensions.SupportedVersionsExtension().create(list(versions)))
    if groups:
        offered.append(extensions.SupportedGroupsExtension().create(list(groups)))
    if signatures:
        offered.append(extensions.SignatureAlgorithmsExtension().create(list(signatures)))
    entries = [extensions.KeyShareEntry().create(each, os.urandom(32)) for each in shares]
    offered.append(extensions.ClientKeyShareExtension().create(entries))
    offered += [
        extensions.TLSExtension(extType=kind).create(bytearray(body)) for kind, body in more
    ]
    said = messages.ClientHello().create(
        version, bytearray(os.urandom(32)), bytearray(), list(ciphers), extensions=offered
    )
    return bytes(said.write())


def record(
    content: bytes, kind: int = HANDSHAKE, *, version: int = 0x0301, length: int | None = None
) -> bytes:
    """Return an unencrypted record; `length` is its length field, by default the right one."""
    size = len(content) if length is None else length
    return struct.pack("!BHH", kind, version, size) + content


def records(content: bytes, size: int, kind: int = HANDSHAKE) -> bytes:
    """Return the content in records of at most `size` bytes."""
    return b"".join(record(content[at : at + size], kind) for at in range(0, len(content), size))


def record_types(heard: bytes) -> list[int]:
    """Of all records, in order."""
    types, at = [], 0
    while at + 5 <= len(heard):
        types.append(heard[at])
        at += 5 + int.from_bytes(heard[at + 3 : at + 5], "big")
    return types


def clear_alert(heard: bytes) -> int | None:
    """Return the description of the first unencrypted alert; None: there is none."""
    at = 0
    while at + 5 <= len(heard):
        kind, _version, size = struct.unpack("!BHH", heard[at : at + 5])
        if kind == ALERT and size == 2 and at + 7 <= len(heard):
            return heard[at + 6]
        at += 5 + size
    return None


def certificates(ders: Iterable[bytes]) -> Any:
    """Return the Certificate message of a TLS 1.3 client with any bytes as certificates."""
    entries = b"".join(len(der).to_bytes(3, "big") + der + b"\0\0" for der in ders)  # no extensions
    return message(constants.HandshakeType.certificate,
                   b"\0" + len(entries).to_bytes(3, "big") + entries)  # fmt: skip


def _chain(ders: Iterable[bytes]) -> Any:
    parsed = []
    for der in ders:
        certificate = X509()
        certificate.parseBinary(bytearray(der))
        parsed.append(certificate)
    return X509CertChain(parsed)


def _settings(version: tuple[int, int]) -> Any:
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = version

    # one share only: tlslite's elliptic curves are slow
    settings.keyShares = ["x25519"]
    settings.eccCurves = ["x25519", "secp256r1"]

    # tlslite would compress its certificate without being asked to
    settings.certificate_compression_send = settings.certificate_compression_receive = []
    return settings
