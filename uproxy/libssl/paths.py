"""Path validation (RFC 5280 section 6): from a leaf to an anchor, by OpenSSL.

One store holds the roots of one trust domain, and nothing else.  OpenSSL looks for issuers by
name and key identifier, one way only, and then checks signatures from the anchor downward, so
no key is computed with that isn't signed for.  It checks basicConstraints, path lengths, name
constraints and unknown critical extensions.  It doesn't check times, revocations, extended key
usages or the strength of keys and signatures: those are the verifier's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from uproxy.errors import EngineError
from uproxy.libssl.binding import address_of, expect_ok, ffi, lib, not_null, text_of, x509_from

_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (not among the binding's constants): the time is a parameter of the
store, which several threads use at once."""


class PathError(Exception):
    """There is no valid path; the text is OpenSSL's reason."""


class AnchorStore:
    """The roots of one trust domain, in the order given."""

    __slots__ = ("_numbers", "_store")

    def __init__(self, roots: Sequence[bytes]) -> None:
        """`roots` are DER, each one once.

        Raises:
            PathError: OpenSSL can't read one of them.
        """
        lib.ERR_clear_error()
        self._store = ffi.gc(not_null(lib.X509_STORE_new()), lib.X509_STORE_free)
        flags = lib.X509_V_FLAG_PARTIAL_CHAIN | _NO_CHECK_TIME
        expect_ok(lib.X509_STORE_set_flags(self._store, flags), "the flags of a store")
        self._numbers: dict[int, int] = {}  # of a root, by its address
        for number, der in enumerate(roots):
            certificate = _read(der)
            # the store counts a reference of its own, so the address stays this root's
            expect_ok(lib.X509_STORE_add_cert(self._store, certificate), "a root")
            self._numbers[address_of(certificate)] = number

    def find_path(self, chain: Sequence[bytes]) -> tuple[tuple[int, ...], int]:
        """Validate the first certificate of `chain` (DER, leaf first) with the help of the others.

        Returns:
            The positions in `chain` of the path's certificates, and that of the anchor among
            the roots.

        Raises:
            PathError: no valid path leads to a root.
        """
        lib.ERR_clear_error()
        certificates = [_read(der) for der in chain]
        others = ffi.gc(not_null(lib.sk_X509_new_null()), lib.sk_X509_free)
        for certificate in certificates[1:]:
            lib.sk_X509_push(others, certificate)
        context = ffi.gc(not_null(lib.X509_STORE_CTX_new()), lib.X509_STORE_CTX_free)
        expect_ok(lib.X509_STORE_CTX_init(context, self._store, certificates[0], others), "a path")
        try:
            if lib.X509_verify_cert(context) != 1:
                error = lib.X509_STORE_CTX_get_error(context)
                raise PathError(text_of(lib.X509_verify_cert_error_string(error)))
        finally:
            # this may run inside a handshake of the same thread, which looks at the queue
            lib.ERR_clear_error()
        *path, anchor = _addresses(context)
        positions = {address_of(each): number for number, each in enumerate(certificates)}
        return tuple(positions[each] for each in path), self._numbers[anchor]


def _read(der: bytes) -> Any:
    try:
        return x509_from(der)
    except EngineError as error:
        # readers differ in what they let pass
        raise PathError("OpenSSL can't read a certificate") from error


def _addresses(context: Any) -> list[int]:
    """Of the path's certificates: those handed in, which the caller holds."""
    stack = not_null(lib.X509_STORE_CTX_get1_chain(context))
    certificates = [lib.sk_X509_value(stack, i) for i in range(lib.sk_X509_num(stack))]
    for certificate in certificates:
        lib.X509_free(certificate)
    lib.sk_X509_free(stack)
    return [address_of(certificate) for certificate in certificates]
