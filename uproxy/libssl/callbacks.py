"""C functions that OpenSSL calls, made of Python ones: for sessions, so for the Python engine only.

cffi writes code for each at run time.  Hardened services forbid that
(`MemoryDenyWriteExecute=yes`), so nothing here is made before a session needs it: the compiled
engine brings C functions of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, Protocol

from uproxy.errors import EngineError
from uproxy.libssl.binding import address_of, ffi, lib

CHOOSER: Final = (
    "int(SSL *, unsigned char **, unsigned char *, unsigned char *, unsigned int, void *)"
)
"""The type of what chooses a server's application protocol."""

WATCHER: Final = "void(int, int, int, const void *, size_t, SSL *, void *)"
"""The type of what sees the messages of a handshake."""

_HANDSHAKE: Final = 22


class HandshakingSession(Protocol):
    """A session inside SSL_do_handshake."""

    def verify_result(self) -> int:
        """Return the X509 verification error (X509_V_ERR_…) for the peer; 0 accepts it."""

    def on_message(self, version: int, message: Any) -> None:
        """Look at a handshake message, which OpenSSL reads next; `version`: of TLS, as on the wire;
        `message`: its bytes, a buffer of cffi's that may be written to."""


in_handshake: dict[int, HandshakingSession] = {}
"""The sessions inside SSL_do_handshake, by the address of their SSL."""


@cache
def verify_callback() -> Any:
    """Return the C function for SSL_set_verify: it gives OpenSSL the session's `verify_result`.

    Raises:
        EngineError: memory that is writable and executable is forbidden.
    """

    def on_verify(_preverified: int, store: Any) -> int:
        # Runs two or three times per handshake (one per complaint of the empty store, and one
        # afterwards): the answer was found when the Certificate message came.
        ssl = lib.X509_STORE_CTX_get_ex_data(store, lib.SSL_get_ex_data_X509_STORE_CTX_idx())
        error = in_handshake[address_of(ssl)].verify_result()
        lib.X509_STORE_CTX_set_error(store, error)
        return int(error == 0)

    return _callable("int(int, X509_STORE_CTX *)", on_verify)


@cache
def message_callback() -> Any:
    """Return the C function for SSL_CTX_set_msg_callback: it calls the session's `on_message`.

    Raises:
        EngineError: memory that is writable and executable is forbidden.
    """

    def on_message(
        sent: int, version: int, kind: int, data: Any, size: int, ssl: Any, _arg: Any
    ) -> None:
        if not sent and kind == _HANDSHAKE and (session := in_handshake.get(address_of(ssl))):
            session.on_message(version, ffi.buffer(ffi.cast("char *", data), size))

    return _callable(WATCHER, on_message, error=None)


def protocol_chooser(names: list[bytes]) -> Any:
    """Return the C function for SSL_CTX_set_alpn_select_cb: it chooses our first protocol that the
    client offers, or answers with the alert no_application_protocol (RFC 7301).

    Raises:
        EngineError: memory that is writable and executable is forbidden.
    """

    def choose(_ssl: Any, out: Any, out_length: Any, offered: Any, length: int, _arg: Any) -> int:
        where: dict[bytes, int] = {}
        at = 0
        while at < length:
            size = offered[at]
            where[bytes(ffi.buffer(offered + at + 1, size))] = at + 1
            at += 1 + size
        for name in names:
            if name in where:
                out[0] = offered + where[name]
                out_length[0] = len(name)
                return int(lib.SSL_TLSEXT_ERR_OK)
        return int(lib.SSL_TLSEXT_ERR_ALERT_FATAL)

    return _callable(CHOOSER, choose, error=lib.SSL_TLSEXT_ERR_ALERT_FATAL)


def _callable(signature: str, function: Callable[..., int | None], error: int | None = 0) -> Any:
    """Return a Python function as a C one; `error`: what it returns to C when it raises."""
    try:
        return ffi.callback(signature, function, error=error)
    except MemoryError:
        raise EngineError(
            "OpenSSL can't call Python here, because memory that is writable and executable is "
            "forbidden (systemd: MemoryDenyWriteExecute=yes): use engine: native, or allow it"
        ) from None
