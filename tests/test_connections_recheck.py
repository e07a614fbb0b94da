"""What is said of one open connection under one snapshot; what follows is in test_connections."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.helpers.connections import FakeConnection, arrival
from tests.helpers.world import ANYBODY, credentials, peer, settings, with_crl
from uproxy.config.settings import (
    DestinationSettings,
    InboundSettings,
    RuleFrom,
    RuleSettings,
)
from uproxy.connections import recheck as judging
from uproxy.connections.recheck import ConnectionInfo, caller_of, not_after, recheck
from uproxy.contract import OwnSvid, PeerSvid, Refusal
from uproxy.identity.credentials import Credentials
from uproxy.identity.verifier import Verifier
from uproxy.lab.pki import CLIENT_AUTH, SERVER_AUTH, Authority, Issued
from uproxy.model import Direction, Outcome, Role, TcpAddress, Transport, UnixAddress
from uproxy.policy import Target
from uproxy.snapshot import Snapshot
from uproxy.snapshot.plans import own_svid
from uproxy.spiffe.bundles import Bundle

CA = Authority("example.org")
OURS = CA.issue("/ns/db/sa/orders")
WEB = CA.issue("/ns/web/sa/frontend")
TARGET = Target(8080, None, "api")
SECOND = timedelta(seconds=1)


def under(believed: Credentials) -> Snapshot:
    return Snapshot.first(settings(ANYBODY), believed, lambda: CA.now)


def info_of(direction: Direction = Direction.INBOUND, own: OwnSvid | None = None) -> ConnectionInfo:
    target = TARGET if direction is Direction.INBOUND else None
    return ConnectionInfo(direction, "api", Transport.MTLS, own, target, 8080)


def connection(found: PeerSvid | None) -> FakeConnection:
    return FakeConnection(arrival(found), peer=found)


def why(
    snapshot: Snapshot, info: ConnectionInfo, found: PeerSvid | None, now: datetime = CA.now
) -> Refusal | None:
    return recheck(snapshot, info, connection(found), now)


def renewed(authority: Authority, *usages: object) -> Bundle:
    """A bundle with a new certificate of the same key, for these uses."""
    other = Authority(authority.trust_domain, now=authority.now, eku=usages)
    return Bundle(authority.trust_domain, (other._build(other._how, authority.key, None),))


@pytest.mark.parametrize("usage", [CLIENT_AUTH, SERVER_AUTH])
def test_a_peer_is_judged_in_the_role_it_has_played_and_remembered_so(usage: object) -> None:
    """Who dialled in is a client to us, and who was dialled a server."""
    snapshot = under(Credentials(OURS.svid, "", {"example.org": renewed(CA, usage)}, 1))
    found = {}
    for direction in (Direction.INBOUND, Direction.OUTBOUND, Direction.INBOUND):
        found[direction] = why(snapshot, info_of(direction), peer(WEB, CA))
    right = Direction.INBOUND if usage == CLIENT_AUTH else Direction.OUTBOUND
    assert found.pop(right) is None
    [refusal] = found.values()
    assert refusal is not None
    assert (refusal.outcome, refusal.rule) == (Outcome.IDENTITY_DISTRUSTED, "X5-14")


def test_one_chain_under_two_anchors_is_judged_for_each() -> None:
    """The anchor that has ended since may be gone from the bundle, the other may not."""
    later = CA.root.not_valid_after_utc + SECOND
    lasting = Authority("example.org", now=CA.now, not_after=later + timedelta(hours=1))
    root = lasting._build(lasting._how, CA.key, None)
    snapshot = under(credentials(OURS, Authority("example.org")))
    ended = peer(WEB, CA)
    withdrawn = Verifier(
        Credentials(None, "", {"example.org": Bundle("example.org", (root,))}, 1)
    ).verify(WEB.der, Role.CLIENT, CA.now)
    assert (ended.chain, ended.anchor == withdrawn.anchor) == (withdrawn.chain, False)
    keeping = replace(snapshot.settings.identity, on_expiry="keep")
    snapshot = snapshot.with_settings(replace(snapshot.settings, identity=keeping))
    assert why(snapshot, info_of(), ended, later) is None
    refusal = why(snapshot, info_of(), withdrawn, later)
    assert refusal is not None
    assert refusal.rule == "X5-14"


def test_each_of_our_own_certificates_is_judged_for_itself() -> None:
    before, after = (own_svid(CA.issue("/ns/db/sa/orders").svid) for _ in range(2))
    revoked = OURS
    snapshot = under(with_crl(credentials(OURS, CA), CA, revoked))
    assert why(snapshot, info_of(own=before), peer(WEB, CA)) is None
    refusal = why(snapshot, info_of(own=own_svid(revoked.svid)), peer(WEB, CA))
    assert refusal is not None
    assert (refusal.outcome, refusal.rule) == (Outcome.IDENTITY_DISTRUSTED, "UP-2")
    assert why(snapshot, info_of(own=after), peer(WEB, CA)) is None


def test_our_own_svid_that_isn_t_ours_any_more_was_withdrawn_until_it_ends() -> None:
    own = own_svid(OURS.svid)
    other = CA.issue("/ns/db/sa/other")
    for believed, words in (
        (credentials(None, CA, reason="no identity issued"), "withdrawn: no identity issued"),
        (credentials(other, CA), f"withdrawn: we are {other.spiffe_id} now"),
    ):
        refusal = why(under(believed), info_of(own=own), peer(WEB, CA), own.not_after)
        assert refusal is not None
        assert refusal.outcome is Outcome.IDENTITY_DISTRUSTED
        assert refusal.reason.endswith(words)
        late = why(under(believed), info_of(own=own), peer(WEB, CA), own.not_after + SECOND)
        assert late is None or late.outcome is Outcome.IDENTITY_EXPIRED


def test_a_connection_expires_with_the_first_certificate_of_either_side() -> None:
    brief: Issued = CA.issue("/ns/db/sa/orders", not_after=CA.now + timedelta(minutes=1))
    mine, theirs = own_svid(brief.svid), peer(WEB, CA)
    assert not_after(info_of(own=mine), connection(theirs)) == mine.not_after
    mine, theirs = own_svid(OURS.svid), peer(brief, CA)
    assert not_after(info_of(own=mine), connection(theirs)) == theirs.not_after
    assert not_after(info_of(), connection(None)) is None


def test_a_caller_has_the_address_it_dialled_from_and_none_on_a_unix_socket() -> None:
    source = TcpAddress("10.0.0.1", 40000)
    assert caller_of(arrival(source=source)).source == source.ip
    assert caller_of(arrival(source=UnixAddress(""))).source is None
    assert caller_of(arrival(peer(WEB, CA))).identity is not None


def test_what_was_judged_is_remembered_and_no_more_than_so_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot = under(credentials(OURS, CA))
    asked: list[PeerSvid] = []
    judge = Verifier.recheck

    def counted(self: Verifier, found: PeerSvid, role: Role, now: datetime) -> None:
        asked.append(found)
        judge(self, found, role, now)

    monkeypatch.setattr(Verifier, "recheck", counted)
    monkeypatch.setattr(judging, "MAX_VERDICTS", 2)
    one, two, three = (peer(CA.issue(f"/{name}"), CA) for name in "abc")
    for found in (one, two, one, two):
        assert why(snapshot, info_of(), found) is None
    assert asked == [one, two]
    for found in (three, two):
        assert why(snapshot, info_of(), found) is None
        assert len(snapshot.verdicts) <= 2
    assert asked == [one, two, three, two]


A = TcpAddress("10.0.0.7", 5432)
API = InboundSettings("api", TcpAddress("0.0.0.0", 1), Transport.MTLS, A)


def configured(transport: Transport = Transport.MTLS, *identities: str) -> Snapshot:
    """Without rules; and with one destination."""
    to = DestinationSettings("db", (A,), transport, identities)
    config = settings(inbound=(API,), destinations={"db": to})
    return Snapshot.first(config, credentials(OURS, CA), lambda: CA.now)


def outbound(destination: str = "db") -> ConnectionInfo:
    return replace(info_of(Direction.OUTBOUND), destination=destination)


def test_a_caller_whom_no_rule_allows_any_more_must_go_and_a_callee_never() -> None:
    refusal = why(configured(), info_of(), peer(WEB, CA))
    assert refusal is not None
    assert refusal.outcome is Outcome.POLICY_CHANGED
    assert refusal.reason.startswith(f"no rule allows {WEB.spiffe_id} to port 8080")
    assert why(under(credentials(OURS, CA)), info_of(), peer(WEB, CA)) is None
    found = peer(WEB, CA, Role.SERVER)
    assert why(configured(Transport.MTLS, WEB.spiffe_id), outbound(), found) is None


def test_a_connection_in_clear_may_stay_while_its_door_speaks_in_clear() -> None:
    clear = replace(info_of(), transport=Transport.PLAINTEXT)
    anybody = RuleSettings("clear", "allow", RuleFrom(unauthenticated=True))
    for transport, stays in ((Transport.PLAINTEXT, True), (Transport.MTLS, False)):
        config = settings(anybody, inbound=(replace(API, transport=transport),))
        snapshot = Snapshot.first(config, credentials(OURS, CA), lambda: CA.now)
        refusal = why(snapshot, clear, None)
        assert (refusal is None) is stays
        assert refusal is None or refusal.outcome is Outcome.POLICY_CHANGED
    without = Snapshot.first(settings(anybody), credentials(OURS, CA), lambda: CA.now)
    assert why(without, clear, None) is None
    # a caller with TLS is judged by the rules
    refusal = why(configured(), info_of(), peer(WEB, CA))
    assert refusal is not None
    assert "no rule allows" in refusal.reason


def test_who_answered_must_be_among_those_whom_the_destination_names() -> None:
    found = peer(WEB, CA, Role.SERVER)
    refusal = why(configured(Transport.MTLS, OURS.spiffe_id), outbound(), found)
    assert refusal is not None
    assert refusal.outcome is Outcome.POLICY_CHANGED
    assert f"found {WEB.spiffe_id}" in refusal.reason
    for snapshot, info in (
        (configured(Transport.MTLS, OURS.spiffe_id), outbound("gone")),
        (configured(Transport.PLAINTEXT), outbound()),
    ):
        assert why(snapshot, info, found) is None
    refusal = why(configured(Transport.MTLS, OURS.spiffe_id), outbound(), None)
    assert refusal is not None
    assert refusal.reason.endswith("this connection is in clear")
    assert why(configured(Transport.PLAINTEXT), outbound(), None) is None
