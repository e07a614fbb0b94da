"""What holds for every connection unless the file says otherwise."""

from __future__ import annotations

from tests.helpers.config_documents import FILES, loaded
from uproxy.config.leaves import CIPHERS_12, CIPHERS_13


def test_tls_1_2_brings_its_suites_only_when_asked_for() -> None:
    assert loaded(FILES).tls.ciphers == CIPHERS_13
    assert loaded(FILES + 'tls: {min_version: "1.2"}').tls.ciphers == CIPHERS_13 + CIPHERS_12
    older = loaded(FILES + 'tls: {min_version: "1.2"}').tls.groups
    assert older == (*loaded(FILES).tls.groups, "P-384", "P-521")
    assert loaded(FILES + 'tls: {min_version: "1.2", groups: [X25519]}').tls.groups == ("X25519",)
    chosen = f"tls: {{min_version: '1.2', ciphers: [{CIPHERS_13[1]}, {CIPHERS_12[1]}]}}"
    assert loaded(FILES + chosen).tls.ciphers == (CIPHERS_13[1], CIPHERS_12[1])
