"""Each rule of SPIFFE-ID by its id, and identity patterns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from uproxy.errors import SpiffeIdError
from uproxy.spiffe.ids import MAX_ID_BYTES, IdentityPattern, SpiffeId, TrustDomain

REFUSED = [
    ("ID-1", "http://td/a"),
    ("ID-1", "spiffes://td/a"),
    ("ID-1", "//td/a"),
    ("ID-1", "spiffe:/td/a"),
    ("ID-1", "spiffe:td/a"),
    ("ID-1", "\u017fpiffe://td/a"),
    ("ID-1", " spiffe://td/a"),
    ("ID-1", ""),
    ("ID-2", "spiffe:///a"),
    ("ID-2", "spiffe://"),
    ("ID-3", "spiffe://td/a?x=1"),
    ("ID-3", "spiffe://td/a?"),
    ("ID-3", "spiffe://td?x"),
    ("ID-4", "spiffe://td/a#f"),
    ("ID-4", "spiffe://td/a#"),
    ("ID-5", "spiffe://u@td/a"),
    ("ID-5", "spiffe://u:p@td/a"),
    ("ID-5", "spiffe://@td/a"),
    ("ID-6", "spiffe://td:80/a"),
    ("ID-6", "spiffe://td:/a"),
    ("ID-8", "spiffe://td!/a"),
    ("ID-8", "spiffe://t d/a"),
    ("ID-8", "spiffe://[::1]/a"),
    ("ID-8", "spiffe://[::1]:80/a"),
    ("ID-8", "spiffe://dömäne/a"),
    ("ID-8", "spiffe://td\n/a"),
    ("ID-8", "spiffe://td\n"),
    ("ID-8", "spiffe://\u212aelvin/a"),
    ("ID-8", "spiffe://t\u0000d/a"),
    ("ID-9", "spiffe://t%64/a"),
    ("ID-11", "spiffe://td/a%2fb"),
    ("ID-11", "spiffe://td/%61"),
    ("ID-12", "spiffe://td//a"),
    ("ID-12", "spiffe://td/a//b"),
    ("ID-12", "spiffe://td/./a"),
    ("ID-12", "spiffe://td/a/.."),
    ("ID-12", "spiffe://td/../a"),
    ("ID-13", "spiffe://td/a/"),
    ("ID-13", "spiffe://td/"),
    ("ID-13", "spiffe://td//"),
    ("ID-14", "spiffe://td/a+b"),
    ("ID-14", "spiffe://td/a b"),
    ("ID-14", "spiffe://td/a:b"),
    ("ID-14", "spiffe://td/a\n"),
    ("ID-14", "spiffe://td/a*"),
    ("ID-14", "spiffe://td/ä"),
    ("ID-14", "spiffe://td/a\\b"),
    ("ID-15", "spiffe://td/" + "a" * 2037),
    ("ID-17", "spiffe://" + "a" * 256 + "/b"),
]

ACCEPTED = [
    ("ID-1", "spiffe://td/a"),
    ("ID-8", "spiffe://1.2.3.4/a"),
    ("ID-8", "spiffe://_x-y.z/a"),
    ("ID-10", "spiffe://a..b/a"),
    ("ID-10", "spiffe://-x/a"),
    ("ID-10", "spiffe://./a"),
    ("ID-12", "spiffe://td/..."),
    ("ID-12", "spiffe://td/.a/b."),
    ("ID-14", "spiffe://td/aZ09.-_/b"),
    ("ID-15", "spiffe://td/" + "a" * 2036),
    ("ID-17", "spiffe://" + "a" * 255 + "/b"),
    ("trust-domain-id", "spiffe://td"),
]


def _names(cases: list[tuple[str, str]]) -> list[str]:
    return [f"{rule}-{text[:30]!r}" for rule, text in cases]


@pytest.mark.parametrize(("rule", "text"), REFUSED, ids=_names(REFUSED))
def test_what_breaks_a_rule_is_refused_by_its_name(rule: str, text: str) -> None:
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse(text)
    assert caught.value.rule == rule
    assert str(caught.value).endswith(f"({rule})")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("_rule", "text"), ACCEPTED, ids=_names(ACCEPTED))
def test_what_keeps_the_rules_is_kept_as_it_is(_rule: str, text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


def test_scheme_and_trust_domain_are_read_without_case_id_7() -> None:
    loud = SpiffeId.parse("SPIFFE://EXAMPLE.org/a")
    assert loud == SpiffeId.parse("spiffe://example.org/a")
    assert str(loud) == "spiffe://example.org/a"


def test_the_path_keeps_its_case_id_18() -> None:
    assert SpiffeId.parse("spiffe://td/A") != SpiffeId.parse("spiffe://td/a")


def test_a_trailing_newline_is_not_part_of_a_spiffe_id() -> None:
    for text in ("spiffe://td\n", "spiffe://td/a\n", "spiffe://td\n/a"):
        with pytest.raises(SpiffeIdError):
            SpiffeId.parse(text)


def test_the_longest_id_is_2048_bytes_id_15() -> None:
    longest = "spiffe://td/" + "a" * 2036
    assert len(longest) == MAX_ID_BYTES
    assert len(str(SpiffeId.parse(longest))) == MAX_ID_BYTES


def test_a_spiffe_id_can_not_be_made_wrong_without_parsing() -> None:
    domain = TrustDomain("td")
    for path in ("a", "/", "/a/", "/a b", "/a?b", "/.."):
        with pytest.raises(SpiffeIdError):
            SpiffeId(domain, path)
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId(domain, "/" + "a" * 2048)
    assert caught.value.rule == "ID-15"


def test_a_long_text_is_told_short() -> None:
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse("http://" + "a" * 5000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("parse", [SpiffeId.parse, IdentityPattern.parse])
def test_text_is_quoted_as_it_was_written_and_up_to_120_characters(
    parse: Callable[[str], object],
) -> None:
    start = "spiffe://Example.ORG/"
    for size, shown in ((120, start + "é" * 99), (121, start + "é" * 99 + "…")):
        with pytest.raises(SpiffeIdError) as caught:
            parse(start + "é" * (size - len(start)))
        assert str(caught.value).startswith(f"{shown!r} isn't ")


def test_a_pattern_is_as_long_as_an_id_at_most() -> None:
    longest = "spiffe://td/" + "a" * (MAX_ID_BYTES - len("spiffe://td/"))
    assert str(IdentityPattern.parse(longest)) == longest
    with pytest.raises(SpiffeIdError, match="ID-15"):
        IdentityPattern.parse(f"{longest}a")


def test_every_segment_of_a_path_counts() -> None:
    for path in ("good/b ad", "b ad/good", "good/b ad/good"):
        for parse in (SpiffeId.parse, IdentityPattern.parse):
            with pytest.raises(SpiffeIdError, match="ID-14"):
                parse(f"spiffe://td/{path}")


def test_a_trust_domain_is_a_bare_name() -> None:
    assert TrustDomain.parse("Example.ORG").name == "example.org"
    assert str(TrustDomain.parse("example.org")) == "example.org"
    for text in ("", "spiffe://td", "td/a", "a" * 256, "td:1", "t*"):
        with pytest.raises(SpiffeIdError):
            TrustDomain.parse(text)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/ns/web/sa/frontend", ("web", "frontend")),
        ("/ns/web/sa", None),
        ("/ns/web/sa/frontend/x", None),
        ("/x/ns/web/sa/frontend", None),
        ("/NS/web/sa/frontend", None),
        ("/ns/web/SA/frontend", None),
        ("/sa/web/ns/frontend", None),
        ("", None),
    ],
)
def test_namespace_and_account_need_exactly_the_path(
    path: str, expected: tuple[str, str] | None
) -> None:
    assert SpiffeId.parse(f"spiffe://td{path}").namespace_and_account == expected


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/a", "/a", True),
        ("/a", "/A", False),
        ("/a", "/a/b", False),
        ("/a/b", "/a", False),
        ("/*", "/a", True),
        ("/*", "/a/b", False),
        ("/*", "", False),
        ("/**", "", True),
        ("/**", "/a", True),
        ("/**", "/a/b/c", True),
        ("/a/**", "/a", True),
        ("/a/**", "/a/b/c", True),
        ("/a/**", "/ab", False),
        ("/**/b", "/b", True),
        ("/**/b", "/a/a/b", True),
        ("/**/b", "/a/b/c", False),
        ("/a/**/b/*", "/a/b/c", True),
        ("/a/**/b/*", "/a/b/b", True),
        ("/a/**/b/*", "/a/x/b", False),
        ("/**/a/**/a", "/a/a", True),
        ("/**/a/**/a", "/a", False),
        ("/ns/*/sa/web", "/ns/x/sa/web", True),
        ("/ns/*/sa/web", "/ns/sa/web", False),
    ],
)
def test_a_star_is_one_segment_and_two_are_any_number(
    pattern: str, path: str, expected: bool
) -> None:
    matched = IdentityPattern.parse(f"spiffe://td{pattern}")
    assert matched.matches(SpiffeId.parse(f"spiffe://td{path}")) is expected


def test_a_pattern_stays_in_its_trust_domain() -> None:
    pattern = IdentityPattern.parse("spiffe://Example.org/**")
    assert pattern.matches(SpiffeId.parse("spiffe://example.org/a"))
    assert not pattern.matches(SpiffeId.parse("spiffe://example.org.evil/a"))
    assert not pattern.matches(SpiffeId.parse("spiffe://example.or/a"))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("pattern-trust-domain", "spiffe://*/a"),
        ("pattern-trust-domain", "spiffe://*.org/a"),
        ("pattern-trust-domain", "spiffe://**"),
        ("pattern-segment", "spiffe://td/a*"),
        ("pattern-segment", "spiffe://td/***"),
        ("pattern-segment", "spiffe://td/ns/*-web"),
        ("pattern-path", "spiffe://td"),
        ("ID-13", "spiffe://td/"),
        ("ID-13", "spiffe://td/*/"),
        ("ID-12", "spiffe://td//*"),
        ("ID-12", "spiffe://td/**/.."),
        ("ID-14", "spiffe://td/a+"),
        ("ID-1", "*"),
        ("ID-3", "spiffe://td/?"),
        ("ID-15", "spiffe://td/" + "*/" * 1100 + "a"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(rule: str, text: str) -> None:
    with pytest.raises(SpiffeIdError) as caught:
        IdentityPattern.parse(text)
    assert caught.value.rule == rule


def test_only_a_pattern_without_wildcards_is_exact() -> None:
    assert IdentityPattern.parse("spiffe://td/a/b").is_exact
    assert not IdentityPattern.parse("spiffe://td/a/*").is_exact
    assert not IdentityPattern.parse("spiffe://td/**/a").is_exact


def test_equal_patterns_are_equal_and_print_as_written() -> None:
    pattern = IdentityPattern.parse("spiffe://td/a/**/**/*")
    assert str(pattern) == "spiffe://td/a/**/*"
    assert IdentityPattern.parse(str(pattern)) == pattern
    assert hash(pattern) == hash(IdentityPattern.parse("SPIFFE://TD/a/**/*"))
