"""The border: the one file where OpenSSL's pointers cross.

It reaches the functions inside the `cryptography` wheel (linking the system's libssl would
hand 4.0 objects to 3.0 code) and turns them into two typed things: a `Context`, made once
for a `TlsPlan`, and a `Session`, one connection's TLS without a socket: ciphertext goes in
and comes out as bytes.  The compiled engine shares the contexts, gets the addresses of what it
calls itself, and asks `judge`.  It isn't a general TLS library: it knows mutual TLS only.

Rules: a peer is accepted by `TlsPlan.verify` inside this very handshake or not at all, since
the certificate store is empty, sessions are never resumed and a peer can't renegotiate; a
pointer into a caller's bytes never outlives the call; the error queue is emptied before each
call into OpenSSL; every function but `judge` is called on one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final
from weakref import WeakKeyDictionary

import cryptography
from cryptography import x509
from cryptography.hazmat.bindings._rust import _openssl
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from uproxy.contract import PeerSvid, RefusedError, TlsPlan
from uproxy.errors import EngineError, IdentityError, UntrustedError
from uproxy.model import Alert, Role, TlsSettings
from uproxy.tlswords import ALERTS, CAUSES

_lib: Final[Any] = _openssl.lib
_ffi: Final[Any] = _openssl.ffi

TESTED_CRYPTOGRAPHY: Final = "50.0.2"
TESTED_OPENSSL: Final = "4.0"

RECEIVE_SIZE: Final = 64 * 1024
"""Bytes of ciphertext given to a session at a time, at most."""

_RECORD: Final = 16 * 1024 + 512
"""A record that was incomplete before those bytes may end in them."""

NAMES: Final = tuple(
    """
    BIO_free BIO_get_mem_data BIO_new BIO_new_mem_buf BIO_s_mem BIO_set_mem_eof_return
    ERR_GET_REASON ERR_clear_error ERR_get_error ERR_peek_error ERR_reason_error_string
    EVP_PKEY_free OpenSSL_version SSL_CIPHER_get_name SSL_CTX_add_extra_chain_cert
    SSL_CTX_check_private_key SSL_CTX_free SSL_CTX_new SSL_CTX_set1_curves_list
    SSL_CTX_set_alpn_protos SSL_CTX_set_alpn_select_cb SSL_CTX_set_cert_cb
    SSL_CTX_set_cipher_list SSL_CTX_set_ciphersuites SSL_CTX_set_min_proto_version
    SSL_CTX_set_mode SSL_CTX_set_options SSL_CTX_set_session_cache_mode SSL_CTX_set_verify
    SSL_CTX_use_PrivateKey SSL_CTX_use_certificate SSL_do_handshake SSL_free
    SSL_get0_alpn_selected SSL_get0_group_name SSL_get_current_cipher SSL_get_error
    SSL_get_ex_data_X509_STORE_CTX_idx SSL_get_shutdown SSL_get_version SSL_new SSL_read
    SSL_session_reused SSL_set_accept_state SSL_set_bio SSL_set_connect_state SSL_shutdown
    SSL_write TLS_client_method TLS_server_method X509_STORE_CTX_get0_cert
    X509_STORE_CTX_get1_chain X509_STORE_CTX_get_ex_data X509_STORE_CTX_set_error X509_free
    d2i_PUBKEY_bio d2i_PrivateKey_bio d2i_X509_bio i2d_X509_bio sk_X509_free sk_X509_num
    sk_X509_value

    SSL_ERROR_SYSCALL SSL_ERROR_WANT_READ SSL_ERROR_ZERO_RETURN SSL_MODE_RELEASE_BUFFERS
    SSL_OP_CIPHER_SERVER_PREFERENCE SSL_OP_NO_COMPRESSION SSL_OP_NO_RENEGOTIATION
    SSL_OP_NO_TICKET SSL_RECEIVED_SHUTDOWN SSL_SESS_CACHE_OFF SSL_TLSEXT_ERR_ALERT_FATAL
    SSL_TLSEXT_ERR_OK SSL_VERIFY_FAIL_IF_NO_PEER_CERT SSL_VERIFY_PEER
    """.split()  # noqa: SIM905  seventy names are easier to read unquoted
)
"""Every function and constant of OpenSSL that crosses here."""

ADDRESSED: Final = tuple(
    """
    BIO_free BIO_get_mem_data BIO_new BIO_new_mem_buf BIO_read BIO_s_mem BIO_set_mem_eof_return
    ERR_clear_error ERR_get_error ERR_peek_error SSL_CIPHER_get_name SSL_do_handshake SSL_free
    SSL_get0_group_name SSL_get_current_cipher SSL_get_error SSL_get_peer_certificate
    SSL_get_shutdown SSL_get_version SSL_new SSL_read SSL_session_reused SSL_set_accept_state
    SSL_set_bio SSL_set_cert_cb SSL_set_connect_state SSL_set_verify SSL_shutdown SSL_write
    X509_STORE_CTX_get0_cert X509_STORE_CTX_set_error X509_free X509_set_pubkey i2d_X509_bio
    """.split()  # noqa: SIM905  thirty names are easier to read unquoted
)
"""The functions that the compiled engine calls by address, without the GIL."""

_NO_AUTO_CHAIN: Final = 0x8
"""SSL_MODE_NO_AUTO_CHAIN (not among the binding's constants): without it OpenSSL validates
*our* chain in every handshake and sends the root too."""

_ERR_LIB_SSL: Final = 20
_ALERT_BASE: Final = 1000
"""SSL_AD_REASON_OFFSET: a reason above it is an alert that the peer sent."""

_OK: Final = 0
_X509_ERROR: Final = {
    Alert.BAD_CERTIFICATE: 28,  # X509_V_ERR_CERT_REJECTED
    Alert.UNSUPPORTED_CERTIFICATE: 26,  # X509_V_ERR_INVALID_PURPOSE
    Alert.CERTIFICATE_REVOKED: 23,  # X509_V_ERR_CERT_REVOKED
    Alert.CERTIFICATE_EXPIRED: 10,  # X509_V_ERR_CERT_HAS_EXPIRED
    Alert.CERTIFICATE_UNKNOWN: 47,  # X509_V_ERR_PERMITTED_VIOLATION: in no row of the table
    Alert.UNKNOWN_CA: 20,  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
}
"""The verification error that makes OpenSSL send the alert (its ssl_x509err2alert table)."""

_X25519_PREFIX: Final = "302a300506032b656e032100"
"""Of a SubjectPublicKeyInfo (RFC 8410 section 4); 32 bytes of key follow."""

_SAFE_TLS12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Where the settings name none for TLS 1.2: OpenSSL's own default has CBC in it."""

_VERSIONS: Final = {"1.2": 0x0303, "1.3": 0x0304}


class TlsError(Exception):
    """TLS broke off; `reason` is one line, `alert` the number of the alert if the peer sent it."""

    def __init__(self, reason: str, alert: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.alert = alert


@dataclass(frozen=True, slots=True)
class Versions:
    """What is loaded in this process."""

    cryptography: str
    openssl: str
    """`OpenSSL 4.0.3 29 Sep 2026`."""


def versions() -> Versions:
    """What is loaded, tested or not."""
    text = _ffi.string(_lib.OpenSSL_version(0)).decode()
    return Versions(cryptography.__version__, text)


def check() -> Versions:
    """Make sure that the border is the tested one.

    Raises:
        EngineError: another version, a function is missing, or a throw-away handshake fails.
    """
    found = versions()
    tested = f"uProxy was tested with cryptography {TESTED_CRYPTOGRAPHY} (OpenSSL {TESTED_OPENSSL})"
    missing = [name for name in NAMES if not hasattr(_lib, name)]
    if missing:
        raise EngineError(f"cryptography {found.cryptography} lacks {', '.join(missing)}; {tested}")
    if found.cryptography != TESTED_CRYPTOGRAPHY or not found.openssl.startswith(
        f"OpenSSL {TESTED_OPENSSL}."
    ):
        raise EngineError(
            f"cryptography {found.cryptography} with {found.openssl} is in use; {tested}: "
            f"install cryptography=={TESTED_CRYPTOGRAPHY}"
        )
    _rehearse(tested)
    return found


def _rehearse(tested: str) -> None:
    """Shake hands with ourselves, in memory."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rehearsal")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .sign(key, SHA256())
        .public_bytes(Encoding.DER)
    )

    def verify(chain: tuple[bytes, ...]) -> PeerSvid:
        return PeerSvid("rehearsal", chain, today)

    client, server = (
        Session(Context(TlsPlan(role, (certificate,), key, TlsSettings(), verify)))
        for role in (Role.CLIENT, Role.SERVER)
    )
    try:
        client.handshake()
        server.handshake(client.take_output())
        finished = client.handshake(server.take_output())
        finished = server.handshake(client.take_output()) and finished
        client.encrypt(b"rehearsal")
        heard = bytes(server.decrypt(client.take_output()))
    except (TlsError, UntrustedError) as error:
        raise EngineError(f"a throw-away handshake failed ({error}); {tested}") from None
    judged = server.peer is not None and server.peer.chain == (certificate,)
    if not (finished and judged and heard == b"rehearsal"):
        raise EngineError(f"a throw-away handshake went wrong; {tested}")


# Contexts: what all handshakes made under one plan share.


class Context:
    """An SSL_CTX made from a plan."""

    __slots__ = ("_alpn_callback", "pointer", "server", "trust", "verify")

    def __init__(self, plan: TlsPlan) -> None:
        server = plan.role is Role.SERVER
        _lib.ERR_clear_error()
        method = _lib.TLS_server_method() if server else _lib.TLS_client_method()
        # OpenSSL counts references: a session holds the SSL_CTX, this object holds the callback
        self.pointer = _ffi.gc(_made(_lib.SSL_CTX_new(method)), _lib.SSL_CTX_free)
        # not the plan itself: it is the weak key that this context is kept under
        self.server = server
        self.verify = plan.verify
        self.trust = plan.trust
        self._alpn_callback: Any = None
        self._harden()
        self._negotiate(plan.settings)
        self._identify(plan)
        if plan.alpn:
            self._offer_alpn(plan.alpn)

    @property
    def address(self) -> int:
        """Of the SSL_CTX."""
        return _address(self.pointer)

    def _harden(self) -> None:
        context = self.pointer
        # OP_NO_TICKET and no cache, together: a resumed session would make no verify callback,
        # and with either alone a resuming client gets its session back or fails
        _lib.SSL_CTX_set_options(
            context,
            _lib.SSL_OP_NO_TICKET
            | _lib.SSL_OP_NO_RENEGOTIATION
            | _lib.SSL_OP_NO_COMPRESSION
            | _lib.SSL_OP_CIPHER_SERVER_PREFERENCE,
        )
        _lib.SSL_CTX_set_session_cache_mode(context, _lib.SSL_SESS_CACHE_OFF)
        _lib.SSL_CTX_set_mode(context, _lib.SSL_MODE_RELEASE_BUFFERS | _NO_AUTO_CHAIN)
        _lib.SSL_CTX_set_verify(
            context, _lib.SSL_VERIFY_PEER | _lib.SSL_VERIFY_FAIL_IF_NO_PEER_CERT, _on_verify
        )
        _lib.SSL_CTX_set_cert_cb(context, _on_request, _ffi.NULL)

    def _negotiate(self, settings: TlsSettings) -> None:
        context = self.pointer
        groups = ":".join(settings.groups)
        # TLS 1.3's suites carry their IANA names, TLS 1.2's OpenSSL's own
        suites = ":".join(name for name in settings.ciphers if name.startswith("TLS_"))
        older = ":".join(name for name in settings.ciphers if not name.startswith("TLS_"))
        _did(_lib.SSL_CTX_set_min_proto_version(context, _VERSIONS[settings.min_version]))
        _did(_lib.SSL_CTX_set1_curves_list(context, groups.encode()), f"tls.groups {groups}")
        _did(_lib.SSL_CTX_set_ciphersuites(context, suites.encode()), f"tls.ciphers {suites}")
        older = older or _SAFE_TLS12
        _did(_lib.SSL_CTX_set_cipher_list(context, older.encode()), f"tls.ciphers {older}")

    def _identify(self, plan: TlsPlan) -> None:
        context = self.pointer
        _did(_lib.SSL_CTX_use_certificate(context, _x509(plan.chain[0])), "our certificate")
        for der in plan.chain[1:]:
            certificate = _x509(der)
            _did(_lib.SSL_CTX_add_extra_chain_cert(context, certificate), "our chain")
            _ffi.gc(certificate, None)  # the context owns it now
        der = plan.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        bio = _source(der)
        key = _ffi.gc(_made(_lib.d2i_PrivateKey_bio(bio, _ffi.NULL)), _lib.EVP_PKEY_free)
        _did(_lib.SSL_CTX_use_PrivateKey(context, key), "our key")
        _did(_lib.SSL_CTX_check_private_key(context), "our key")

    def _offer_alpn(self, alpn: tuple[str, ...]) -> None:
        names = [name.encode() for name in alpn]
        if self.server:
            self._alpn_callback = _alpn_chooser(names)
            _lib.SSL_CTX_set_alpn_select_cb(self.pointer, self._alpn_callback, _ffi.NULL)
        else:
            wire = b"".join(bytes((len(name),)) + name for name in names)
            _lib.SSL_CTX_set_alpn_protos(self.pointer, wire, len(wire))


_contexts: WeakKeyDictionary[TlsPlan, Context] = WeakKeyDictionary()


def context(plan: TlsPlan) -> Context:
    """The plan's context, made when it is first needed.

    Raises:
        IdentityError: the chain, key, groups or ciphers can't be used together.
    """
    found = _contexts.get(plan)
    if found is None:
        found = _contexts[plan] = Context(plan)
    return found


def _alpn_chooser(names: list[bytes]) -> Any:
    """Our first name that the client offers; no_application_protocol where none is (RFC 7301)."""

    @_ffi.callback(  # type: ignore[untyped-decorator]  # cffi has no types
        "int(SSL *, unsigned char **, unsigned char *, unsigned char *, unsigned int, void *)",
        error=_lib.SSL_TLSEXT_ERR_ALERT_FATAL,
    )
    def choose(_ssl: Any, out: Any, out_length: Any, offered: Any, length: int, _arg: Any) -> int:
        where: dict[bytes, int] = {}
        at = 0
        while at < length:
            size = offered[at]
            where[bytes(_ffi.buffer(offered + at + 1, size))] = at + 1
            at += 1 + size
        for name in names:
            if name in where:
                out[0] = offered + where[name]
                out_length[0] = len(name)
                return int(_lib.SSL_TLSEXT_ERR_OK)
        return int(_lib.SSL_TLSEXT_ERR_ALERT_FATAL)

    return choose


# Verification: asked by OpenSSL, answered by the plan.

_shaking: dict[int, Session] = {}
"""The sessions inside SSL_do_handshake, by address: nobody else may be asked about."""


@_ffi.callback("int(int, X509_STORE_CTX *)", error=0)  # type: ignore[untyped-decorator]  # cffi
def _on_verify(_preverified: int, store: Any) -> int:
    # Runs two or three times per handshake (one per complaint of the empty store, and one per
    # certificate afterwards): the first answer stands.
    ssl = _lib.X509_STORE_CTX_get_ex_data(store, _lib.SSL_get_ex_data_X509_STORE_CTX_idx())
    error = _shaking[_address(ssl)].judge(store)
    _lib.X509_STORE_CTX_set_error(store, error)
    return int(error == _OK)


@_ffi.callback("int(SSL *, void *)", error=0)  # type: ignore[untyped-decorator]  # cffi
def _on_request(ssl: Any, _arg: Any) -> int:
    # A client is called here only when the server has sent a CertificateRequest.
    _shaking[_address(ssl)].asked = True
    return 1


def _x509_error(verdict: PeerSvid | Exception) -> int:
    if not isinstance(verdict, Exception):
        return _OK
    if isinstance(verdict, UntrustedError):
        return _X509_ERROR[verdict.alert]
    return _X509_ERROR[Alert.CERTIFICATE_UNKNOWN]


def judge(context: Context, store: int) -> tuple[int, bool, PeerSvid | Exception, float]:
    """A compiled engine's question, from inside its verify callback.

    Args:
        store: the address of the X509_STORE_CTX.

    Returns:
        The X509 verification error, whether it is a refusal rather than a defect, the verdict,
        and until when an acceptance holds (Unix time).
    """
    try:
        peer = context.verify(_presented(_ffi.cast("X509_STORE_CTX *", store)))
    except (UntrustedError, RefusedError) as refusal:
        return _x509_error(refusal), True, refusal, 0.0
    except Exception as defect:  # noqa: BLE001  OpenSSL is below us: the engine reports it
        return _x509_error(defect), False, defect, 0.0
    return _OK, False, peer, peer.not_after.timestamp()


def addresses() -> dict[str, int]:
    """Where the functions are that the compiled engine calls.

    Raises:
        EngineError: this isn't the tested library.
    """
    missing = [name for name in ADDRESSED if not hasattr(_lib, name)]
    if missing:
        raise EngineError(f"the TLS library lacks {', '.join(missing)}")
    return {name: _address(_ffi.addressof(_lib, name)) for name in ADDRESSED}


@cache
def small_key() -> int:
    """The address of a public key that takes little room, for certificates whose own has done
    its work."""
    der = bytes.fromhex(_X25519_PREFIX) + bytes(31) + b"\x01"
    bio = _ffi.gc(_made(_lib.BIO_new_mem_buf(der, len(der))), _lib.BIO_free)
    return _address(_made(_lib.d2i_PUBKEY_bio(bio, _ffi.NULL)))


def _presented(store: Any) -> tuple[bytes, ...]:
    """The chain as OpenSSL ordered it, DER; the leaf alone where nothing links to it."""
    stack = _lib.X509_STORE_CTX_get1_chain(store)
    if stack == _ffi.NULL:
        return (_der(_lib.X509_STORE_CTX_get0_cert(store)),)
    certificates = [_lib.sk_X509_value(stack, i) for i in range(_lib.sk_X509_num(stack))]
    chain = tuple(_der(certificate) for certificate in certificates)
    for certificate in certificates:
        _lib.X509_free(certificate)
    _lib.sk_X509_free(stack)
    return chain


# Sessions: one connection's TLS.

_plaintext: Final[Any] = _ffi.new("char[]", RECEIVE_SIZE + 2 * _RECORD)
"""Shared by every session, so that an idle one owns no buffer: valid until the next call."""


class Session:
    """One connection's TLS.  Not for use after an exception, but for `take_output`."""

    __slots__ = (
        "_context", "_fed", "_outgoing", "_ssl", "_verdict", "asked", "early", "ended", "peer",
    )  # fmt: skip

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ssl = _ffi.gc(_made(_lib.SSL_new(context.pointer)), _lib.SSL_free)
        self._fed: Any = None
        self._outgoing = _memory_bio()
        self._verdict: PeerSvid | Exception | None = None
        self.asked = context.server
        """The other side wants to see our certificate: a server's is never optional."""
        self.peer: PeerSvid | None = None
        """Set when the handshake has finished, never before."""
        self.early = b""
        """Application bytes that came in one piece with the handshake's last message."""
        self.ended = False
        """The peer's close_notify has come: it sends no more."""
        _lib.SSL_set_bio(self._ssl, _ffi.NULL, self._outgoing)
        if context.server:
            _lib.SSL_set_accept_state(self._ssl)
        else:
            _lib.SSL_set_connect_state(self._ssl)

    def handshake(self, received: Buffer = b"") -> bool:
        """Go on with the handshake; True when it has finished and the peer is verified.

        Raises:
            UntrustedError, RefusedError: as the plan's `verify` raised it.
            TlsError: anything else that ended it.
        """
        address = _address(self._ssl)
        self._feed(received)
        _shaking[address] = self
        try:
            result = _lib.SSL_do_handshake(self._ssl)
            if result == 1:
                self._accept()
                self.early = bytes(self._read_all())
                return True
            if isinstance(self._verdict, Exception):
                raise self._verdict
            self._expect_want_read(result)
            return False
        finally:
            del _shaking[address]
            self._let_go()

    def _accept(self) -> None:
        """Nobody passes whom this very handshake's callback didn't accept."""
        if (
            self._verdict is None
            or isinstance(self._verdict, Exception)
            or _lib.SSL_session_reused(self._ssl)
        ):
            raise TlsError("the handshake ended without a verified peer")
        if not self.asked:
            raise TlsError("the peer asked for no certificate: mutual TLS or none")
        self.peer = self._verdict

    def judge(self, store: Any) -> int:
        """The X509 verification error for the certificate in `store`: 0 to accept."""
        if self._verdict is None:
            try:
                self._verdict = self._context.verify(_presented(store))
            except Exception as error:  # noqa: BLE001  OpenSSL is below us: handshake() raises it
                self._verdict = error
        return _x509_error(self._verdict)

    def decrypt(self, received: Buffer) -> memoryview:
        """Application bytes; valid until the next call of any session's `decrypt`.

        Args:
            received: at most RECEIVE_SIZE bytes; all of it is consumed, unless the peer has
                ended: what comes after a close_notify is ignored (RFC 8446 §6.1).

        Raises:
            TlsError: the peer's alert, or a record that can't be.
        """
        self._feed(received)
        try:
            return self._read_all()
        finally:
            self._let_go()

    def _read_all(self) -> memoryview:
        size, length = 0, len(_plaintext)
        while not self.ended:
            result = _lib.SSL_read(self._ssl, _plaintext + size, length - size)
            if result > 0:
                size += result
            elif self._has_ended(result):
                self.ended = True
            else:
                self._expect_want_read(result)
                break
        return memoryview(_ffi.buffer(_plaintext, size))

    def _has_ended(self, result: int) -> bool:
        """Whether the peer has said close_notify.  Behind another warning, as Java says it
        (user_canceled, RFC 8446 §6.1), OpenSSL calls that a failure without an error."""
        why = _lib.SSL_get_error(self._ssl, result)
        if why == _lib.SSL_ERROR_ZERO_RETURN:
            return True
        return (
            why == _lib.SSL_ERROR_SYSCALL
            and not _lib.ERR_peek_error()
            and bool(_lib.SSL_get_shutdown(self._ssl) & _lib.SSL_RECEIVED_SHUTDOWN)
        )

    def encrypt(self, data: Buffer) -> None:
        """Make records of `data`; `take_output` has them.

        Raises:
            TlsError: this direction has ended.
        """
        _lib.ERR_clear_error()
        result = _lib.SSL_write(self._ssl, _ffi.from_buffer(data), len(data))
        if result != len(data):
            raise _failure()

    def finish(self) -> None:
        """Say close_notify: we send no more, and go on receiving."""
        _lib.ERR_clear_error()
        result = _lib.SSL_shutdown(self._ssl)
        if result < 0:
            raise _failure()

    def take_output(self) -> bytes:
        """What must be sent now: records, handshake messages, alerts."""
        pointer = _ffi.new("char **")
        size = _lib.BIO_get_mem_data(self._outgoing, pointer)
        if size <= 0:
            return b""
        output = bytes(_ffi.buffer(pointer[0], size))
        # a memory BIO never shrinks: a new one, or an idle connection would keep its peak
        self._outgoing = _memory_bio()
        _lib.SSL_set_bio(self._ssl, _ffi.NULL, self._outgoing)
        return output

    @property
    def negotiated(self) -> tuple[str, str, str]:
        """Version, cipher and group, as OpenSSL names them."""
        cipher = _lib.SSL_CIPHER_get_name(_lib.SSL_get_current_cipher(self._ssl))
        group = _lib.SSL_get0_group_name(self._ssl)
        return _text(_lib.SSL_get_version(self._ssl)), _text(cipher), _text(group)

    @property
    def alpn(self) -> str | None:
        """The agreed application protocol."""
        name, length = _ffi.new("unsigned char **"), _ffi.new("unsigned int *")
        _lib.SSL_get0_alpn_selected(self._ssl, name, length)
        return bytes(_ffi.buffer(name[0], length[0])).decode() if length[0] else None

    def _feed(self, received: Buffer) -> None:
        """Let OpenSSL read `received`, in place, until `_let_go`."""
        _lib.ERR_clear_error()
        self._fed = _ffi.from_buffer(received)
        incoming = _made(_lib.BIO_new_mem_buf(self._fed, len(received)))
        _lib.BIO_set_mem_eof_return(incoming, -1)  # its end is "not yet", not the end of the stream
        _lib.SSL_set_bio(self._ssl, incoming, self._outgoing)

    def _let_go(self) -> None:
        _lib.SSL_set_bio(self._ssl, _ffi.NULL, self._outgoing)
        self._fed = None

    def _expect_want_read(self, result: int) -> None:
        if _lib.SSL_get_error(self._ssl, result) != _lib.SSL_ERROR_WANT_READ:
            raise _failure()


Buffer = bytes | bytearray | memoryview


# Between Python's values and OpenSSL's.


def _failure() -> TlsError:
    """The oldest entry of the error queue, in words."""
    return in_words(_lib.ERR_get_error())


def in_words(code: int) -> TlsError:
    """What an error code of OpenSSL (ERR_get_error) means."""
    reason = _lib.ERR_GET_REASON(code)
    words = _text(_lib.ERR_reason_error_string(code)) or "broken off"
    if (code >> 23) & 0xFF == _ERR_LIB_SSL and _ALERT_BASE <= reason < _ALERT_BASE + 256:
        alert = reason - _ALERT_BASE
        return TlsError(f"peer sent alert {ALERTS.get(alert, alert)}", alert)
    return TlsError(CAUSES.get(words, words))


def _made(pointer: Any) -> Any:
    if pointer == _ffi.NULL:
        raise EngineError(f"OpenSSL made nothing: {_failure().reason}")
    return pointer


def _did(result: int, what: str = "the TLS settings") -> None:
    if result != 1:
        raise IdentityError(f"OpenSSL refused {what}: {_failure().reason}")


def _x509(der: bytes) -> Any:
    bio = _source(der)
    return _ffi.gc(_made(_lib.d2i_X509_bio(bio, _ffi.NULL)), _lib.X509_free)


def _der(certificate: Any) -> bytes:
    bio = _ffi.gc(_memory_bio(), _lib.BIO_free)
    _did(_lib.i2d_X509_bio(bio, certificate), "a certificate")
    pointer = _ffi.new("char **")
    size = _lib.BIO_get_mem_data(bio, pointer)
    return bytes(_ffi.buffer(pointer[0], size))


def _source(data: bytes) -> Any:
    """A BIO to read from; it holds `data` as long as it lives."""
    held = _ffi.from_buffer(data)

    def free(bio: Any, _held: Any = held) -> None:
        _lib.BIO_free(bio)

    return _ffi.gc(_made(_lib.BIO_new_mem_buf(held, len(data))), free)


def _memory_bio() -> Any:
    return _made(_lib.BIO_new(_lib.BIO_s_mem()))


def _address(pointer: Any) -> int:
    return int(_ffi.cast("uintptr_t", pointer))


def _text(pointer: Any) -> str:
    return "" if pointer == _ffi.NULL else _ffi.string(pointer).decode()
