"""Where OpenSSL is: the functions inside the `cryptography` wheel, their addresses, its versions.

Also what every page here needs to call them: error codes in words, and the conversions between
Python's values and OpenSSL's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import cryptography
from cryptography.hazmat.bindings._rust import _openssl

from uproxy.errors import EngineError, IdentityError
from uproxy.tlswords import ALERTS, CAUSES

lib: Final[Any] = _openssl.lib
ffi: Final[Any] = _openssl.ffi

Buffer = bytes | bytearray | memoryview

NAMES: Final = tuple(
    """
    BIO_free BIO_get_mem_data BIO_new BIO_new_mem_buf BIO_s_mem BIO_set_mem_eof_return
    ERR_GET_REASON ERR_clear_error ERR_get_error ERR_peek_error ERR_reason_error_string
    EVP_PKEY_free OPENSSL_free OPENSSL_malloc OpenSSL_version SSL_CIPHER_get_name
    SSL_CTX_add_extra_chain_cert
    SSL_CTX_check_private_key SSL_CTX_free SSL_CTX_get_cert_store SSL_CTX_new
    SSL_CTX_set1_curves_list SSL_CTX_set_alpn_protos SSL_CTX_set_alpn_select_cb
    SSL_CTX_set_cipher_list SSL_CTX_set_ciphersuites SSL_CTX_set_min_proto_version
    SSL_CTX_set_mode SSL_CTX_set_msg_callback SSL_CTX_set_options SSL_CTX_set_session_cache_mode
    SSL_CTX_set_verify SSL_CTX_set_verify_depth SSL_CTX_use_PrivateKey SSL_CTX_use_certificate
    SSL_do_handshake SSL_free SSL_get0_group_name SSL_get_current_cipher SSL_get_error
    SSL_get_ex_data_X509_STORE_CTX_idx SSL_get_peer_certificate SSL_get_shutdown SSL_get_version
    SSL_new SSL_read SSL_session_reused SSL_set_SSL_CTX SSL_set_accept_state SSL_set_bio
    SSL_set_connect_state SSL_set_tlsext_host_name SSL_set_verify SSL_shutdown SSL_write
    TLS_client_method TLS_server_method X509_STORE_CTX_free
    X509_STORE_CTX_get1_chain X509_STORE_CTX_get_error X509_STORE_CTX_get_error_depth
    X509_STORE_CTX_get_ex_data
    X509_STORE_CTX_init X509_STORE_CTX_new X509_STORE_CTX_set_error X509_STORE_add_cert
    X509_STORE_free X509_STORE_new X509_STORE_set_flags X509_NAME_dup X509_free
    X509_get_subject_name X509_new X509_verify_cert X509_verify_cert_error_string d2i_PUBKEY_bio
    d2i_PrivateKey_bio d2i_X509_bio i2d_X509_bio sk_X509_free sk_X509_new_null
    sk_X509_num sk_X509_push sk_X509_value

    SSL_ERROR_SYSCALL SSL_ERROR_WANT_READ SSL_ERROR_ZERO_RETURN SSL_MODE_RELEASE_BUFFERS
    SSL_OP_CIPHER_SERVER_PREFERENCE SSL_OP_NO_COMPRESSION SSL_OP_NO_RENEGOTIATION
    SSL_OP_NO_TICKET SSL_RECEIVED_SHUTDOWN SSL_SESS_CACHE_OFF SSL_TLSEXT_ERR_ALERT_FATAL
    SSL_TLSEXT_ERR_OK SSL_VERIFY_FAIL_IF_NO_PEER_CERT SSL_VERIFY_PEER
    X509_V_ERR_CERT_SIGNATURE_FAILURE X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
    X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT
    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE
    X509_V_FLAG_PARTIAL_CHAIN
    """.split()  # noqa: SIM905  seventy names are easier to read unquoted
)
"""Every function and constant of OpenSSL that crosses here."""

_ERR_LIB_SSL: Final = 20
_ALERT_BASE: Final = 1000
"""SSL_AD_REASON_OFFSET: a reason above it is an alert that the peer sent."""

_EXCESSIVE_MESSAGE_SIZE: Final = 152
"""SSL_R_EXCESSIVE_MESSAGE_SIZE (not among the binding's constants)."""

_X25519_PREFIX: Final = "302a300506032b656e032100"
"""Of a SubjectPublicKeyInfo (RFC 8410 section 4); 32 bytes of key follow."""


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
    """Return what is loaded, tested or not."""
    text = ffi.string(lib.OpenSSL_version(0)).decode()
    return Versions(cryptography.__version__, text)


def addresses(functions: Iterable[str]) -> dict[str, int]:
    """Return the functions' addresses, for the compiled engine, which calls them without the GIL.

    Raises:
        EngineError: this isn't the tested library.
    """
    names = tuple(functions)
    missing = [name for name in names if not hasattr(lib, name)]
    if missing:
        raise EngineError(f"the TLS library lacks {', '.join(missing)}")
    return {name: address_of(ffi.addressof(lib, name)) for name in names}


@cache
def stand_ins() -> tuple[int, int]:
    """Return the addresses of a small EVP_PKEY and of an empty X509_NAME, which are never freed.
    They replace the public key and the names of a peer's certificate, of which nothing is used
    after the handshake."""
    der = bytes.fromhex(_X25519_PREFIX) + bytes(31) + b"\x01"
    bio = ffi.gc(not_null(lib.BIO_new_mem_buf(der, len(der))), lib.BIO_free)
    key = not_null(lib.d2i_PUBKEY_bio(bio, ffi.NULL))
    certificate = ffi.gc(not_null(lib.X509_new()), lib.X509_free)
    # X509_NAME_dup writes a new name's encoding into that name; the copy has it already, so that
    # several threads may copy it at once
    name = not_null(lib.X509_NAME_dup(lib.X509_get_subject_name(certificate)))
    return address_of(key), address_of(name)


def overwrite_freed(size: int) -> None:
    """Overwrite what this thread has freed of blocks of `size` bytes, or up to twice as many: that
    is where `cryptography` leaves the DER that it reads or makes of a private key.  Blocks of
    LONGEST_KEY bytes and more are left alone: no key is so long, whatever else a file holds."""
    # glibc's malloc has a list for every 16 bytes
    for each in range(size, min(2 * size, LONGEST_KEY), 16):
        blocks = [not_null(lib.OPENSSL_malloc(each)) for _ in range(_FREED)]
        for block in blocks:
            ffi.memmove(block, bytes(each), each)
            lib.OPENSSL_free(block)


LONGEST_KEY: Final = 16 * 1024
"""Bytes of DER; one of RSA with 16,384 bits has 9 KiB."""

_FREED: Final = 8
"""Blocks that are overwritten of each size; a thread's list of free ones holds 7."""


# Errors, in words.


def oldest_error() -> TlsError:
    """Take the oldest error of OpenSSL's queue, and return it in words."""
    return in_words(lib.ERR_get_error())


def in_words(code: int) -> TlsError:
    """Return what an error code of OpenSSL (ERR_get_error) means."""
    reason = lib.ERR_GET_REASON(code)
    words = text_of(lib.ERR_reason_error_string(code)) or "broken off"
    if (code >> 23) & 0xFF == _ERR_LIB_SSL and _ALERT_BASE <= reason < _ALERT_BASE + 256:
        alert = reason - _ALERT_BASE
        return TlsError(f"peer sent alert {ALERTS.get(alert, alert)}", alert)
    return TlsError(CAUSES.get(words, words))


def is_too_large(code: int) -> bool:
    """Whether this error of OpenSSL says that a message's header announces too much.  After the
    hellos no message but Certificate is ever so large."""
    is_ssl = (code >> 23) & 0xFF == _ERR_LIB_SSL
    return is_ssl and lib.ERR_GET_REASON(code) == _EXCESSIVE_MESSAGE_SIZE


def not_null(pointer: Any) -> Any:
    """Return the pointer that OpenSSL has returned.

    Raises:
        EngineError: it is NULL.
    """
    if pointer == ffi.NULL:
        raise EngineError(f"OpenSSL made nothing: {oldest_error().reason}")
    return pointer


def expect_ok(result: int, what: str = "the TLS settings") -> None:
    """Make sure that OpenSSL has returned 1.

    Raises:
        IdentityError: it refused `what`.
    """
    if result != 1:
        raise IdentityError(f"OpenSSL refused {what}: {oldest_error().reason}")


# Between Python's values and OpenSSL's.


def x509_from(der: bytes) -> Any:
    """Return an X509 *, which is freed with the object.

    Raises:
        EngineError: OpenSSL can't read it.
    """
    bio = not_null(lib.BIO_new_mem_buf(der, len(der)))
    certificate = lib.d2i_X509_bio(bio, ffi.NULL)
    lib.BIO_free(bio)
    return ffi.gc(not_null(certificate), lib.X509_free)


def der_of(certificate: Any) -> bytes:
    """Return the DER of an X509 *."""
    bio = ffi.gc(memory_bio(), lib.BIO_free)
    expect_ok(lib.i2d_X509_bio(bio, certificate), "a certificate")
    pointer = ffi.new("char **")
    size = lib.BIO_get_mem_data(bio, pointer)
    return bytes(ffi.buffer(pointer[0], size))


def bio_over(data: bytes) -> Any:
    """Return a BIO to read from; it holds `data` as long as it lives."""
    held = ffi.from_buffer(data)

    def free(bio: Any, _held: Any = held) -> None:
        lib.BIO_free(bio)

    return ffi.gc(not_null(lib.BIO_new_mem_buf(held, len(data))), free)


def memory_bio() -> Any:
    """Return a BIO to write to; the caller frees it."""
    return not_null(lib.BIO_new(lib.BIO_s_mem()))


def address_of(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def text_of(pointer: Any) -> str:
    """Return the text at a char *; empty for NULL."""
    return "" if pointer == ffi.NULL else ffi.string(pointer).decode()
