"""Contexts: what all handshakes made under one plan share, and how they verify a peer.

OpenSSL asks two questions during a handshake: whether the peer's certificate is accepted, and (a
client) which certificate to send.  Both engines answer the first with the plan's `verify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from uproxy.contract import PeerSvid, RefusedError, TlsPlan
from uproxy.errors import UntrustedError
from uproxy.libssl.binding import (
    address_of,
    bio_over,
    expect_ok,
    ffi,
    lib,
    not_null,
    overwrite_freed,
    x509_from,
)
from uproxy.libssl.callbacks import CHOOSER, WATCHER, protocol_chooser
from uproxy.model import Alert, Role, TlsSettings

_NO_AUTO_CHAIN: Final = 0x8
"""SSL_MODE_NO_AUTO_CHAIN (not among the binding's constants): without it OpenSSL validates
*our* chain in every handshake and sends the root too."""

_MIDDLEBOX_COMPAT: Final = 0x100000
"""SSL_OP_ENABLE_MIDDLEBOX_COMPAT (not among the binding's constants): a server sends the
change_cipher_spec that a client may wait for (RFC 8446 appendix D.4)."""

_SAFE_TLS12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Where the settings name none for TLS 1.2: OpenSSL's own default has CBC in it."""

_VERSIONS: Final = {"1.2": 0x0303, "1.3": 0x0304}

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


_LEAF_ONLY: Final = -2
"""A verify depth with which OpenSSL adds no presented certificate to the leaf when it builds a path
for the verify callback, and so checks no signature with a key that the peer chose: 0 allows one
more, and -1 means that none is set."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The addresses of a compiled engine's functions, called in place of Python's."""

    choose_protocol: int
    """The callback of SSL_CTX_set_alpn_select_cb.  Its argument is our names, each behind a byte
    with its length, and a 0 behind the last."""
    on_message: int
    """The callback of SSL_CTX_set_msg_callback."""


class Keyless:
    """An SSL_CTX with everything that is negotiated, and neither certificate nor key.  A session
    is made from one, and goes back to it when its handshake has ended, so that an open connection
    keeps no key in memory."""

    __slots__ = ("__weakref__", "_alpn", "pointer")

    def __init__(
        self,
        role: Role,
        settings: TlsSettings,
        alpn: tuple[str, ...],
        compiled: Compiled | None = None,
    ) -> None:
        server = role is Role.SERVER
        lib.ERR_clear_error()
        method = lib.TLS_server_method() if server else lib.TLS_client_method()
        # OpenSSL counts references: a session holds the SSL_CTX, this object what `_alpn` is
        self.pointer = ffi.gc(not_null(lib.SSL_CTX_new(method)), lib.SSL_CTX_free)
        self._alpn: Any = None  # what OpenSSL knows only the address of
        self._harden(server=server)
        self._negotiate(settings)
        if alpn:
            self._offer_alpn(alpn, compiled, server=server)
        if compiled is not None:
            lib.SSL_CTX_set_msg_callback(self.pointer, _pointer_to(WATCHER, compiled.on_message))

    def _harden(self, *, server: bool) -> None:
        context = self.pointer
        # OP_NO_TICKET and no cache, together: a resumed session would make no verify callback,
        # and with either alone a resuming client gets its session back or fails
        lib.SSL_CTX_set_options(
            context,
            lib.SSL_OP_NO_TICKET
            | lib.SSL_OP_NO_RENEGOTIATION
            | lib.SSL_OP_NO_COMPRESSION
            | lib.SSL_OP_CIPHER_SERVER_PREFERENCE,
        )
        if server:
            # openssl.cnf turns it off for clients
            lib.SSL_CTX_set_options(context, _MIDDLEBOX_COMPAT)
        lib.SSL_CTX_set_session_cache_mode(context, lib.SSL_SESS_CACHE_OFF)
        lib.SSL_CTX_set_mode(context, lib.SSL_MODE_RELEASE_BUFFERS | _NO_AUTO_CHAIN)
        # each handshake brings its callback; without one the empty store accepts no peer
        lib.SSL_CTX_set_verify(context, verify_mode(), ffi.NULL)
        lib.SSL_CTX_set_verify_depth(context, _LEAF_ONLY)

    def _negotiate(self, settings: TlsSettings) -> None:
        """Set the lowest version, the ciphers and the groups."""
        context = self.pointer
        groups = ":".join(settings.groups)
        # TLS 1.3's suites carry their IANA names, TLS 1.2's OpenSSL's own
        suites = ":".join(name for name in settings.ciphers if name.startswith("TLS_"))
        older = ":".join(name for name in settings.ciphers if not name.startswith("TLS_"))
        expect_ok(lib.SSL_CTX_set_min_proto_version(context, _VERSIONS[settings.min_version]))
        expect_ok(lib.SSL_CTX_set1_curves_list(context, groups.encode()), f"tls.groups {groups}")
        expect_ok(lib.SSL_CTX_set_ciphersuites(context, suites.encode()), f"tls.ciphers {suites}")
        older = older or _SAFE_TLS12
        expect_ok(lib.SSL_CTX_set_cipher_list(context, older.encode()), f"tls.ciphers {older}")

    def _offer_alpn(
        self, alpn: tuple[str, ...], compiled: Compiled | None, *, server: bool
    ) -> None:
        """Offer these protocols to servers, or choose the first of them that the client offers."""
        names = [name.encode() for name in alpn]
        wire = b"".join(bytes((len(name),)) + name for name in names)
        if not server:
            lib.SSL_CTX_set_alpn_protos(self.pointer, wire, len(wire))
        elif compiled is None:
            self._alpn = protocol_chooser(names)
            lib.SSL_CTX_set_alpn_select_cb(self.pointer, self._alpn, ffi.NULL)
        else:
            self._alpn = ffi.new("unsigned char[]", wire + b"\0")
            function = _pointer_to(CHOOSER, compiled.choose_protocol)
            lib.SSL_CTX_set_alpn_select_cb(self.pointer, function, self._alpn)


class Context:
    """What the handshakes of one plan are made with: a keyless SSL_CTX, and one like it with our
    certificate and key."""

    __slots__ = ("_identity", "_keyless", "_server_names", "ours", "server", "verify")

    def __init__(
        self, plan: TlsPlan, compiled: Compiled | None = None, keyless: Keyless | None = None
    ) -> None:
        """`keyless` is one of the same role, settings and application protocols."""
        terms = (plan.role, plan.settings, plan.alpn, compiled)
        self._keyless = keyless or Keyless(*terms)
        self._identity = Keyless(*terms)
        # not the plan itself: it is the weak key that this context is kept under
        self.server = plan.role is Role.SERVER
        self.verify = plan.verify
        self.ours = plan.own.spiffe_id
        self._server_names: dict[str, Any] = {}  # char *; as many as the destination has names
        self._identify(plan)

    @property
    def pointer(self) -> Any:
        """The SSL_CTX that sessions are made from, without a key."""
        return self._keyless.pointer

    @property
    def identity(self) -> Any:
        """The SSL_CTX that a session has (SSL_set_SSL_CTX) during its handshake, with our key."""
        return self._identity.pointer

    @property
    def addresses(self) -> tuple[int, int]:
        """The addresses of `pointer` and of `identity`."""
        return address_of(self.pointer), address_of(self.identity)

    def server_name(self, name: str) -> int:
        """Return the address of `name` as a char *, which lives as long as the context."""
        held = self._server_names.get(name)
        if held is None:
            held = self._server_names[name] = ffi.new("char[]", name.encode())
        return address_of(held)

    def _identify(self, plan: TlsPlan) -> None:
        """Give `identity` our certificates and key."""
        context = self.identity
        expect_ok(
            lib.SSL_CTX_use_certificate(context, x509_from(plan.own.chain[0])), "our certificate"
        )
        for der in plan.own.chain[1:]:
            certificate = x509_from(der)
            expect_ok(lib.SSL_CTX_add_extra_chain_cert(context, certificate), "our chain")
            ffi.gc(certificate, None)  # the context owns it now
        der = plan.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        overwrite_freed(len(der))
        bio = bio_over(der)
        key = ffi.gc(not_null(lib.d2i_PrivateKey_bio(bio, ffi.NULL)), lib.EVP_PKEY_free)
        expect_ok(lib.SSL_CTX_use_PrivateKey(context, key), "our key")
        expect_ok(lib.SSL_CTX_check_private_key(context), "our key")


def _pointer_to(signature: str, address: int) -> Any:
    return ffi.cast(signature.replace("(", "(*)(", 1), address)


_contexts: WeakKeyDictionary[TlsPlan, Context] = WeakKeyDictionary()
_keyless: WeakValueDictionary[
    tuple[Role, TlsSettings, tuple[str, ...], Compiled | None], Keyless
] = WeakValueDictionary()


def context_of(plan: TlsPlan, compiled: Compiled | None = None) -> Context:
    """Return the plan's context, made when it is first needed, for the engine in use.

    Raises:
        IdentityError: the chain, key, groups or ciphers can't be used together.
    """
    found = _contexts.get(plan)
    if found is None:
        found = _contexts[plan] = Context(plan, compiled, _keyless_of(plan, compiled))
    return found


def _keyless_of(plan: TlsPlan, compiled: Compiled | None) -> Keyless:
    """Return the keyless context for a plan's role, settings and application protocols, made once
    for all plans that agree in these: a rotation makes no new one."""
    terms = (plan.role, plan.settings, plan.alpn, compiled)
    found = _keyless.get(terms)
    if found is None:
        found = _keyless[terms] = Keyless(*terms)
    return found


def verify_mode() -> int:
    """Return the mode for SSL_set_verify: without an accepted certificate the handshake fails."""
    return int(lib.SSL_VERIFY_PEER | lib.SSL_VERIFY_FAIL_IF_NO_PEER_CERT)


# Verification: asked by OpenSSL, answered by the plan.


def x509_error(verdict: PeerSvid | Exception) -> int:
    """Return the X509 verification error that makes OpenSSL accept the peer, or send the alert."""
    if not isinstance(verdict, Exception):
        return _OK
    if isinstance(verdict, UntrustedError):
        return _X509_ERROR[verdict.alert]
    return _X509_ERROR[Alert.CERTIFICATE_UNKNOWN]


def judge(
    context: Context, chain: tuple[bytes, ...]
) -> tuple[int, bool, PeerSvid | Exception, float]:
    """Verify a peer's chain; the compiled engine calls it inside a handshake.

    Args:
        chain: what the peer presented (DER, leaf first), within the bounds of `spiffe.presented`.

    Returns:
        The X509 verification error, whether it is a refusal rather than a defect, the verdict,
        and until when an acceptance holds (Unix time).
    """
    try:
        peer = context.verify(chain)
    except (UntrustedError, RefusedError) as refusal:
        return x509_error(refusal), True, refusal, 0.0
    except Exception as defect:  # noqa: BLE001  OpenSSL is below us: the engine reports it
        return x509_error(defect), False, defect, 0.0
    return _OK, False, peer, peer.not_after.timestamp()
