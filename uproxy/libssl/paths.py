"""Path validation (RFC 5280 section 6): from a leaf to an anchor, by OpenSSL.

OpenSSL looks for issuers by name and key identifier, one way only, and then checks signatures
from the anchor downward, each one once, so no key is computed with that isn't signed for, and one
signature at most is wrong.  It checks basicConstraints, path lengths, name
constraints and unknown critical extensions.  It doesn't check times, revocations, extended key
usages or the strength of keys and signatures: those are the verifier's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from uproxy.errors import EngineError
from uproxy.libssl.binding import expect_ok, ffi, lib, not_null, text_of, x509_from

_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (not among the binding's constants): the time is a parameter of the
store, which several threads use at once."""

_UNSIGNED: Final = (
    lib.X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, lib.X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
    lib.X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, lib.X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT,
    lib.X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, lib.X509_V_ERR_CERT_SIGNATURE_FAILURE,
)  # fmt: skip
"""The errors that mean: names, key identifiers or a signature lead to no root."""


class PathError(Exception):
    """There is no valid path; the text is OpenSSL's reason."""

    def __init__(
        self, reason: str, unsigned: int | None = None, *, is_leaf_signature: bool = False
    ) -> None:
        super().__init__(reason)
        self.unsigned = unsigned
        """The place in the path (the leaf's is 0) of a certificate that neither the next one nor
        the root has signed.  None: the path is invalid for another reason."""
        self.is_leaf_signature = is_leaf_signature
        """Whether only the leaf's signature is wrong, in the very path that was given.  OpenSSL
        checks signatures last, the leaf's after all others, and then only which names the path's
        signers allow."""


class Anchor:
    """One root.  Several threads may use it at once."""

    __slots__ = ("_store",)

    def __init__(self, root: bytes) -> None:
        """`root` is DER.

        Raises:
            PathError: OpenSSL can't read it.
        """
        lib.ERR_clear_error()
        self._store = ffi.gc(not_null(lib.X509_STORE_new()), lib.X509_STORE_free)
        flags = lib.X509_V_FLAG_PARTIAL_CHAIN | _NO_CHECK_TIME
        expect_ok(lib.X509_STORE_set_flags(self._store, flags), "the flags of a store")
        # the store counts a reference of its own
        expect_ok(lib.X509_STORE_add_cert(self._store, _read(root)), "a root")

    def validate(self, path: Sequence[bytes]) -> list[int]:
        """Validate the first certificate of `path` (DER, leaf first), in which the next one signs
        each, and the root the last.

        Return the places in `path` of those that OpenSSL's own path led through, in its order.
        They are all of them, unless names that differ in letters or blanks only, or serial numbers
        in key identifiers, have led it along another path; what isn't there wasn't looked at.

        Raises:
            PathError: the path isn't valid.
        """
        lib.ERR_clear_error()
        leaf, *above = certificates = [_read(der) for der in path]
        others = _stack(above) if above else ffi.NULL
        context = ffi.gc(not_null(lib.X509_STORE_CTX_new()), lib.X509_STORE_CTX_free)
        expect_ok(lib.X509_STORE_CTX_init(context, self._store, leaf, others), "a path")
        try:
            is_valid = lib.X509_verify_cert(context) == 1
            places = [certificates.index(each) for each in _chain(context)[:-1]]
            if not is_valid:
                raise _why(context, is_whole=places == [*range(len(certificates))])
            return places
        finally:
            # this may run inside a handshake of the same thread, which looks at the queue
            lib.ERR_clear_error()
            del certificates  # OpenSSL reads them until here


def _stack(certificates: Sequence[Any]) -> Any:
    """Return a STACK_OF(X509), which doesn't hold the certificates."""
    stack = ffi.gc(not_null(lib.sk_X509_new_null()), lib.sk_X509_free)
    for certificate in certificates:
        lib.sk_X509_push(stack, certificate)
    return stack


def _chain(context: Any) -> list[Any]:
    """Return the pointers of OpenSSL's path, leaf first, which the context holds."""
    chain = lib.X509_STORE_CTX_get1_chain(context)
    if chain == ffi.NULL:
        return []
    found = [lib.sk_X509_value(chain, at) for at in range(lib.sk_X509_num(chain))]
    for each in found:
        lib.X509_free(each)  # the context has a reference of its own
    lib.sk_X509_free(chain)
    return found


def _why(context: Any, *, is_whole: bool) -> PathError:
    """Return the error that X509_verify_cert left in its X509_STORE_CTX."""
    error = lib.X509_STORE_CTX_get_error(context)
    place = lib.X509_STORE_CTX_get_error_depth(context) if error in _UNSIGNED else None
    reason = text_of(lib.X509_verify_cert_error_string(error))
    is_leaf = is_whole and place == 0 and error == lib.X509_V_ERR_CERT_SIGNATURE_FAILURE
    return PathError(reason, place, is_leaf_signature=is_leaf)


def _read(der: bytes) -> Any:
    try:
        return x509_from(der)
    except EngineError as error:
        # readers differ in what they let pass
        raise PathError("OpenSSL can't read a certificate") from error
