"""SPIFFE IDs survive a round trip, and fast matching agrees with slow matching."""

from __future__ import annotations

import contextlib

from hypothesis import example, given
from hypothesis import strategies as st

from uproxy.errors import SpiffeIdError
from uproxy.spiffe.ids import IdentityPattern, SpiffeId, TrustDomain

_letters = st.sampled_from("ab")
_paths = st.lists(_letters, max_size=8)
_patterns = st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=8)
_domains = st.text(alphabet="abz019.-_", min_size=1, max_size=255)
_segments = st.text(alphabet="aZ09.-_", min_size=1, max_size=20).filter(
    lambda segment: segment not in (".", "..")
)


def naive_match(pattern: list[str], path: list[str]) -> bool:
    """The definition, word by word."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return naive_match(pattern[1:], path) or (bool(path) and naive_match(pattern, path[1:]))
    return bool(path) and pattern[0] in ("*", path[0]) and naive_match(pattern[1:], path[1:])


def _text(segments: list[str]) -> str:
    return "".join(f"/{segment}" for segment in segments)


@given(_patterns, _paths)
@example(["**", "a", "**", "a"], ["a", "a"])
def test_matching_agrees_with_its_definition(pattern: list[str], path: list[str]) -> None:
    fast = IdentityPattern.parse(f"spiffe://td{_text(pattern)}")
    assert fast.matches(SpiffeId.parse(f"spiffe://td{_text(path)}")) is naive_match(pattern, path)


@given(_domains, st.lists(_segments, max_size=12))
def test_parsing_what_was_printed_gives_the_same_id(domain: str, segments: list[str]) -> None:
    identity = SpiffeId(TrustDomain(domain), _text(segments))
    assert SpiffeId.parse(str(identity)) == identity
    assert SpiffeId.parse(str(identity).replace("spiffe:", "SPIFFE:")) == identity


@given(st.text(max_size=40) | st.text(alphabet="spiffe:/td?#@%*.\n", max_size=40))
def test_any_text_is_an_id_or_refused_by_a_rule(text: str) -> None:
    with contextlib.suppress(SpiffeIdError):
        identity = SpiffeId.parse(f"spiffe://{text}")
        assert str(identity).lower() == f"spiffe://{text}".lower()
        assert SpiffeId.parse(str(identity)) == identity


@given(_patterns)
def test_a_pattern_prints_as_a_pattern_equal_to_itself(pattern: list[str]) -> None:
    parsed = IdentityPattern.parse(f"spiffe://td{_text(pattern)}")
    assert IdentityPattern.parse(str(parsed)) == parsed
