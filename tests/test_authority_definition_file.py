"""The authority's YAML: what it means, and how its mistakes are told."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from uproxy.authority import DomainDefinition, EntryDefinition, parse_definition
from uproxy.errors import ConfigError

WEB = "spiffe://example.org/web"


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_definition(text)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_everything_can_be_said() -> None:
    definition = parse_definition(
        """
        sockets: /run/authority
        trust_domains:
          example.org:
            ttl: 1m
            jwt_ttl: 10s
            ca_ttl: 1h
            intermediate: true
            ca: 3
            federates_with: [partner.test]
            revoke: [spiffe://example.org/old]
            socket: /run/example.sock
            entries:
              - {spiffe_id: spiffe://example.org/web, hint: web, uid: 1000, gid: 100, path: /bin/x}
          partner.test: {}
        """
    )

    assert definition.sockets == "/run/authority"
    assert definition.trust_domains["partner.test"] == DomainDefinition("partner.test")
    assert definition.trust_domains["example.org"] == DomainDefinition(
        name="example.org",
        entries=(EntryDefinition(WEB, "web", 1000, 100, "/bin/x"),),
        ttl=60.0,
        jwt_ttl=10.0,
        ca_ttl=3600.0,
        intermediate=True,
        federates_with=("partner.test",),
        revoke=("spiffe://example.org/old",),
        ca=3,
        socket="/run/example.sock",
    )


def entry(fields: str) -> EntryDefinition:
    text = f"trust_domains: {{example.org: {{entries: [{{spiffe_id: {WEB}, {fields}}}]}}}}"
    (one,) = parse_definition(text).trust_domains["example.org"].entries
    return one


def test_the_starter_is_whoever_runs_the_authority() -> None:
    assert entry("uid: starter").uid == os.getuid()
    assert entry("gid: starter").gid == os.getgid()


def test_users_and_groups_may_be_named() -> None:
    assert entry("uid: nobody").uid == pwd.getpwnam("nobody").pw_uid
    group = grp.getgrgid(os.getgid()).gr_name
    assert entry(f"gid: {group}").gid == os.getgid()


def test_the_files_in_certs_are_good() -> None:
    definition = parse_definition(Path("certs/dev.yaml").read_text())

    assert set(definition.trust_domains) == {"example.org", "partner.test", "stranger.test"}
    for name, domain in definition.trust_domains.items():
        assert all(one.uid == os.getuid() for one in domain.entries), name


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("ttl: 1s", 'trust_domains["example.org"].ttl = \'1s\' (line 3, column 10): '
                    "must be at least 2s"),
        ("jwt_ttl: 1s", "must be at least 2s"),
        ("ca_ttl: 1m", "must be at least twice the ttl"),
        ("tll: 1m", "no such key; did you mean 'ttl'?"),
        ("federates_with: [example.org]", "must be another trust domain of this file"),
        ("federates_with: [other.test]", "must be another trust domain of this file"),
        ("revoke: [spiffe://other.test/x]", "must be in the trust domain example.org"),
        ("revoke: [spiffe://example.org]", "names no workload: add a path"),
        ("ca: 0", "must be at least 1"),
        ("socket: run/x.sock", "must be an absolute path"),
        ("entries: [{spiffe_id: spiffe://other.test/x, uid: starter}]",
         "must be in the trust domain example.org"),
        ("entries: [{spiffe_id: spiffe://example.org, uid: starter}]", "add a path"),
        ("entries: [{spiffe_id: spiffe://example.org/x}]",
         "say who may have it by uid (such as 'starter'), gid or path"),
        ("entries: [{uid: starter}]", "is missing; must be"),
        ("entries: [{spiffe_id: spiffe://example.org/x, uid: no-such-user}]",
         "must be a number, a known name or 'starter'"),
        ("entries: [{spiffe_id: spiffe://example.org/x, uid: 4294967295}]", "must be a number"),
        ("entries: [{spiffe_id: spiffe://example.org/x, gid: no-such-group}]", "a known name"),
        ("entries: [{spiffe_id: spiffe://example.org/x, path: bin/x}]", "absolute path"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(body: str, said: str) -> None:
    (told,) = mistakes(f"trust_domains:\n  example.org:\n    {body}\n")

    assert said in told
    assert "(line 3, column" in told


def test_a_hint_names_one_identity() -> None:
    told = mistakes(
        """
        trust_domains:
          example.org:
            entries:
              - {spiffe_id: spiffe://example.org/a, hint: x, uid: 1}
              - {spiffe_id: spiffe://example.org/a, hint: x, uid: 2}
              - {spiffe_id: spiffe://example.org/b, hint: x, uid: 3}
        """
    )

    assert len(told) == 1
    assert "entries[2].hint" in told[0]
    assert "is the hint of spiffe://example.org/a already" in told[0]


def test_all_mistakes_are_told_in_order() -> None:
    told = mistakes(
        """
        trust_domains:
          Example.org: {ttl: never}
          example.org: {ca: 0}
        nonsense: 1
        """
    )

    assert [line.partition(" (line ")[2].partition(",")[0] for line in told] == ["3", "3", "4", "5"]


@pytest.mark.parametrize("text", ["", "[]", "trust_domains: {}", "a: [", "sockets: /run"])
def test_what_is_no_definition_is_refused(text: str) -> None:
    assert mistakes(text)
