"""What a leaf says of itself; the rules one by one are in test_identity_verifier."""

from __future__ import annotations

import pytest
from cryptography import x509

from uproxy.errors import UntrustedError
from uproxy.lab.pki import CLIENT_AUTH, SERVER_AUTH, Authority
from uproxy.model import Role
from uproxy.spiffe.svid import check_role, claimed_identity, extension

CA = Authority("example.org")


def test_a_well_formed_leaf_claims_one_identity_whoever_signed_it() -> None:
    leaf = CA.issue("/a/b", forged=True).certificate
    assert str(claimed_identity(leaf)) == "spiffe://example.org/a/b"


def test_a_refusal_repeats_the_uri_it_refuses() -> None:
    leaf = CA.issue(uris=("spiffe://example.org/a b",)).certificate
    with pytest.raises(UntrustedError, match=r"'spiffe://example\.org/a b' .*\(ID-14\)"):
        claimed_identity(leaf)


@pytest.mark.parametrize(
    ("usages", "allowed"),
    [
        (None, {Role.SERVER, Role.CLIENT}),
        ((SERVER_AUTH, CLIENT_AUTH), {Role.SERVER, Role.CLIENT}),
        ((SERVER_AUTH,), {Role.SERVER}),
        ((CLIENT_AUTH,), {Role.CLIENT}),
    ],
)
def test_a_leaf_plays_the_roles_its_usages_allow(
    usages: tuple[x509.ObjectIdentifier, ...] | None, allowed: set[Role]
) -> None:
    leaf = CA.issue(eku=usages).certificate
    for role in allowed:
        check_role(leaf, role)
    for role in set(Role) - allowed:
        with pytest.raises(UntrustedError, match=f"doesn't allow a {role}"):
            check_role(leaf, role)


def test_an_extension_may_be_absent() -> None:
    leaf = CA.issue(key_usage=None).certificate
    assert extension(leaf, x509.KeyUsage) is None
    assert extension(leaf, x509.BasicConstraints) == x509.BasicConstraints(False, None)
