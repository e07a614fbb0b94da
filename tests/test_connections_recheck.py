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
    InboundTrustSettings,
    RuleFrom,
    RuleSettings,
)
from uproxy.connections import recheck as judging
from uproxy.connections.recheck import ConnectionInfo, caller_of, not_after, recheck
from uproxy.contract import OwnSvid, PeerSvid, Refusal, Spoken
from uproxy.identity.credentials import Credentials
from uproxy.identity.verifier import Verifier
from uproxy.lab.pki import CLIENT_AUTH, SERVER_AUTH, Authority, Issued
from uproxy.model import Direction, Outcome, Role, TcpAddress, Transport, UnixAddress
from uproxy.policy import Caller, Target
from uproxy.snapshot import Snapshot
from uproxy.snapshot.plans import own_svid
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.ids import SpiffeId

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
    for made, address, identity in (
        (arrival(source=source), source.ip, None),
        (arrival(source=UnixAddress("")), None, None),
        (arrival(peer(WEB, CA), source=source), source.ip, SpiffeId.parse(WEB.spiffe_id)),
    ):
        assert caller_of(under(credentials(OURS, CA)), made) == Caller(identity, address)


# Streams of L7 proxies.

L7 = CA.issue("/ns/mesh/sa/l7")
SPEAKS = InboundTrustSettings("l7", (L7.spiffe_id,), ("spiffe://example.org/**",))
VIA = RuleSettings("via", "allow", RuleFrom(any=True, via=("l7",)))
FOR_WEB = Caller(SpiffeId.parse(WEB.spiffe_id), None, "l7", SpiffeId.parse(L7.spiffe_id))


def speaking(
    *trusted: InboundTrustSettings, rule: RuleSettings = VIA, believed: Credentials | None = None
) -> Snapshot:
    config = settings(rule, inbound_trust={each.name: each for each in trusted})
    return Snapshot.first(config, believed or credentials(OURS, CA), lambda: CA.now)


def of_proxy(snapshot: Snapshot, caller: Caller | None = FOR_WEB, **actions: str) -> Refusal | None:
    """Whether a stream may stay that an L7 proxy has made for a caller; None: for itself."""
    snapshot = replace(snapshot, actions=replace(snapshot.actions, **actions))
    info = replace(info_of(), transport=Transport.HBONE, caller=caller)
    made = connection(peer(L7, CA))
    made.arrival = replace(made.arrival, tunnel=1)
    return recheck(snapshot, info, made, CA.now)


def test_a_stream_of_an_l7_proxy_is_judged_as_its_callers() -> None:
    assert of_proxy(speaking(SPEAKS)) is None
    only = replace(VIA, from_=RuleFrom(identities=(WEB.spiffe_id,), via=("l7",)))
    assert of_proxy(speaking(SPEAKS, rule=only)) is None
    refusal = of_proxy(speaking(SPEAKS, rule=replace(VIA, name="direct", from_=RuleFrom(any=True))))
    assert refusal is not None
    assert refusal.outcome is Outcome.POLICY_CHANGED
    assert refusal.reason.endswith("rule direct allows it direct only")


def test_an_l7_proxys_streams_follow_its_name() -> None:
    renamed = replace(VIA, from_=RuleFrom(any=True, via=("envoy",)))
    assert of_proxy(speaking(replace(SPEAKS, name="envoy"), rule=renamed)) is None


@pytest.mark.parametrize(
    ("trusted", "caller", "words"),
    [
        ((), FOR_WEB, "isn't in inbound_trust"),
        ((replace(SPEAKS, speaks_for=("spiffe://example.org/ns/shop/**",)),), FOR_WEB,
         "may not speak for"),
        ((replace(SPEAKS, require_proof=True),), FOR_WEB, "has sent no proof"),
        ((SPEAKS,), None, "for whom this is isn't known"),
    ],
)  # fmt: skip
def test_streams_of_a_proxy_that_is_not_trusted_with_them_any_more_are_cut(
    trusted: tuple[InboundTrustSettings, ...], caller: Caller | None, words: str
) -> None:
    snapshot = speaking(*trusted)
    refusal = of_proxy(snapshot, caller)
    assert refusal is not None
    assert (refusal.outcome, refusal.rule) == (Outcome.POLICY_CHANGED, "inbound_trust.l7")
    assert words in refusal.reason
    assert of_proxy(snapshot, caller, on_policy_change="keep") is None


def test_who_was_proved_stays_where_a_proof_is_required() -> None:
    proved = replace(FOR_WEB, is_proved=True)
    assert of_proxy(speaking(replace(SPEAKS, require_proof=True)), proved) is None


def test_a_callers_trust_domain_that_has_lost_its_bundle_is_distrust() -> None:
    partner = replace(FOR_WEB, identity=SpiffeId.parse("spiffe://partner.test/a"))
    everybody = replace(SPEAKS, speaks_for=("spiffe://partner.test/**",))
    known = credentials(OURS, CA, Authority("partner.test"))
    assert of_proxy(speaking(everybody, believed=known), partner) is None
    refusal = of_proxy(speaking(everybody), partner)
    assert refusal is not None
    assert refusal.outcome is Outcome.IDENTITY_DISTRUSTED
    assert refusal.reason.endswith("there is no bundle for the trust domain partner.test")
    assert of_proxy(speaking(everybody), partner, on_distrust="keep") is None


@pytest.mark.parametrize(
    ("require_proof", "rule"), [(False, replace(VIA, from_=RuleFrom(any=True))), (True, VIA)]
)
def test_distrust_that_is_kept_excuses_from_nothing_else(
    require_proof: bool, rule: RuleSettings
) -> None:
    partner = replace(FOR_WEB, identity=SpiffeId.parse("spiffe://partner.test/a"))
    trusted = replace(SPEAKS, speaks_for=("spiffe://partner.test/**",), require_proof=require_proof)
    refusal = of_proxy(speaking(trusted, rule=rule), partner, on_distrust="keep")
    assert refusal is not None
    assert refusal.outcome is Outcome.POLICY_CHANGED


def test_under_distrust_that_is_kept_streams_follow_their_proxys_name() -> None:
    partner = replace(FOR_WEB, identity=SpiffeId.parse("spiffe://partner.test/a"))
    renamed = replace(SPEAKS, name="envoy", speaks_for=("spiffe://partner.test/**",))
    for name, stays in (("envoy", True), ("l7", False)):
        rule = replace(VIA, from_=RuleFrom(any=True, via=(name,)))
        refusal = of_proxy(speaking(renamed, rule=rule), partner, on_distrust="keep")
        assert (refusal is None) is stays


def test_the_identity_at_the_other_end_is_the_callers() -> None:
    made = connection(peer(L7, CA))
    assert info_of().identity_of(made) == L7.spiffe_id
    assert replace(info_of(), caller=FOR_WEB).identity_of(made) == WEB.spiffe_id
    assert info_of().identity_of(connection(None)) is None
    assert info_of().identity_of(replace(made, peer=None)) == L7.spiffe_id
    assert info_of().identity_of(replace(made, arrival=arrival())) == L7.spiffe_id


def test_only_a_stream_says_for_whom_it_is() -> None:
    snapshot = speaking(SPEAKS)
    made = replace(arrival(peer(L7, CA)), spoken=Spoken((WEB.spiffe_id,)))
    caller = caller_of(snapshot, replace(made, tunnel=1))
    assert isinstance(caller, Caller)
    assert (caller.identity, caller.via) == (FOR_WEB.identity, "l7")
    caller = caller_of(snapshot, made)
    assert isinstance(caller, Caller)
    assert caller.is_l7_proxy


def test_the_distrust_of_a_proxys_own_chain_is_told_before_that_of_its_callers_domain() -> None:
    believed = with_crl(credentials(OURS, CA), CA, L7)
    partner = replace(FOR_WEB, identity=SpiffeId.parse("spiffe://partner.test/a"))
    everybody = replace(SPEAKS, speaks_for=("spiffe://partner.test/**",))
    refusal = of_proxy(speaking(everybody, believed=believed), partner)
    assert refusal is not None
    assert refusal.rule == "UP-2"


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


@pytest.mark.parametrize("action", ["close", "keep"])
def test_what_its_door_does_not_lead_to_now_is_as_if_a_rule_refused_it(action: str) -> None:
    door = InboundSettings("api", API.listen, Transport.HBONE, None, (8080,))
    named = Target(8080, A.ip, "api")
    stream = replace(info_of(), transport=Transport.HBONE, target=named)
    config = settings(ANYBODY, inbound=(door,), on_policy_change=action)
    snapshot = Snapshot.first(config, credentials(OURS, CA), lambda: CA.now)
    came = replace(arrival(peer(WEB, CA)), local=TcpAddress("10.0.0.7", 15008))
    open_ = FakeConnection(came, peer=peer(WEB, CA))
    assert recheck(snapshot, stream, open_, CA.now) is None
    closed = snapshot.with_settings(replace(config, inbound=(replace(door, ports=(5432,)),)))
    refusal = recheck(closed, stream, open_, CA.now)
    if action == "keep":
        assert refusal is None
        return
    assert refusal is not None
    reason = "port 8080 isn't among `ports` of door api"
    assert (refusal.outcome, refusal.reason) == (Outcome.POLICY_CHANGED, reason)
    # a door that is gone serves nobody new, and keeps what is open
    without = snapshot.with_settings(replace(config, inbound=()))
    assert recheck(without, stream, open_, CA.now) is None


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
