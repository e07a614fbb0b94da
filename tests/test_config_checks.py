"""Mistakes that take more than one field to see."""

from __future__ import annotations

import pytest

from tests.helpers.config_documents import FILES, loaded, mistakes, only_mistake
from uproxy.config.leaves import CIPHERS_12, CIPHERS_13

API = "identity: {workload_api: unix:///a"
DOOR = "name: a, transport: mtls, to: 127.0.0.1:80"
DESTINATION = "destinations: {db: {addresses: ['127.0.0.1:1'], transport: plaintext}}\n"


def _out(door: str) -> str:
    return FILES + DESTINATION + f"outbound: [{{{door}}}]\n"


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("name: a", "identity", "has no source"),
        ("identity: {}", "identity", "has no source"),
        ("identity: {on_expiry: keep}", "identity", "SPIFFE_ENDPOINT_SOCKET"),
        (
            API + ", files: {svid: s, key: k, bundles: {a.b: b}}}",
            "identity.files",
            "exactly one source",
        ),
        (API + ", spiffe_id: spiffe://a.b/c, hint: d}", "identity.hint", "beside spiffe_id"),
        (
            "identity: {hint: d, files: {svid: s, key: k, bundles: {a.b: b}}}",
            "identity.hint",
            "for the Workload API",
        ),
        (API + ", spiffe_id: example.org/a}", "identity.spiffe_id", "spiffe://"),
    ],
)
def test_there_is_exactly_one_identity(text: str, path: str, reason: str) -> None:
    mistake = only_mistake(text)
    assert mistake.path == path
    assert reason in mistake.reason


def test_a_wrong_source_is_not_also_called_missing() -> None:
    assert only_mistake("identity: {workload_api: /run/a.sock}").path == "identity.workload_api"
    assert only_mistake("identity: 5").path == "identity"


@pytest.mark.parametrize(
    ("text", "misspelled"),
    [
        ("identity: {workload_apis: unix:///a}", "identity.workload_apis"),
        (_out("listens: 127.0.0.1:1, to: db"), "outbound[0].listens"),
        (_out("listen: 127.0.0.1:1, too: db"), "outbound[0].too"),
        (
            FILES + "inbound: [{listen: 0.0.0.0:1, transports: mtls, to: 127.0.0.1:80}]",
            "inbound[0].transports",
        ),
        (
            FILES + "destinations: {db: {addresses: ['a:1'], transport: mtls, identitiez: [x]}}",
            "destinations.db.identitiez",
        ),
        (FILES + "authorization: [{action: allow, form: any}]", "authorization[0].form"),
    ],
)
def test_a_misspelled_key_is_not_also_called_missing(text: str, misspelled: str) -> None:
    mistake = only_mistake(text)
    assert (mistake.path, mistake.nearest is not None) == (misspelled, True)


@pytest.mark.parametrize("listen", ["127.0.0.1:1", '"systemd:a"'])
def test_permissions_are_for_unix_sockets(listen: str) -> None:
    found = mistakes(FILES + f'inbound: [{{{DOOR}, listen: {listen}, mode: "0600", owner: a}}]')
    assert [each.path for each in found] == ["inbound[0].mode", "inbound[0].owner"]
    found = mistakes(_out(f'listen: {listen}, to: db, mode: "0600", owner: a'))
    assert [each.path for each in found] == ["outbound[0].mode", "outbound[0].owner"]


def test_permissions_of_admin_listeners_need_a_unix_socket_among_them() -> None:
    rights = 'mode: "0660", owner: a'
    for listen in ("listen", "metrics", "ready"):
        admin = loaded(FILES + f"admin: {{{listen}: unix:///run/a.sock, {rights}}}").admin
        assert (admin.mode, admin.owner) == (0o660, "a")
    for none in ("listen: 127.0.0.1:1, ", "metrics: systemd:m, ", "ready: null, ", ""):
        found = mistakes(FILES + f"admin: {{{none}{rights}}}")
        assert [each.path for each in found] == ["admin.mode", "admin.owner"]
    assert only_mistake(FILES + f"admin: {{listen: nowhere, {rights}}}").path == "admin.listen"


def test_an_outbound_door_beyond_loopback_must_be_exposed_in_words() -> None:
    for listen in ("0.0.0.0:1", "'[::]:1'", "10.0.0.1:1", "'[::ffff:10.0.0.1]:1'"):
        mistake = only_mistake(_out(f"listen: {listen}, to: db"))
        assert mistake.path == "outbound[0].listen"
        assert "expose: true" in mistake.reason
        assert mistakes(_out(f"listen: {listen}, to: db, expose: false")) == (mistake,)
        assert loaded(_out(f"listen: {listen}, to: db, expose: true")).outbound[0].expose
    for listen in ("127.0.0.1:1", "127.9.9.9:1", "'[::1]:1'", "unix:///a", "'systemd:a'"):
        assert not loaded(_out(f"listen: {listen}, to: db")).outbound[0].expose
    wrong = only_mistake(_out("listen: 0.0.0.0:1, to: db, expose: yes"))
    assert wrong.path == "outbound[0].expose"


def test_an_outbound_door_leads_to_a_destination() -> None:
    mistake = only_mistake(_out("listen: 127.0.0.1:1, to: dbb"))
    assert (mistake.path, mistake.nearest) == ("outbound[0].to", "db")
    assert only_mistake(FILES + "outbound: [{listen: 127.0.0.1:1, to: db}]").nearest is None


def test_a_door_to_a_destination_with_a_mistake_is_not_a_second_mistake() -> None:
    text = FILES + "destinations: {db: {transport: plaintext}}\n"
    text += "outbound: [{listen: 127.0.0.1:1, to: db}]"
    assert only_mistake(text).path == "destinations.db.addresses"


def test_identities_are_for_mtls_and_required_there() -> None:
    base = "addresses: ['127.0.0.1:1']"
    missing = only_mistake(FILES + f"destinations: {{d: {{{base}, transport: mtls}}}}")
    assert missing.path == "destinations.d.identities"
    plain = f"{base}, transport: plaintext, identities: ['spiffe://a.b/c'], alpn: [h2]"
    found = mistakes(FILES + f"destinations: {{d: {{{plain}}}}}")
    assert [each.path for each in found] == ["destinations.d.identities", "destinations.d.alpn"]
    for pattern in ("spiffe://*/a", "spiffe://a.b", "a.b/c", "spiffe://a.b/x*"):
        text = f"{base}, transport: mtls, identities: ['{pattern}']"
        wrong = only_mistake(FILES + f"destinations: {{d: {{{text}}}}}")
        assert wrong.path == "destinations.d.identities[0]"


def test_alpn_means_nothing_in_plaintext() -> None:
    text = "listen: 0.0.0.0:1, transport: plaintext, to: unix:///a, alpn: [h2]"
    assert only_mistake(FILES + f"inbound: [{{{text}}}]").path == "inbound[0].alpn"


def test_two_doors_have_two_names() -> None:
    doors = f"inbound: [{{{DOOR}, listen: 0.0.0.0:1}}, {{{DOOR}, listen: 0.0.0.0:2}}]"
    mistake = only_mistake(FILES + doors)
    assert mistake.path == "inbound[1].name"
    assert "inbound[0]" in mistake.reason


@pytest.mark.parametrize(
    ("tls", "path", "reason"),
    [
        ("ciphers: [ECDHE-RSA-AES128-GCM-SHA256]", "tls.ciphers", "none for TLS 1.3"),
        (f"ciphers: [{CIPHERS_13[0]}, {CIPHERS_12[0]}]", "tls.ciphers[1]", "min_version"),
        (f"min_version: 1.2, ciphers: [{CIPHERS_13[0]}]", "tls.ciphers", "none for TLS 1.2"),
        (f"min_version: 1.2, ciphers: [{CIPHERS_12[0]}]", "tls.ciphers", "none for TLS 1.3"),
        ("min_version: 1.2, groups: [X25519MLKEM768]", "tls.groups", "none for TLS 1.2"),
        ("groups: [prime256v1]", "tls.groups[0]", "P-256"),
        ("ciphers: [AES128-SHA]", "tls.ciphers[0]", "must be one of"),
    ],
)
def test_every_tls_version_offered_has_what_it_needs(tls: str, path: str, reason: str) -> None:
    found = mistakes(FILES + f"tls: {{{tls}}}")
    assert path in [each.path for each in found]
    assert any(reason in each.reason for each in found)


def test_the_drain_delay_is_part_of_the_drain() -> None:
    assert only_mistake(FILES + "timeouts: {drain: 4s}").path == "timeouts.drain"
    assert only_mistake(FILES + "timeouts: {drain_delay: 26s}").path == "timeouts.drain_delay"
    both = only_mistake(FILES + "timeouts: {drain: 1s, drain_delay: 2s}")
    assert "drain_delay (2s)" in both.reason
    assert loaded(FILES + "timeouts: {drain: 5s}").timeouts.drain == 5
    assert loaded(FILES + "timeouts: {drain: 0}").timeouts.drain == 0
    assert only_mistake(FILES + "timeouts: {drain: 4}").path == "timeouts.drain"


def test_a_server_name_means_nothing_in_plaintext() -> None:
    text = (
        FILES + "destinations:\n  db: {addresses: ['a:1'], transport: plaintext, server_name: b}\n"
    )
    mistake = only_mistake(text)
    assert mistake.path == "destinations.db.server_name"
    assert "means nothing with `transport: plaintext`" in mistake.reason
