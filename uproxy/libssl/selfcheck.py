"""The self-check: uProxy starts over the OpenSSL that it was tested with, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from uproxy.contract import OwnSvid, PeerSvid, TlsPlan
from uproxy.errors import EngineError, UntrustedError
from uproxy.libssl.binding import (
    NAMES,
    TlsError,
    Versions,
    der_of,
    expect_ok,
    ffi,
    lib,
    versions,
    x509_from,
)
from uproxy.libssl.context import Context
from uproxy.libssl.session import Session
from uproxy.model import Role, TlsSettings

TESTED_CRYPTOGRAPHY: Final = "50.0.2"
TESTED_OPENSSL: Final = "4.0"


def check() -> Versions:
    """Make sure that the OpenSSL loaded is the one that was tested.

    Raises:
        EngineError: another version, a function is missing, or a throw-away handshake fails.
    """
    found, tested = versions(), _tested()
    missing = [name for name in NAMES if not hasattr(lib, name)]
    if missing:
        raise EngineError(f"cryptography {found.cryptography} lacks {', '.join(missing)}; {tested}")
    if found.cryptography != TESTED_CRYPTOGRAPHY or not found.openssl.startswith(
        f"OpenSSL {TESTED_OPENSSL}."
    ):
        raise EngineError(
            f"cryptography {found.cryptography} with {found.openssl} is in use; {tested}: "
            f"install cryptography=={TESTED_CRYPTOGRAPHY}"
        )
    _try_handshake(_WithoutCallbacks)
    return found


def check_callbacks() -> None:
    """Make sure that OpenSSL can call Python, as sessions need and the compiled engine doesn't.

    Raises:
        EngineError: memory that is writable and executable is forbidden, or a throw-away
            handshake fails.
    """
    _try_handshake(Session)


def _tested() -> str:
    return f"uProxy was tested with cryptography {TESTED_CRYPTOGRAPHY} (OpenSSL {TESTED_OPENSSL})"


class _WithoutCallbacks(Session):
    """A session whose peer OpenSSL verifies by itself, with the context's store of roots."""

    __slots__ = ()

    def _show_messages(self, context: Context) -> None:
        """Have no callback for the peer's messages."""

    def _watch_handshake(self) -> None:
        self.asked = True  # if not, the server gets no certificate and the handshake fails

    def _accept(self) -> None:
        shown = lib.SSL_get_peer_certificate(self._ssl)
        if shown == ffi.NULL:
            raise TlsError("the handshake ended without a peer")
        self.peer = self._verify((der_of(ffi.gc(shown, lib.X509_free)),))


def _try_handshake(kind: type[Session]) -> None:
    """Do a handshake between two sessions in memory, and send bytes."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self-check")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .sign(key, SHA256())
        .public_bytes(Encoding.DER)
    )

    own = OwnSvid("self-check", (certificate,), today)

    def verify(chain: tuple[bytes, ...]) -> PeerSvid:
        return PeerSvid("self-check", chain, today)

    contexts = [
        Context(TlsPlan(role, own, key, TlsSettings(), verify))
        for role in (Role.CLIENT, Role.SERVER)
    ]
    for context in contexts:
        store = lib.SSL_CTX_get_cert_store(context.identity)
        expect_ok(lib.X509_STORE_add_cert(store, x509_from(certificate)), "a certificate")
        lib.SSL_CTX_set_verify_depth(context.pointer, 1)  # or OpenSSL finds any path too long
    client, server = map(kind, contexts)
    try:
        client.handshake()
        server.handshake(client.take_output())
        finished = client.handshake(server.take_output())
        finished = server.handshake(client.take_output()) and finished
        client.encrypt(b"self-check")
        received = bytes(server.decrypt(client.take_output()))
    except (TlsError, UntrustedError) as error:
        raise EngineError(f"a throw-away handshake failed ({error}); {_tested()}") from None
    verified = server.peer is not None and server.peer.chain == (certificate,)
    if not (finished and verified and received == b"self-check"):
        raise EngineError(f"a throw-away handshake went wrong; {_tested()}")
