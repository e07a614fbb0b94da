"""The self-check: uProxy starts over the OpenSSL that it was tested with, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from uproxy.contract import PeerSvid, TlsPlan
from uproxy.errors import EngineError, UntrustedError
from uproxy.libssl.binding import NAMES, TlsError, Versions, lib, versions
from uproxy.libssl.context import Context
from uproxy.libssl.session import Session
from uproxy.model import Role, TlsSettings

TESTED_CRYPTOGRAPHY: Final = "50.0.2"
TESTED_OPENSSL: Final = "4.0"


def check() -> Versions:
    """Make sure that the border is the tested one.

    Raises:
        EngineError: another version, a function is missing, or a throw-away handshake fails.
    """
    found = versions()
    tested = f"uProxy was tested with cryptography {TESTED_CRYPTOGRAPHY} (OpenSSL {TESTED_OPENSSL})"
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
