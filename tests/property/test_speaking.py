"""Headers of a CONNECT make nobody somebody else, but from a peer that is trusted to speak."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import example, given
from hypothesis import strategies as st

from uproxy.config.settings import InboundTrustSettings
from uproxy.contract import Spoken
from uproxy.policy import DIRECT, Caller
from uproxy.speaking import Disbelief, InboundTrust
from uproxy.spiffe.ids import IdentityPattern, SpiffeId

PROXIES = ("spiffe://example.org/ns/mesh/sa/l7", "spiffe://example.org/ns/mesh/sa/other")
PATTERNS = ("spiffe://example.org/**", "spiffe://example.org/ns/web/sa/*", "spiffe://td/a")
SOURCE = ip_address("192.0.2.9")

ids = st.sampled_from(
    (*PROXIES, "spiffe://example.org/ns/web/sa/a", "spiffe://example.org/ns/shop/sa/b",
     "spiffe://td/a", "spiffe://td/b", "spiffe://example.org")
)  # fmt: skip
values = ids | st.text(max_size=40) | ids.map(str.upper) | ids.map(lambda each: f"{each},{each}")
spoken = st.builds(
    Spoken, st.lists(values, max_size=3).map(tuple), st.lists(values, max_size=2).map(tuple)
)
entries = st.builds(
    InboundTrustSettings,
    st.just("l7"),
    st.lists(st.sampled_from(PROXIES), min_size=1, unique=True).map(tuple),
    st.lists(st.sampled_from(PATTERNS), min_size=1).map(tuple),
    st.booleans(),
)
domains = st.frozensets(st.sampled_from(("example.org", "td")))


@given(entries, domains, ids, spoken, st.booleans())
@example(
    InboundTrustSettings("l7", PROXIES, PATTERNS), frozenset({"example.org"}),
    "spiffe://example.org/ns/web/sa/a", Spoken(("spiffe://example.org/ns/shop/sa/b",)), True,
)  # fmt: skip
def test_whatever_an_untrusted_peer_says_the_caller_is_the_peer(
    entry: InboundTrustSettings, known: frozenset[str], peer: str, said: Spoken, is_stream: bool
) -> None:
    trust = InboundTrust.of({"l7": entry}, known)
    found = trust.caller(peer, SOURCE, said, is_stream=is_stream)
    if peer not in entry.identities:
        assert found == Caller(SpiffeId.parse(peer), SOURCE)
    elif not is_stream:
        assert found == Caller(SpiffeId.parse(peer), SOURCE, DIRECT, SpiffeId.parse(peer))


@given(entries, domains, st.sampled_from(PROXIES), spoken)
@example(
    InboundTrustSettings("l7", PROXIES, PATTERNS), frozenset({"example.org"}),
    PROXIES[0], Spoken(("spiffe://example.org/ns/shop/sa/b",)),
)  # fmt: skip
def test_a_proxy_is_never_taken_for_itself_and_its_word_only_within_its_limits(
    entry: InboundTrustSettings, known: frozenset[str], peer: str, said: Spoken
) -> None:
    trust = InboundTrust.of({"l7": entry}, known)
    found = trust.caller(peer, SOURCE, said, is_stream=True)
    if peer not in entry.identities or isinstance(found, Disbelief):
        return
    [named] = said.callers
    assert found.identity == SpiffeId.parse(named)
    assert (found.via, found.via_identity) == ("l7", SpiffeId.parse(peer))
    assert str(found.identity) not in entry.identities
    assert found.identity.trust_domain.name in known
    assert any(IdentityPattern.parse(each).matches(found.identity) for each in entry.speaks_for)
    assert trust.still(peer, SOURCE, found, is_stream=True) == found or entry.require_proof
