"""Callers' proofs, which L7 proxies pass on."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import uproxy.spiffe.jwt_svids as verifying
from uproxy.lab.tokens import TokenAuthority
from uproxy.policy import Caller
from uproxy.proxy import caller_proofs as module
from uproxy.proxy.caller_proofs import MAX_COMMON, MAX_PROOFS, SHARE, CallerProofs, Moment
from uproxy.speaking import Disbelief, Doubt
from uproxy.spiffe.ids import SpiffeId
from uproxy.spiffe.jwt_bundles import JwtBundle

US = "spiffe://example.org/ns/db/sa/orders"
L7, OTHER_L7 = (SpiffeId.parse(f"spiffe://example.org/ns/mesh/sa/{each}") for each in "ab")
SIGNER = TokenAuthority("example.org")
BUNDLES = {"example.org": SIGNER.bundle}
SECOND = timedelta(seconds=1)


def caller(path: str = "/ns/web/sa/frontend", proxy: SpiffeId = L7) -> Caller:
    return Caller(SpiffeId.parse(f"spiffe://example.org{path}"), None, "l7", proxy)


def token(path: str = "/ns/web/sa/frontend", *audience: str, life: float = 300) -> str:
    return SIGNER.token(path, *audience or (US,), life=life)


def at(
    now: datetime = SIGNER.now, own: str = US, bundles: Mapping[str, JwtBundle] = BUNDLES
) -> Moment:
    return Moment(own, bundles, now)


WEB = caller()


@pytest.fixture
def signatures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens whose signature was looked at."""
    looked: list[str] = []
    check = verifying._check_signature

    def counted(proof: str, *more: object) -> None:
        looked.append(proof)
        check(proof, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(verifying, "_check_signature", counted)
    return looked


def doubted(found: Disbelief | None) -> Disbelief:
    assert found is not None
    assert found.reason.startswith(f"{L7} (inbound_trust.l7) sent ")
    assert found.name == "l7"
    return found


def test_a_token_about_the_whofor_us_proves_it() -> None:
    assert CallerProofs().doubt((token(),), WEB, at()) is None
    several = token("/ns/web/sa/frontend", "spiffe://example.org/other", US)
    assert CallerProofs().doubt((several,), WEB, at()) is None


def test_without_a_token_there_is_no_proof() -> None:
    found = doubted(CallerProofs().doubt((), WEB, at()))
    assert found.doubt is Doubt.NO_PROOF
    assert f"sent no proof of {WEB.identity} (x-uproxy-proof), which is required" in found.reason


def test_of_two_tokens_none_is_looked_at(signatures: list[str]) -> None:
    found = doubted(CallerProofs().doubt((token(), token()), WEB, at()))
    assert found.doubt is Doubt.SEVERAL
    assert signatures == []


def stranger() -> str:
    return TokenAuthority("example.org").token("/ns/web/sa/frontend", US)


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (token("/ns/web/sa/frontend", "spiffe://example.org/other"), "(JW-6)"),
        (token("/ns/web/sa/other"), "sent a proof of spiffe://example.org/ns/web/sa/other for"),
        (token(life=-1), "(JW-7)"),
        (stranger(), "(JW-10)"),
        ("", "(JW-1)"),
        ("-", "(JW-1)"),
        ("\xe4.\xe4.\xe4", "(JW-1)"),
        ("x" * 9000, "(UP-1)"),
        (token()[:-5], "(JW-10)"),
        (TokenAuthority("partner.test").token("/ns/web/sa/frontend", US), "(WA-18)"),
    ],
)
def test_any_other_token_is_refused_in_words_and_not_remembered(proof: str, words: str) -> None:
    known = CallerProofs()
    found = doubted(known.doubt((proof,), WEB, at()))
    assert found.doubt is Doubt.BAD_PROOF
    assert words in found.reason
    assert len(known) == 0


def test_a_token_that_comes_again_costs_no_signature(signatures: list[str]) -> None:
    known, proof = CallerProofs(), token()
    for _ in range(3):
        assert known.doubt((proof,), WEB, at()) is None
    assert signatures == [proof]
    assert doubted(known.doubt((proof,), caller("/ns/web/sa/other"), at())).doubt is Doubt.BAD_PROOF
    assert signatures == [proof]


def test_a_known_token_is_refused_when_it_has_expired() -> None:
    known, proof = CallerProofs(), token(life=10)
    ends = SIGNER.now.replace(microsecond=0) + timedelta(seconds=10)
    assert known.doubt((proof,), WEB, at(ends - SECOND)) is None
    found = doubted(known.doubt((proof,), WEB, at(ends)))
    assert (found.doubt, "(JW-7)" in found.reason) == (Doubt.BAD_PROOF, True)


def test_a_known_token_is_verified_again_with_a_new_bundle(signatures: list[str]) -> None:
    known, proof = CallerProofs(), token()
    assert known.doubt((proof,), WEB, at()) is None
    same_keys = {"example.org": SIGNER.bundle}
    assert known.doubt((proof,), WEB, at(bundles=same_keys)) is None
    assert known.doubt((proof,), WEB, at(bundles=same_keys)) is None
    assert signatures == [proof] * 2
    for gone in ({}, {"example.org": TokenAuthority("example.org", kid="second").bundle}):
        assert doubted(known.doubt((proof,), WEB, at(bundles=gone))).doubt is Doubt.BAD_PROOF


def test_a_known_token_is_verified_again_when_we_are_called_otherwise() -> None:
    known, proof = CallerProofs(), token()
    assert known.doubt((proof,), WEB, at()) is None
    found = doubted(known.doubt((proof,), WEB, at(own="spiffe://example.org/ns/db/sa/renamed")))
    assert "(JW-6)" in found.reason


def rewritten(proof: str) -> str:
    """The same token with its signature (r, s) as (r, n - s), which verifies just as well."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
    signed, _, signature = proof.rpartition(".")
    both = base64.urlsafe_b64decode(signature + "==")
    s = order - int.from_bytes(both[32:], "big")
    made = base64.urlsafe_b64encode(both[:32] + s.to_bytes(32, "big")).rstrip(b"=").decode()
    return f"{signed}.{made}"


def test_a_token_is_good_under_the_identity_of_the_proxy_that_sent_it_first() -> None:
    known, proof = CallerProofs(), token()
    assert known.doubt((proof,), WEB, at()) is None
    elsewhere = caller(proxy=OTHER_L7)
    for again in (proof, rewritten(proof), proof[:-3] + "AAA"):
        found = known.doubt((again,), elsewhere, at())
        assert found is not None
        assert found.doubt is Doubt.REPLAYED
        assert found.reason.startswith(
            f"{OTHER_L7} (inbound_trust.l7) sent a proof of {WEB.identity} that had come through "
            f"{L7}"
        )
    assert known.doubt((proof,), WEB, at()) is None
    assert known.doubt((token(life=301),), elsewhere, at()) is None


def test_where_a_token_came_first_is_remembered_when_bundles_change() -> None:
    known, proof = CallerProofs(), token()
    assert known.doubt((proof,), WEB, at()) is None
    fresh = at(bundles={"example.org": SIGNER.bundle})
    found = known.doubt((proof,), caller(proxy=OTHER_L7), fresh)
    assert found is not None
    assert found.doubt is Doubt.REPLAYED


def test_a_rewritten_signature_is_verified_and_is_the_same_token(signatures: list[str]) -> None:
    known, proof = CallerProofs(), token()
    other = rewritten(proof)
    for each in (proof, other):
        assert known.doubt((each,), WEB, at()) is None
    assert (signatures, len(known)) == ([proof, other], 1)
    broken = proof[:-6] + "AAAAAA"
    assert doubted(known.doubt((broken,), WEB, at())).doubt is Doubt.BAD_PROOF


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> CallerProofs:
    monkeypatch.setattr(module, "MAX_PROOFS", 8)
    monkeypatch.setattr(module, "MAX_COMMON", 4)
    monkeypatch.setattr(module, "SHARE", 1)
    return CallerProofs()


def remembered(proofs: CallerProofs, path: str, by: Moment, life: int = 100) -> int:
    """Send tokens of a caller, with longer and longer lives, until one isn't remembered; return how
    many were."""
    for count in range(10):
        found = proofs.doubt((token(path, life=life + count),), caller(path), by)
        if found is not None:
            assert found.doubt is Doubt.PROOFS_FULL
            return count
    raise AssertionError("there is no bound")


def test_who_sends_the_most_proofs_leaves_room_for_others(few: CallerProofs) -> None:
    assert remembered(few, "/ns/web/sa/frontend", at()) == 1 + 2
    # ES256 never signs the same way twice
    assert few.doubt((token(life=100),), WEB, at()) is None
    assert len(few) == 3


def test_callers_that_conspire_leave_others_their_shares(few: CallerProofs) -> None:
    first = [remembered(few, f"/greedy/{n}", at()) for n in range(4)]
    assert first == [1 + 2, 1 + 1, 1 + 1, 1]  # what is common is full
    assert remembered(few, "/ns/web/sa/frontend", at()) == 0  # here there are four shares in all


def test_what_expires_makes_room_in_what_is_common(few: CallerProofs) -> None:
    assert remembered(few, "/greedy", after(0)) == 3
    assert remembered(few, "/ns/web/sa/frontend", after(0)) == 2
    assert len(few) == 5
    assert remembered(few, "/other", after(111), 200) == 3
    assert len(few) == 3


def test_who_stays_within_its_share_takes_nothing_of_what_is_common(few: CallerProofs) -> None:
    for who in ("/ns/web/sa/frontend", "/ns/web/sa/other"):
        assert few.doubt((token(who, life=300),), caller(who), after(0)) is None
    assert remembered(few, "/greedy", after(61), 200) == 3  # what has expired was sought before
    assert len(few) == 5


def test_a_proof_of_who_is_refused_anyway_takes_no_room() -> None:
    known = CallerProofs()
    assert known.doubt((token(),), WEB, at(), remembers=False) is None
    assert len(known) == 0


def test_as_many_are_remembered_as_the_docs_say() -> None:
    page = Path(__file__).parents[1] / "docs/reference/security.md"
    said = " ".join(page.read_text().split())
    callers = (MAX_PROOFS - MAX_COMMON) // SHARE
    assert f"{MAX_PROOFS:,}, of which {callers} callers have {SHARE} each for themselves" in said
    assert f"one that sends tokens without end gets {SHARE + MAX_COMMON // 2:,}" in said


def after(seconds: float) -> Moment:
    """So long after the second in which tokens are made, which ends when they do."""
    return at(SIGNER.now.replace(microsecond=0) + timedelta(seconds=seconds))


def test_what_has_expired_makes_room_but_is_looked_for_only_once_a_second(
    few: CallerProofs,
) -> None:
    for life in (10, 20, 30):
        assert few.doubt((token(life=life),), WEB, after(0)) is None
    later = token(life=100)
    for seconds in (9.5, 10.2):
        found = doubted(few.doubt((later,), WEB, after(seconds)))
        assert found.doubt is Doubt.PROOFS_FULL
    assert few.doubt((later,), WEB, after(10.6)) is None
    assert len(few) == 3
    another = doubted(few.doubt((token(life=101),), WEB, after(12)))
    assert another.doubt is Doubt.PROOFS_FULL


def test_what_has_expired_is_forgotten_after_a_while() -> None:
    known = CallerProofs()
    for life in (10, 60, 61):
        assert known.doubt((token(life=life),), WEB, after(0)) is None
    assert known.doubt((token(life=400),), WEB, after(59)) is None
    assert len(known) == 4
    assert known.doubt((token(life=401),), WEB, after(60)) is None
    assert len(known) == 3  # what ends then is over
