"""The client's judgment, without sockets: messages, endings and time in, decisions out."""

from __future__ import annotations

import itertools

import pytest

from tests.helpers.workload_api import svid_message, svid_response
from uproxy.identity.workload_api.endings import MAX_BACKOFF_S, MIN_BACKOFF_S, SLOW_RETRY_S
from uproxy.identity.workload_api.grpc import Ended, Message
from uproxy.identity.workload_api.supervisor import (
    StreamState,
    Supervisor,
    SvidChoice,
)
from uproxy.lab.pki import Authority, Issued

HOME = Authority("example.org")
AWAY = Authority("partner.test")
WEB = HOME.issue("/web")
ORDERS = HOME.issue("/orders")

_ANY = SvidChoice()

DENIED = Ended("no identity issued", 7)
EOF = Ended("the connection was closed")
GONE = Ended("agent socket /run/agent.sock does not exist: is the SPIRE agent running?")
FINISHED = Ended("", 0, is_orderly=True)


def supervisor(choice: SvidChoice = _ANY, *, grace: float = 30, jitter: float = 1.0) -> Supervisor:
    return Supervisor(choice, revocation_grace=grace, jitter=lambda: jitter)


def offer(*issued: Issued, federated: tuple[Authority, ...] = (), **hints: str) -> Message:
    """A message offering these; `hints` are path=hint."""
    svids = [
        svid_message(one, HOME, hint=hints.get(one.spiffe_id.rpartition("/")[2], ""))
        for one in issued
    ]
    return Message(
        svid_response(*svids, federated={one.trust_domain: one.der for one in federated})
    )


def held_id(watched: Supervisor) -> str | None:
    return watched.held.svid.spiffe_id if watched.held.svid else None


class TestMessages:
    def test_a_message_is_held(self) -> None:
        watched = supervisor()

        watched.connecting()
        watched.message(offer(WEB, federated=(AWAY,)))

        assert watched.state is StreamState.STREAMING
        assert watched.held.svid is not None
        assert watched.held.svid.chain == WEB.chain
        assert watched.held.reason == ""
        assert watched.held.bundles == {"example.org": HOME.bundle, "partner.test": AWAY.bundle}

    def test_a_message_replaces_everything(self) -> None:
        watched = supervisor()
        watched.message(offer(WEB, federated=(AWAY,)))
        renewed = HOME.issue("/web")

        watched.message(offer(renewed))

        assert watched.held.svid is not None
        assert watched.held.svid.chain == renewed.chain
        assert set(watched.held.bundles) == {"example.org"}

    def test_a_bad_message_is_discarded_and_what_is_held_stays(self) -> None:
        watched = supervisor()
        watched.message(offer(WEB))
        before = watched.held

        watched.message(Message(b"\xff"))
        watched.message(Message(b""))

        assert watched.held == before
        assert watched.state is StreamState.STREAMING
        assert watched.counters.discarded_messages == 2
        assert watched.last_error == (
            "the agent's message is discarded: the message offers no SVID (WA-10)"
        )

    def test_a_good_message_after_a_bad_one_clears_the_error(self) -> None:
        watched = supervisor()
        watched.message(Message(b""))
        assert "discarded" in watched.held.reason

        watched.message(offer(WEB))

        assert watched.last_error is None
        assert held_id(watched) == WEB.spiffe_id


class TestChoice:
    def test_one_identity_needs_no_choice(self) -> None:
        watched = supervisor()
        watched.message(offer(WEB))

        assert held_id(watched) == WEB.spiffe_id

    def test_of_several_none_is_taken_and_all_are_listed(self) -> None:
        watched = supervisor()

        watched.message(offer(WEB, ORDERS, orders="db"))

        assert watched.held.svid is None
        assert watched.held.reason == (
            "the agent offers 2 identities (spiffe://example.org/web, "
            "spiffe://example.org/orders (hint 'db')): "
            "choose one with identity.spiffe_id or identity.hint"
        )
        assert "example.org" in watched.held.bundles

    def test_the_wanted_one_is_taken_wherever_it_stands(self) -> None:
        for order in itertools.permutations((WEB, ORDERS)):
            by_id = supervisor(SvidChoice(spiffe_id=ORDERS.spiffe_id))
            by_hint = supervisor(SvidChoice(hint="db"))

            by_id.message(offer(*order))
            by_hint.message(offer(*order, orders="db"))

            assert held_id(by_id) == held_id(by_hint) == ORDERS.spiffe_id

    def test_of_equal_hints_the_first_counts(self) -> None:
        watched = supervisor(SvidChoice(hint="x"))

        watched.message(offer(ORDERS, WEB, web="x", orders="x"))

        assert held_id(watched) == ORDERS.spiffe_id

    @pytest.mark.parametrize(
        ("choice", "said"),
        [
            (
                SvidChoice(spiffe_id="spiffe://example.org/no"),
                "doesn't offer spiffe://example.org/no",
            ),
            (SvidChoice(hint="no"), "doesn't offer an identity with the hint 'no'"),
        ],
    )
    def test_a_wanted_one_that_is_not_offered_is_named(self, choice: SvidChoice, said: str) -> None:
        watched = supervisor(choice)

        watched.message(offer(WEB))

        assert held_id(watched) is None
        assert said in watched.held.reason
        assert "only spiffe://example.org/web" in watched.held.reason

    def test_once_running_it_stays_with_its_identity(self) -> None:
        watched = supervisor()
        watched.message(offer(WEB))

        watched.message(offer(ORDERS, HOME.issue("/web")))

        assert held_id(watched) == WEB.spiffe_id

    def test_when_its_identity_is_gone_it_takes_the_only_other(self) -> None:
        watched = supervisor()
        watched.message(offer(WEB))

        watched.message(offer(ORDERS))

        assert held_id(watched) == ORDERS.spiffe_id

    def test_when_the_wanted_identity_is_no_longer_sent_it_is_revoked(self) -> None:
        watched = supervisor(SvidChoice(spiffe_id=WEB.spiffe_id))
        watched.message(offer(WEB, ORDERS))

        watched.message(offer(ORDERS))

        assert held_id(watched) is None
        assert watched.counters.revocations == 1

    def test_the_same_identity_twice_is_no_ambiguity_and_does_not_flap(self) -> None:
        again = HOME.issue("/web")
        watched = supervisor()
        watched.message(offer(WEB, again))
        assert watched.held.svid is not None
        first = watched.held.svid.chain

        for order in ((WEB, again), (again, WEB)):
            watched.message(offer(*order))
            assert watched.held.svid.chain == first


class TestOutage:
    @pytest.mark.parametrize("ending", [EOF, GONE, Ended("unreachable", 14), FINISHED])
    def test_what_is_held_stays_good(self, ending: Ended) -> None:
        watched = supervisor()
        watched.message(offer(WEB))
        before = watched.held

        watched.ended(ending, now=0)
        for now in range(100):
            watched.connecting()
            watched.ended(GONE, now)
            watched.tick(now)

        assert watched.held == before
        assert watched.counters.revocations == 0
        assert watched.state is StreamState.RETRYING

    def test_without_an_identity_the_reason_is_the_last_failure(self) -> None:
        watched = supervisor()
        watched.ended(GONE, now=0)

        assert watched.held.reason == GONE.text
        watched.ended(Ended("busy", 14), now=1)
        assert watched.held.reason == "the agent answered with gRPC status 14 (busy)"

    def test_reconnects_are_counted(self) -> None:
        watched = supervisor()
        watched.connecting()
        watched.ended(EOF, now=0)
        watched.connecting()
        watched.ended(EOF, now=1)
        watched.connecting()

        assert watched.counters.reconnects == 2


class TestDenial:
    def test_at_the_end_of_a_live_stream_it_is_revocation_at_once(self) -> None:
        watched = supervisor()
        watched.message(offer(WEB))

        watched.ended(DENIED, now=5)

        assert watched.held.svid is None
        assert watched.held.reason == (
            "revoked: the agent has no identity for this process (no identity issued): "
            "is there an entry that selects it?"
        )
        assert watched.counters.revocations == 1
        assert watched.revoke_at is None

    def test_on_a_reconnect_it_may_be_a_hiccup(self) -> None:
        watched = supervisor(grace=30)
        watched.message(offer(WEB))
        watched.ended(EOF, now=0)

        watched.ended(DENIED, now=10)
        watched.ended(DENIED, now=20)

        assert held_id(watched) == WEB.spiffe_id
        assert watched.revoke_at == 40
        watched.tick(39.9)
        assert held_id(watched) == WEB.spiffe_id
        watched.tick(40)
        assert held_id(watched) is None
        assert watched.counters.revocations == 1

    def test_a_message_within_the_grace_clears_it(self) -> None:
        watched = supervisor(grace=30)
        watched.message(offer(WEB))
        watched.ended(EOF, now=0)
        watched.ended(DENIED, now=10)

        watched.message(offer(WEB))
        watched.tick(1000)

        assert held_id(watched) == WEB.spiffe_id

    def test_a_bad_message_within_the_grace_does_not(self) -> None:
        watched = supervisor(grace=30)
        watched.message(offer(WEB))
        watched.ended(EOF, now=0)
        watched.ended(DENIED, now=10)

        watched.message(Message(b""))
        watched.tick(40)

        assert held_id(watched) is None

    def test_without_grace_a_reconnect_revokes_too(self) -> None:
        watched = supervisor(grace=0)
        watched.message(offer(WEB))
        watched.ended(EOF, now=0)

        watched.ended(DENIED, now=1)

        assert held_id(watched) is None

    def test_after_revocation_a_message_brings_the_identity_back(self) -> None:
        watched = supervisor()
        watched.message(offer(WEB))
        watched.ended(DENIED, now=0)

        watched.message(offer(WEB))

        assert held_id(watched) == WEB.spiffe_id

    def test_a_denial_before_any_identity_is_no_revocation(self) -> None:
        watched = supervisor(grace=0)

        watched.ended(DENIED, now=0)

        assert watched.counters.revocations == 0
        assert "is there an entry that selects it?" in watched.held.reason


class TestRetry:
    def test_backoff_grows_to_its_ceiling(self) -> None:
        watched = supervisor(jitter=1.0)

        delays = [watched.ended(GONE, now) for now in range(8)]

        assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]

    @pytest.mark.parametrize("jitter", [0.0, 0.3, 1.0])
    def test_backoff_stays_within_its_bounds(self, jitter: float) -> None:
        watched = supervisor(jitter=jitter)

        delays = [watched.ended(EOF, now) for now in range(100)]

        assert min(delays) >= MIN_BACKOFF_S
        assert max(delays) <= MAX_BACKOFF_S

    def test_a_good_message_resets_it_and_a_bad_one_does_not(self) -> None:
        watched = supervisor()
        for now in range(10):
            watched.ended(GONE, now)

        watched.message(Message(b""))
        assert watched.ended(EOF, 11) == MAX_BACKOFF_S
        watched.message(offer(WEB))
        assert watched.ended(EOF, 12) == 0.1

    def test_denial_is_asked_again_with_backoff(self) -> None:
        watched = supervisor()

        assert watched.ended(DENIED, 0) == 0.1

    def test_an_orderly_end_is_followed_by_a_new_stream_at_once(self) -> None:
        watched = supervisor()
        watched.message(offer(WEB))

        assert watched.ended(FINISHED, 0) == 0.0

    def test_a_server_that_always_ends_orderly_makes_no_busy_loop(self) -> None:
        watched = supervisor()
        now, delays = 0.0, []
        for _ in range(50):
            watched.message(offer(WEB))
            delay = watched.ended(FINISHED, now)
            delays.append(delay)
            now += delay

        assert delays[0] == 0.0
        assert now > 2.0

    def test_an_orderly_end_after_a_long_stream_is_followed_at_once_again(self) -> None:
        watched = supervisor()
        watched.ended(FINISHED, 0)

        assert watched.ended(FINISHED, 100) == 0.0

    @pytest.mark.parametrize(
        ("status", "said"),
        [
            (3, "the agent finds the request invalid (why): is this its Workload API socket?"),
            (12, "the endpoint doesn't offer X509-SVIDs (why): is it a SPIFFE Workload API?"),
        ],
    )
    def test_what_asking_can_not_better_is_said_and_asked_slowly(
        self, status: int, said: str
    ) -> None:
        watched = supervisor(jitter=0.0)

        delay = watched.ended(Ended("why", status), now=0)

        assert watched.held.reason == said
        assert delay == SLOW_RETRY_S / 2
