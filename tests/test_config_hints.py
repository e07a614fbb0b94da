"""What was probably meant by valid YAML that is no valid setting."""

from __future__ import annotations

import pytest

from tests.helpers.config_documents import FILES, mistakes, only_mistake
from uproxy.config.kinds import Choice
from uproxy.config.nodes import Place, Scalar, Style
from uproxy.model import Mistake


def rule(callers: str) -> str:
    """Return a configuration with an allow rule for these callers."""
    return FILES + f"authorization: [{{action: allow, from: {{{callers}}}}}]\n"


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        ("timeouts:\n  idle:1h\n", "timeouts", "a blank is missing after the colon of `idle:`"),
        ("log: {level:debug}\n", 'log["level:debug"]', "after the colon of `level:`"),
        ("log:level: debug\n", '["log:level"]', "after the colon of `log:`"),
        ("inbound:\n  -listen: x\n", "inbound", "a blank is missing after the dash"),
        ("inbound: {listen: x}\n", "inbound", "begin it with `- `"),
        ("log: [{level: debug}]\n", "log", "remove its dash or brackets"),
        ("timeouts:\n  \xa0idle: 1h\n", 'timeouts["\\xa0idle"]', "invisible character, U+00A0"),
        ("tls: {groups: X25519}\n", "tls.groups", "write [X25519]"),
        ("tls: {groups: -X25519}\n", "tls.groups", "a blank is missing after the dash"),
        ("tls: {verify: x}\n", "tls.verify", "the keys here are min_version, groups, ciphers"),
        (
            "limits: {connections: 99999999999999999999}\n",
            "limits.connections",
            "must be a smaller number",
        ),
        ("log: debug\n", "log", "a mapping with the keys level, format, access"),
        ("log: {access: off}\n", "log.access", "must be one of all | denied | none"),
        ("admin: {listen: 15000}\n", "admin.listen", "write one such as 127.0.0.1:8443"),
        ("admin: {listen: /run/a.sock}\n", "admin.listen", "write unix:///run/a.sock"),
        ("admin: {listen: '*:15000'}\n", "admin.listen", "write 0.0.0.0:PORT or [::]:PORT"),
    ],
)
def test_what_is_written_slightly_wrong_is_told_with_the_way_out(
    text: str, path: str, hint: str
) -> None:
    mistake = only_mistake(FILES + text)
    assert mistake.path == path
    assert hint in mistake.reason


@pytest.mark.parametrize("text", ["inbound: [x]\n", "tls: {groups: ''}\n", "log: x\n"])
def test_nothing_is_guessed_where_nothing_is_likely(text: str) -> None:
    for mistake in mistakes(FILES + text):
        assert ";" not in mistake.reason
        assert "blank" not in mistake.reason


def test_several_unknown_keys_name_the_known_ones_once() -> None:
    found = mistakes(FILES + "apiVersion: v1\nkind: ConfigMap\n")
    assert ["the keys here are" in each.reason for each in found] == [True, False]


@pytest.mark.parametrize("between", [", ", " ", ","])
def test_several_spiffe_ids_in_one_text_are_told_so(between: str) -> None:
    text = between.join(["spiffe://example.org/x", "spiffe://example.org/y"])
    assert only_mistake(rule(f"identities: ['{text}']")).reason.endswith(
        "; it is 2 in one: each is an item of its own"
    )


@pytest.mark.parametrize("callers", ["['spiffe://a.b/c']", "'spiffe://a.b/c'"])
def test_callers_without_their_field_are_told_how_to_name_them(callers: str) -> None:
    text = f"authorization: [{{action: allow, from: {callers}}}]\n"
    reason = only_mistake(FILES + text).reason
    assert "a mapping of caller fields such as {identities: [spiffe://" in reason
    assert "remove its dash" not in reason


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("action: permit", "allow"),
        ("action: DENY", "deny"),
        ("action: reject", "deny"),
        ("transport: mTLS", "mtls"),
        ("transport: TLS", "mtls"),
        ("transport: none", "plaintext"),
        ("transport: tcp", "plaintext"),
        ("transport: zzz", None),
    ],
)
def test_another_softwares_word_is_known(written: str, meant: str | None) -> None:
    key, _, word = written.partition(": ")
    options = {"action": ("allow", "deny"), "transport": ("mtls", "hbone", "plaintext")}[key]
    found: list[Mistake] = []
    Choice(options).read(Scalar(word, Style.PLAIN, Place(1, 1)), key, found)
    assert [each.nearest for each in found] == [meant]


def test_a_word_processors_quotes_are_told_apart() -> None:
    mistake = only_mistake(rule("identities: [“spiffe://example.org/web”]"))
    assert mistake.reason.endswith("“ is no quote: type \" or '")


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("spiffe://example.org", "example.org"),
        ("SPIFFE://Example.org/ns/web", "example.org"),
        ("https://example.org/", "example.org"),
        ("example.org/ns/web", "example.org"),
        ("'spiffe://'", "its name, such as example.org"),
    ],
)
def test_a_trust_domain_is_a_name_alone(written: str, wanted: str) -> None:
    mistake = only_mistake(rule(f"trust_domains: [{written}]"))
    assert mistake.reason == f"must be a trust domain alone: write {wanted}"


def test_so_is_the_key_of_a_bundle() -> None:
    text = "identity: {files: {svid: a, key: b, bundles: {'spiffe://example.org': c}}}\n"
    assert only_mistake(text).reason == "the key must be a trust domain alone: write example.org"
