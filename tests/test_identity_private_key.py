"""Private keys in every form people have them in."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.errors import IdentityError
from uproxy.identity.private_key import belongs_to, parse_private_key
from uproxy.lab.pki import Authority, Issued, private_bytes

CA = Authority()
ISSUED = CA.issue()
RSA = CA.issue(key="rsa2048")
EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


@pytest.mark.parametrize("form", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("traditional", [False, True], ids=["PKCS#8", "SEC1 or PKCS#1"])
@pytest.mark.parametrize("issued", [ISSUED, RSA], ids=["EC", "RSA"])
def test_every_unencrypted_form_is_read(issued: Issued, form: Encoding, traditional: bool) -> None:
    key = parse_private_key(private_bytes(issued.key, form, sec1=traditional))
    assert belongs_to(key, issued.certificate)


def test_what_else_is_in_the_file_is_passed_over() -> None:
    sec1 = private_bytes(ISSUED.key, Encoding.PEM, sec1=True)
    for data in (ISSUED.pem + ISSUED.key_pem + CA.pem, EC_PARAMETERS + sec1):
        assert belongs_to(parse_private_key(data), ISSUED.certificate)


def test_a_key_belongs_to_its_own_certificate_only() -> None:
    assert not belongs_to(ISSUED.key, CA.issue().certificate)
    assert not belongs_to(ISSUED.key, RSA.certificate)


@pytest.mark.parametrize("form", [Encoding.PEM, Encoding.DER])
def test_an_encrypted_key_says_how_to_decrypt_it(form: Encoding) -> None:
    with pytest.raises(IdentityError, match="openssl pkey"):
        parse_private_key(private_bytes(ISSUED.key, form, password=b"secret"))


def test_an_encrypted_traditional_key_says_how_to_decrypt_it() -> None:
    data = private_bytes(ISSUED.key, Encoding.PEM, sec1=True, password=b"secret")
    assert b"Proc-Type" in data
    with pytest.raises(IdentityError, match="openssl pkey"):
        parse_private_key(data)


@pytest.mark.parametrize(
    ("word", "data"),
    [
        ("no complete PRIVATE KEY", ISSUED.pem),
        ("no complete PRIVATE KEY", ISSUED.key_pem[:-10]),
        ("more than one", ISSUED.key_pem + RSA.key_pem),
        ("not a private key", b"hello"),
        ("not a private key", ISSUED.der[0]),
        ("not a private key", ISSUED.key_pem.replace(b"MIG", b"MIX")),
        ("not a private key", b""),
    ],
)
def test_what_is_no_key_is_an_error_without_its_content(word: str, data: bytes) -> None:
    with pytest.raises(IdentityError, match=word) as caught:
        parse_private_key(data)
    body = ISSUED.key_pem.split(b"\n")[1].decode()
    assert body[:20] not in str(caught.value)
