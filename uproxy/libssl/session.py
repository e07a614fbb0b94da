"""Sessions: one connection's TLS without a socket; ciphertext goes in and comes out as bytes."""

from __future__ import annotations

import functools
from typing import Any, Final

from uproxy.contract import PeerSvid
from uproxy.errors import UntrustedError
from uproxy.libssl.binding import (
    Buffer,
    TlsError,
    address_of,
    expect_ok,
    ffi,
    is_too_large,
    lib,
    memory_bio,
    not_null,
    oldest_error,
    text_of,
)
from uproxy.libssl.callbacks import in_handshake, message_callback, verify_callback
from uproxy.libssl.context import Context, verify_mode, x509_error
from uproxy.spiffe import presented
from uproxy.tlswords import UNASKED, UNPROVEN

RECEIVE_SIZE: Final = 64 * 1024
"""Bytes of ciphertext given to a session at a time, at most."""

_RECORD: Final = 16 * 1024 + 512
"""A record that was incomplete before those bytes may end in them."""

_TLS13: Final = 0x0304

_X509_ERROR_UNASKED: Final = 50
"""X509_V_ERR_APPLICATION_VERIFICATION: its alert is handshake_failure."""

_HANDSHAKE_FAILURE: Final = bytes((21, 3, 3, 0, 2, 2, 40))
"""The alert in the clear (RFC 8446 sections 5.1 and 6)."""


@functools.cache
def _plaintext() -> Any:
    """Shared by every session, so that an idle one owns no buffer: valid until the next call."""
    return ffi.new("char[]", RECEIVE_SIZE + 2 * _RECORD)


class Session:
    """One connection's TLS.

    After an exception, or with a `failure`, only `take_output` is of use.
    """

    __slots__ = (
        "_alert", "_context", "_fed", "_greeted", "_outgoing", "_ssl", "_unasked", "_verdict",
        "asked", "early", "ended", "failure", "midway", "peer",
    )  # fmt: skip

    def __init__(self, context: Context, server_name: str | None = None) -> None:
        """`server_name` is what a client sends as SNI, a host name in ASCII."""
        self._context: Context | None = context  # until the handshake has ended: it has our key
        self._show_messages(context)
        self._ssl = ffi.gc(not_null(lib.SSL_new(context.pointer)), lib.SSL_free)
        not_null(lib.SSL_set_SSL_CTX(self._ssl, context.identity))
        self._fed: Any = None
        self._greeted = False  # the peer's hello has been read
        self._outgoing = memory_bio()
        self._verdict: PeerSvid | Exception | None = None
        self._unasked = False  # refused, because it asked for no certificate
        self._alert = b""  # in the clear, instead of records
        self.asked = context.server
        """Whether the peer asked for our certificate; a server always sends its own."""
        self.peer: PeerSvid | None = None
        """Set when the handshake has finished, never before."""
        self.early = b""
        """Application bytes that came in one piece with the handshake's last message."""
        self.ended = False
        """The peer's close_notify has come: it sends no more."""
        self.failure: TlsError | None = None
        """Why what came behind the last application bytes can't be read."""
        self.midway = False
        """Part of a message of TLS itself has come (KeyUpdate, for one): nothing can be
        encrypted before the rest of it has."""
        lib.SSL_set_bio(self._ssl, ffi.NULL, self._outgoing)
        self._watch_handshake()
        if context.server:
            lib.SSL_set_accept_state(self._ssl)
        else:
            lib.SSL_set_connect_state(self._ssl)
            if server_name is not None:
                name = ffi.new("char[]", server_name.encode())
                lib.ERR_clear_error()
                lib.SSL_set_tlsext_host_name(self._ssl, name)
                # the wheel's binding keeps the result to itself
                expect_ok(int(not lib.ERR_peek_error()), f"the server's name {server_name}")

    def _show_messages(self, context: Context) -> None:
        """Have OpenSSL call `on_message` with each of the peer's messages before it reads it."""
        lib.SSL_CTX_set_msg_callback(context.pointer, message_callback())

    def _watch_handshake(self) -> None:
        """Have OpenSSL ask `verify_result` whether to accept the peer."""
        lib.SSL_set_verify(self._ssl, verify_mode(), verify_callback())

    def handshake(self, received: Buffer = b"") -> bool:
        """Go on with the handshake; return whether it has finished and the peer is verified.

        Raises:
            UntrustedError, RefusedError: as the plan's `verify` raised it.
            TlsError: anything else that ended it.
        """
        address = address_of(self._ssl)
        self._feed(received)
        in_handshake[address] = self
        try:
            result = lib.SSL_do_handshake(self._ssl)
            if result == 1:
                self._accept()
                self._forget_key()
                self.early = bytes(self._read_all())
                return True
            if isinstance(self._verdict, Exception):
                raise self._verdict
            if self._greeted and self._verdict is None and is_too_large(lib.ERR_peek_error()):
                raise presented.refusal(presented.Excess.MESSAGE, 0)
            if self._unasked:
                self._refuse_unasked(result)
            self._expect_want_read(result)
            return False
        finally:
            del in_handshake[address]
            self._drop_input()

    def _refuse_unasked(self, result: int) -> None:
        """Send an alert to a server that asked for no certificate.

        Raises:
            TlsError: always.
        """
        if lib.SSL_get_error(self._ssl, result) == lib.SSL_ERROR_WANT_READ:
            # nothing of our turn in TLS 1.2 is sent yet: an alert in the clear takes its place
            self.take_output()
            self._alert = _HANDSHAKE_FAILURE
        raise TlsError(UNASKED)

    def _accept(self) -> None:
        """Set `peer` at the end of the handshake, if this handshake's own callback accepted it.

        Raises:
            TlsError: it didn't, or the server asked for no certificate.
        """
        if (
            self._verdict is None
            or isinstance(self._verdict, Exception)
            or lib.SSL_session_reused(self._ssl)
        ):
            raise TlsError(UNPROVEN)
        if not self.asked:
            raise TlsError(UNASKED)
        self.peer = self._verdict

    def verify_result(self) -> int:
        """Return the X509 verification error (X509_V_ERR_…) for the peer; 0 accepts it."""
        # without a Certificate message no peer is verified
        verdict = self._verdict or TlsError("the peer showed no certificate")
        if self.asked or isinstance(verdict, Exception) or not self._is_tls13:
            return x509_error(verdict)
        self._unasked = True  # TLS 1.3 has the CertificateRequest before the Certificate
        return _X509_ERROR_UNASKED

    def on_message(self, version: int, message: Any) -> None:
        """Look at a handshake message of the peer, which OpenSSL has hashed and reads next."""
        kind = message[0][0]
        if kind == presented.CERTIFICATE:
            self._verify_chain(message, is_tls13=version >= _TLS13)
        elif kind == presented.CERTIFICATE_REQUEST and len(message) > presented.MAX_REQUEST:
            self._verdict = presented.refusal(presented.Excess.REQUEST, len(message))
            _spoil(message)
        elif kind == presented.CERTIFICATE_REQUEST:
            self.asked = True
        elif kind == presented.SERVER_HELLO_DONE:
            self._unasked = not self.asked
        elif kind == presented.CLIENT_HELLO and len(message) > presented.MAX_CLIENT_HELLO:
            _spoil(message)  # the second one, after a HelloRetryRequest
        elif kind in presented.HELLOS:
            self._greeted = True

    def _verify_chain(self, message: Any, *, is_tls13: bool) -> None:
        """Verify the chain of a Certificate message.  In TLS 1.3 cut the message down to the leaf:
        OpenSSL spends nothing on the other certificates."""
        if self._verdict is not None:
            self._verdict = TlsError("the peer showed certificates twice")
            return
        body, excess = message[presented.HEADER :], None
        try:
            chain = presented.read_chain(body, is_tls13=is_tls13)
        except presented.NotAMessageError:
            return  # OpenSSL says what is wrong with it
        except UntrustedError as error:
            self._verdict = excess = error
        else:
            self._set_verdict(chain)
        alone = presented.leaf_only(body) if is_tls13 else None
        if alone is not None:
            message[presented.HEADER :] = alone
        elif excess is not None:
            _spoil(message)

    def _set_verdict(self, chain: tuple[bytes, ...]) -> None:
        """Ask the plan about a chain; keep what it returns, or the exception that it raises."""
        try:
            self._verdict = self._verify(chain)
        except Exception as error:  # noqa: BLE001  OpenSSL is below us: handshake() raises it
            self._verdict = error

    def _forget_key(self) -> None:
        """Drop the context: an open connection keeps neither our key nor the verifier."""
        if self._context is not None:
            not_null(lib.SSL_set_SSL_CTX(self._ssl, self._context.pointer))
            self._context = None

    def _verify(self, chain: tuple[bytes, ...]) -> PeerSvid:
        if self._context is None:
            raise TlsError("the handshake has ended")
        return self._context.verify(chain)

    def decrypt(self, received: Buffer) -> memoryview:
        """Return application bytes, valid until the next call of any session's `decrypt`.

        Args:
            received: at most RECEIVE_SIZE bytes; all of it is consumed, unless the peer has
                ended: what comes after a close_notify is ignored (RFC 8446 §6.1).

        Raises:
            TlsError: the peer's alert, or an invalid record; behind application bytes it is kept
                in `failure`.
        """
        self._feed(received)
        try:
            return self._read_all()
        finally:
            self._drop_input()

    def _read_all(self) -> memoryview:
        """Return all application bytes in what was fed to OpenSSL; raises as `decrypt`."""
        size, plaintext = 0, _plaintext()
        length = len(plaintext)
        while not self.ended:
            result = lib.SSL_read(self._ssl, plaintext + size, length - size)
            if result > 0:
                size += result
            elif self._has_ended(result):
                self.ended = True
            elif lib.SSL_get_error(self._ssl, result) == lib.SSL_ERROR_WANT_READ:
                # 1 unless a message is incomplete; SSL_write would read the rest of it first,
                # and fail for good where there is nothing to read from
                self.midway = lib.SSL_do_handshake(self._ssl) != 1
                break
            else:
                self.failure, self.midway = oldest_error(), False
                if size == 0:
                    raise self.failure
                break
        return memoryview(ffi.buffer(plaintext, size))

    def _has_ended(self, result: int) -> bool:
        """Whether the peer has sent close_notify.  If another warning came before it, as Java sends
        (user_canceled, RFC 8446 §6.1), OpenSSL reports a failure without an error."""
        why = lib.SSL_get_error(self._ssl, result)
        if why == lib.SSL_ERROR_ZERO_RETURN:
            return True
        return (
            why == lib.SSL_ERROR_SYSCALL
            and not lib.ERR_peek_error()
            and bool(lib.SSL_get_shutdown(self._ssl) & lib.SSL_RECEIVED_SHUTDOWN)
        )

    def encrypt(self, data: Buffer) -> None:
        """Make records of `data`, which `take_output` returns.

        Raises:
            TlsError: this direction has ended.
        """
        lib.ERR_clear_error()
        result = lib.SSL_write(self._ssl, ffi.from_buffer(data), len(data))
        if result != len(data):
            raise oldest_error()

    def finish(self) -> None:
        """Make a close_notify: we send no more, and go on receiving.

        Raises:
            TlsError: TLS has failed.
        """
        lib.ERR_clear_error()
        result = lib.SSL_shutdown(self._ssl)
        if result < 0:
            raise oldest_error()

    def take_output(self) -> bytes:
        """Return what must be sent now, and forget it: records, handshake messages, alerts."""
        if self._alert:
            alert, self._alert = self._alert, b""
            return alert
        pointer = ffi.new("char **")
        size = lib.BIO_get_mem_data(self._outgoing, pointer)
        if size <= 0:
            return b""
        output = bytes(ffi.buffer(pointer[0], size))
        # a memory BIO never shrinks: a new one, or an idle connection would keep its peak
        self._outgoing = memory_bio()
        lib.SSL_set_bio(self._ssl, ffi.NULL, self._outgoing)
        return output

    @property
    def _is_tls13(self) -> bool:
        return text_of(lib.SSL_get_version(self._ssl)) == "TLSv1.3"

    @property
    def negotiated(self) -> tuple[str, str, str]:
        """The version, cipher and group of the handshake, as OpenSSL names them."""
        cipher = lib.SSL_CIPHER_get_name(lib.SSL_get_current_cipher(self._ssl))
        group = lib.SSL_get0_group_name(self._ssl)
        return text_of(lib.SSL_get_version(self._ssl)), text_of(cipher), text_of(group)

    def _feed(self, received: Buffer) -> None:
        """Let OpenSSL read `received`, in place, until `_drop_input`."""
        lib.ERR_clear_error()
        self._fed = ffi.from_buffer(received)
        incoming = not_null(lib.BIO_new_mem_buf(self._fed, len(received)))
        lib.BIO_set_mem_eof_return(incoming, -1)  # its end is "not yet", not the end of the stream
        lib.SSL_set_bio(self._ssl, incoming, self._outgoing)

    def _drop_input(self) -> None:
        lib.SSL_set_bio(self._ssl, ffi.NULL, self._outgoing)
        self._fed = None

    def _expect_want_read(self, result: int) -> None:
        if lib.SSL_get_error(self._ssl, result) != lib.SSL_ERROR_WANT_READ:
            raise oldest_error()


def _spoil(message: Any) -> None:
    """Make OpenSSL refuse a message that would cost too much to read.  A message callback can't
    return an error, but it can write impossible lengths: a decode_error (RFC 8446 §6.2)."""
    size = len(message) - presented.HEADER
    message[presented.HEADER :] = b"\xff" * size
