"""What every source of identity does alike: replace, count, tell, and watch expiry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from uproxy.identity.credentials import NO_JWT_BUNDLES, Credentials, Svid
from uproxy.identity.source import SourceBase
from uproxy.lab.pki import Authority
from uproxy.lab.tokens import TokenAuthority
from uproxy.lab.waiting import eventually
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.jwt_bundles import JwtBundle, distrusted_jwt

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
CA = Authority("example.org", now=NOW)
SVID = CA.issue().svid
BUNDLES = {"example.org": CA.bundle}


class Clock:
    """A wall clock that a test moves."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Source(SourceBase):
    """A source whose owner says what it found."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("test", "nothing has come yet", clock=clock)
        self.changes: list[tuple[Credentials, Credentials]] = []
        self.subscribe(lambda before, after: self.changes.append((before, after)))

    def find(
        self,
        svid: Svid | None,
        bundles: Mapping[str, Bundle] = BUNDLES,
        reason: str = "",
        jwt_bundles: Mapping[str, JwtBundle] = NO_JWT_BUNDLES,
    ) -> bool:
        return self._replace(svid, reason, bundles, jwt_bundles)


def test_before_anything_comes_there_is_a_reason() -> None:
    current = Source(Clock()).current
    assert (current.svid, current.reason) == (None, "nothing has come yet")
    assert (dict(current.bundles), current.generation) == ({}, 0)


async def test_a_replacement_is_whole_and_told() -> None:
    source = Source(Clock())
    before = source.current
    assert source.find(SVID)
    after = source.current
    assert after == Credentials(SVID, "", BUNDLES, 1)
    assert source.changes == [(before, after)]
    assert before.svid is None
    await source.stop()


async def test_equal_content_is_no_change() -> None:
    source = Source(Clock())
    issued = CA.issue()
    source.find(issued.svid)
    before = source.current
    again = Svid(issued.spiffe_id, tuple(issued.chain), CA.issue().key)
    assert not source.find(again, {"example.org": Bundle("example.org", (CA.root, CA.root))})
    assert source.current is before
    assert len(source.changes) == 1
    await source.stop()


async def test_the_generation_moves_only_with_bundles_and_crls() -> None:
    source = Source(Clock())
    source.find(SVID)
    source.find(CA.issue().svid)
    source.find(None, reason="revoked")
    source.find(SVID)
    assert source.current.generation == 1
    source.find(SVID, {"example.org": Bundle("example.org", (CA.root,), (CA.crl(),))})
    assert source.current.generation == 2
    source.find(SVID, {})
    assert source.current.generation == 3
    assert [after.generation for _, after in source.changes] == [1, 1, 1, 1, 2, 3]
    await source.stop()


async def test_keys_of_tokens_are_a_change_that_has_no_chain_verified_again() -> None:
    source = Source(Clock())
    source.find(SVID)
    keys = {"example.org": TokenAuthority("example.org").bundle}
    assert source.find(SVID, jwt_bundles=keys)
    assert not source.find(SVID, jwt_bundles=dict(keys))
    assert source.current == Credentials(SVID, "", BUNDLES, 1, keys)
    keys.clear()
    assert source.current.jwt_bundles
    source.find(SVID, {}, jwt_bundles=source.current.jwt_bundles)
    assert source.current.generation == 2
    await source.stop()


async def test_keys_that_did_not_change_are_the_same_objects() -> None:
    source = Source(Clock())
    home, away = TokenAuthority("example.org"), TokenAuthority("partner.test")
    first = {"example.org": home.bundle, "partner.test": away.bundle}
    source.find(SVID, jwt_bundles=first)
    rotated = TokenAuthority("partner.test").bundle
    source.find(SVID, jwt_bundles={"example.org": home.bundle, "partner.test": rotated})
    now = source.current.jwt_bundles
    assert now["example.org"] is first["example.org"]
    assert now["partner.test"] is rotated
    await source.stop()


async def test_keys_of_tokens_stay_when_an_svid_expires() -> None:
    clock = Clock()
    source = Source(clock)
    short = CA.issue(not_after=NOW + timedelta(seconds=1))
    keys = {"example.org": TokenAuthority("example.org").bundle}
    source.find(short.svid, jwt_bundles=keys)
    clock.now += timedelta(seconds=2)
    source._look_at_expiry()
    assert source.current.svid is None
    assert source.current.jwt_bundles == keys
    await source.stop()


async def test_whose_tokens_are_believed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = Source(Clock())
    signer = TokenAuthority("example.org")
    damaged = distrusted_jwt("partner.test", "it burnt")
    source.find(SVID, jwt_bundles={"example.org": signer.bundle, "partner.test": damaged})
    source.find(SVID, jwt_bundles={"partner.test": damaged})
    told = [each for each in caplog.messages if "JWT" in each]
    assert told == [
        "the JWT bundle of example.org has 1 usable key",
        "no JWT-SVID of partner.test is accepted: it burnt",
        "the JWT bundle of example.org is gone: none of its tokens is accepted",
    ]
    await source.stop()


async def test_only_a_new_svid_after_another_is_a_rotation() -> None:
    source = Source(Clock())
    for svid in (SVID, SVID, CA.issue().svid, None, SVID):
        source.find(svid, reason="gone")
    assert source.status["rotations"] == 1
    await source.stop()


async def test_a_new_reason_is_a_change() -> None:
    source = Source(Clock())
    assert source.find(None, reason="the agent is away")
    assert not source.find(None, reason="the agent is away")
    assert source.find(None, reason="the agent refuses")
    assert source.current.reason == "the agent refuses"
    await source.stop()


async def test_a_snapshot_does_not_change_with_the_mapping_it_was_made_of() -> None:
    source = Source(Clock())
    bundles = dict(BUNDLES)
    source.find(SVID, bundles)
    bundles.clear()
    assert dict(source.current.bundles) == BUNDLES
    await source.stop()


async def test_an_expired_svid_is_none_whoever_says_otherwise() -> None:
    clock = Clock(SVID.not_after + timedelta(seconds=1))
    source = Source(clock)
    source.find(SVID)
    assert source.current.svid is None
    assert SVID.spiffe_id in source.current.reason
    assert "expired at 2026-08-01T13:00:00+00:00" in source.current.reason
    assert dict(source.current.bundles) == BUNDLES
    await source.stop()


async def test_the_last_second_of_an_svid_is_valid() -> None:
    source = Source(Clock(SVID.not_after))
    source.find(SVID)
    assert source.current.svid == SVID
    await source.stop()


async def test_an_svid_ends_with_the_first_of_its_certificates() -> None:
    """Whoever is shown a chain of which an intermediate has expired believes nothing of it."""
    brief = CA.intermediate(not_after=NOW + timedelta(minutes=5)).issue().svid
    assert brief.chain[0].not_valid_after_utc > NOW + timedelta(minutes=30)
    clock = Clock(NOW + timedelta(minutes=5))
    source = Source(clock)
    source.find(brief)
    assert source.current.svid is brief
    assert source.status["expires"] == clock.now.isoformat()
    clock.now += timedelta(seconds=1)
    source.find(brief)
    assert source.current.svid is None
    assert source.current.reason.endswith(f"expired at {brief.not_after.isoformat()}")
    await source.stop()


def test_an_svid_that_is_printed_has_no_key_and_no_hint_unless_it_was_given_one() -> None:
    assert SVID.spiffe_id in repr(SVID)
    assert "PrivateKey" not in repr(SVID)
    assert SVID.hint == ""
    assert SVID.not_before == SVID.chain[0].not_valid_before_utc


async def test_expiry_is_noticed_without_news() -> None:
    clock = Clock(SVID.not_after - timedelta(milliseconds=20))
    source = Source(clock)
    source.find(SVID)
    assert source.current.svid == SVID
    clock.now = SVID.not_after + timedelta(milliseconds=1)
    await eventually(lambda: source.current.svid is None, "the SVID to expire")
    assert source.status["state"] == "not_ready"
    assert source.changes[-1][0].svid == SVID
    assert source.current.generation == 1
    await source.stop()


async def test_a_clock_that_was_ahead_costs_no_identity() -> None:
    """Set right again, it makes the SVID valid again without news, unless that was withdrawn."""
    clock = Clock()
    source = Source(clock)
    source.find(SVID)
    clock.now = SVID.not_after + timedelta(days=1)
    source._look_at_expiry()
    assert source.current.svid is None
    clock.now = NOW
    await eventually(lambda: source.current.svid == SVID, "the SVID to be valid again")
    assert (source.current.generation, source.status["rotations"]) == (1, 0)
    source.find(None, reason="revoked")
    source._look_at_expiry()
    assert (source.current.svid, source.current.reason) == (None, "revoked")
    await source.stop()


async def test_an_svid_that_comes_while_the_clock_is_ahead_is_used_when_it_is_right() -> None:
    clock = Clock(SVID.not_after + timedelta(days=1))
    source = Source(clock)
    source.find(SVID)
    clock.now = NOW
    await eventually(lambda: source.current.svid == SVID, "the SVID to be valid")
    await source.stop()


async def test_a_renewed_svid_does_not_expire_with_the_old_one() -> None:
    clock = Clock(SVID.not_after - timedelta(milliseconds=20))
    source = Source(clock)
    source.find(SVID)
    renewed = CA.issue(not_after=NOW + timedelta(hours=2)).svid
    source.find(renewed)
    clock.now = SVID.not_after + timedelta(seconds=1)
    source._look_at_expiry()
    assert source.current.svid == renewed
    await source.stop()


@pytest.fixture
async def naps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, asyncio.TimerHandle]]:
    """What the loop was asked to call later: in how many seconds, and the handle."""
    loop = asyncio.get_running_loop()
    call_later, asked = loop.call_later, []

    def spy(delay: float, *rest: Any) -> asyncio.TimerHandle:
        handle = call_later(delay, *rest)
        asked.append((delay, handle))
        return handle

    monkeypatch.setattr(loop, "call_later", spy)
    return asked


async def test_expiry_is_looked_for_just_behind_it_and_once_a_minute(
    naps: list[tuple[float, asyncio.TimerHandle]],
) -> None:
    # one that has expired is looked at again, as the clock may be set right
    for left_s, nap_s in ((3600, 60.0), (10, 10.001), (0, 0.001), (-1, 1.0), (-3600, 1.0)):
        source = Source(Clock(SVID.not_after - timedelta(seconds=left_s)))
        source.find(SVID)
        assert naps[-1][0] == pytest.approx(nap_s)
        await source.stop()


async def test_only_the_last_svid_is_waited_for_and_none_when_stopped(
    naps: list[tuple[float, asyncio.TimerHandle]],
) -> None:
    source = Source(Clock())
    for svid in (SVID, CA.issue().svid):
        source.find(svid)
    assert [handle.cancelled() for _, handle in naps] == [True, False]
    source.find(None, reason="gone")
    assert [handle.cancelled() for _, handle in naps] == [True, True]
    source.find(SVID)
    await source.stop()
    assert all(handle.cancelled() for _, handle in naps)
    assert len(naps) == 3


async def test_what_is_equal_is_the_same_object_as_before() -> None:
    """What was made of it can be kept."""
    source = Source(Clock())
    source.find(SVID)
    renewed = CA.issue().svid
    again = {"example.org": Bundle("example.org", (CA.root,))}
    source.find(renewed, again)
    assert source.current.bundles is source.changes[0][1].bundles
    source.find(Svid(renewed.spiffe_id, renewed.chain, renewed.key), {})
    assert source.current.svid is renewed
    assert source.status["rotations"] == 1
    await source.stop()


async def test_a_reason_counts_only_without_an_svid() -> None:
    source = Source(Clock())
    source.find(SVID, reason="of no account")
    assert source.current.reason == ""
    await source.stop()


async def test_whom_we_believe_is_told_in_order_and_who_has_no_root_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "uproxy")
    source = Source(Clock())
    bundles = {name: Bundle(name, (CA.root,)) for name in ("b.test", "a.test")}
    source.find(None, bundles | {"empty.test": Bundle("empty.test", ())})
    assert source.status["trust_domains"] == ["a.test", "b.test"]
    source.find(None, {}, "still none")
    source.find(None, {}, "still none, in other words")
    source.find(SVID, {})
    source.find(SVID, {"empty.test": Bundle("empty.test", ())})
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if not line.startswith("the bundle of ")] == [
        "trusts a.test, b.test",
        "trusts nobody",
        f"identity {SVID.spiffe_id} until {SVID.not_after.isoformat()}",
        "trusts nobody",
    ]
    await source.stop()


async def test_what_changes_is_logged_in_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "uproxy")
    source = Source(Clock())
    source.find(SVID)
    source.find(None, reason="the agent says: no identity issued")
    assert [record.getMessage() for record in caplog.records] == [
        f"identity {SVID.spiffe_id} until {SVID.not_after.isoformat()}",
        "trusts example.org",
        "the bundle of example.org has 1 root: 1 new, 0 gone",
        "no identity any more: the agent says: no identity issued",
    ]
    await source.stop()


async def test_the_status_holds_facts_and_no_key() -> None:
    source = Source(Clock())
    source.find(SVID)
    assert source.status == {
        "source": "test",
        "state": "ready",
        "reason": "",
        "spiffe_id": SVID.spiffe_id,
        "expires": "2026-08-01T13:00:00+00:00",
        "trust_domains": ["example.org"],
        "generation": 1,
        "rotations": 0,
    }
    await source.stop()


async def test_a_source_adds_facts_of_its_own_to_the_status() -> None:
    class Agent(Source):
        def _facts(self) -> Mapping[str, object]:
            return {"address": "unix:///agent.sock", "state": "waiting"}

    status = Agent(Clock()).status
    assert (status["source"], status["address"]) == ("test", "unix:///agent.sock")
    assert status["state"] == "waiting"
