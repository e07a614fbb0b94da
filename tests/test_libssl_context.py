"""Contexts: what all handshakes under one plan share."""

from __future__ import annotations

import gc
import weakref

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.helpers.tls_sessions import OURS, US, pair, plan, shake, shaken
from uproxy.errors import IdentityError
from uproxy.lab.pki import Issued
from uproxy.libssl import context
from uproxy.libssl.binding import lib
from uproxy.libssl.context import context_of
from uproxy.model import Role, TlsSettings


def test_a_plan_has_one_context_for_as_long_as_it_lives() -> None:
    tls = plan(Role.SERVER)
    assert context_of(tls) is context_of(tls)
    assert context_of(plan(Role.SERVER)) is not context_of(tls)


def test_a_context_goes_with_its_plan() -> None:
    tls = plan(Role.SERVER)
    context_of(tls)
    there = weakref.ref(tls)
    gc.collect()  # what other tests have left
    before = len(context._contexts)
    del tls
    gc.collect()
    assert there() is None
    assert len(context._contexts) == before - 1


def test_a_session_outlives_its_plan() -> None:
    client, server = pair()
    gc.collect()
    shake(client, server)
    assert server.peer is not None


def test_a_key_that_is_not_the_certificates_is_refused() -> None:
    wrong = Issued(US.chain, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(IdentityError, match="OpenSSL refused our key: key values mismatch"):
        context_of(plan(Role.SERVER, wrong))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (TlsSettings(groups=("X25519", "P-1024")), "tls.groups X25519:P-1024"),
        (TlsSettings(ciphers=("TLS_NULL",)), "tls.ciphers TLS_NULL"),
    ],
)
def test_settings_that_openssl_refuses_are_named(settings: TlsSettings, words: str) -> None:
    with pytest.raises(IdentityError, match=words):
        context_of(plan(Role.SERVER, settings=settings))


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519"])
def test_every_usual_kind_of_key_can_be_shown(kind: str) -> None:
    client, server = shaken(plan(Role.CLIENT, OURS.issue(key=kind)))
    assert (client.peer is None, server.peer is None) == (False, False)


@pytest.mark.parametrize("role", list(Role))
def test_a_context_can_neither_resume_nor_renegotiate(role: Role) -> None:
    """OpenSSL's defaults would let some of it pass today: they are not what we rely on."""
    made = context_of(tls := plan(role))
    options = lib.SSL_CTX_get_options(made.pointer)
    for option in (lib.SSL_OP_NO_TICKET, lib.SSL_OP_NO_RENEGOTIATION, lib.SSL_OP_NO_COMPRESSION):
        assert options & option
    assert lib.SSL_CTX_get_session_cache_mode(made.pointer) == lib.SSL_SESS_CACHE_OFF
    assert lib.SSL_CTX_get_verify_mode(made.pointer) == 3  # peer, and fail without its certificate
    assert tls.role is role
