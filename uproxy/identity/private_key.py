"""Private keys out of bytes: PKCS#8, SEC1 or PKCS#1, PEM or DER, unencrypted.

The bytes and the library's own words about them never get into a message.
"""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from uproxy.errors import IdentityError, UnusableError
from uproxy.libssl import overwrite_freed

# a file may begin with EC PARAMETERS or hold the certificate too
_PEM_KEY = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----(?:(?!-----)[\x00-\xff])*-----END \1-----"
)
_PEM_BEGIN = b"-----BEGIN "
_ENCRYPTED = (b"ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")


def parse_private_key(data: bytes) -> PrivateKeyTypes:
    """Read the one private key in `data`.

    Raises:
        UnusableError: encrypted.
        IdentityError: none, several, or unreadable; without a word of its content.
    """
    is_pem = _PEM_BEGIN in data
    if is_pem:
        data = _pem_block(data)
    load = load_pem_private_key if is_pem else load_der_private_key
    try:
        return load(data, None)
    except TypeError as error:
        # what cryptography raises when a password is needed
        raise _encrypted() from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError("not a private key in PEM or DER (PKCS#8, SEC1 or PKCS#1)") from error
    finally:
        overwrite_freed(len(data) // 2)  # the DER of a PEM has more than half its length


def belongs_to(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    """Whether `key` is the private half of the certificate's."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form)


def _pem_block(data: bytes) -> bytes:
    blocks = [match.group() for match in _PEM_KEY.finditer(data)]
    if not blocks:
        raise IdentityError("it holds no complete PRIVATE KEY block")
    if len(blocks) > 1:
        raise IdentityError("it holds more than one private key")
    if any(mark in blocks[0] for mark in _ENCRYPTED):
        raise _encrypted()
    return blocks[0]


def _encrypted() -> UnusableError:
    return UnusableError(
        "the key is encrypted, and there is nobody to ask for a password: "
        "decrypt it (openssl pkey -in KEY -out PLAIN) and protect the file by its permissions"
    )
