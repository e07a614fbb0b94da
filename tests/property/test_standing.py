"""An engine that keeps the routes that stand, against one that asks about everybody.

The same arrivals and changes happen to both.  The keeper reports what it decided alone late,
whenever a batch is due; nothing may tell the two apart afterwards: who got in, who was cut and
why, what the metrics say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.connections import APP, FakeConnection, arrival, ending
from tests.helpers.world import ANYBODY, World, credentials, with_crl
from tests.helpers.world import settings as configured
from uproxy.config.settings import InboundSettings, RuleFrom, RuleSettings
from uproxy.connections import Connections, Party
from uproxy.contract import Arrival, PeerSvid, Refusal, Route, Stands, TlsPlan
from uproxy.errors import UntrustedError
from uproxy.lab.pki import Authority
from uproxy.model import Outcome, TcpAddress, Transport
from uproxy.proxy.inbound import InboundDoor

CA = Authority("example.org")
PARTNER = Authority("partner.test")
OURS, RENEWED = (CA.issue("/ns/db/sa/orders") for _ in range(2))
CALLERS = (
    (CA.issue("/ns/web/sa/a"), CA),
    (CA.issue("/ns/shop/sa/b"), CA),
    (PARTNER.issue("/ns/web/sa/a"), PARTNER),
)
NEAR = ip_network("10.0.0.0/24")
RULES = (
    (ANYBODY,),
    (),
    (RuleSettings("web", "allow", RuleFrom(namespaces=("web",))),),
    (ANYBODY, RuleSettings("far", "deny", RuleFrom(not_cidrs=(NEAR,)))),
    (ANYBODY, RuleSettings("watch", "deny", RuleFrom(cidrs=(NEAR,)), mode="shadow")),
)
DOOR = InboundSettings("api", TcpAddress("0.0.0.0", 1), Transport.MTLS, APP)


class Suspicious(Connections):
    """Judges everybody once more when they open."""

    def admitted(self, party: Party, arrival: Arrival, _edition: int) -> None:
        super().admitted(party, arrival, 0)


@dataclass
class Keeper:
    """An engine that asks only about those for whom no route stands; or about everybody, and then
    trusts nobody."""

    keeps: bool
    here: World = field(init=False)
    door: InboundDoor = field(init=False)
    standing: dict[Hashable, Route] = field(default_factory=dict)
    verdicts: dict[tuple[int, int], PeerSvid] = field(default_factory=dict)
    """By caller and `TlsPlan.trust`."""
    arriving: list[tuple[Arrival, Route, bool]] = field(default_factory=list)
    """Let in and not reported yet; whether the door was asked."""
    made: list[FakeConnection] = field(default_factory=list)
    refused: list[tuple[int, Refusal]] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = configured(ANYBODY, inbound=(DOOR,))
        self.here = World(config, credentials(OURS, CA, PARTNER), now=CA.now)
        known = self.here.connections.in_force
        kind = Connections if self.keeps else Suspicious
        self.here.connections = kind(
            known, self.here.metrics, self.here.log, ask_again=self.standing.clear
        )
        self.door = InboundDoor(DOOR, config, self.here.services)

    def shake_hands(self, number: int, who: int, host: str) -> Arrival | None:
        """None: nobody can, or this one isn't believed."""
        plan = self.door.tls()
        if not isinstance(plan, TlsPlan):
            return None
        verdict = self.verdicts.get((who, plan.trust)) if self.keeps else None
        if verdict is None:
            try:
                verdict = plan.verify(CALLERS[who][0].der)
            except UntrustedError:
                return None
            self.verdicts[who, plan.trust] = verdict
        return replace(arrival(verdict, TcpAddress(host, 1), number), tls=plan)

    def meet(self, who: Arrival) -> None:
        assert who.peer is not None
        assert isinstance(who.source, TcpAddress)
        leaf, host = who.peer.chain[0], who.source.host
        stands = self.standing.get((leaf, None)) or self.standing.get((leaf, host))
        if stands is not None:
            self.arriving.append((who, stands, False))
            return
        answer = self.door.admit(who)
        if isinstance(answer, Refusal):
            self.refused.append((who.id, answer))
            return
        self.arriving.append((who, answer, True))
        if self.keeps and answer.stands is not Stands.NEVER:
            self.standing[leaf, host if answer.stands is Stands.FOR_SOURCE else None] = answer

    def report(self) -> None:
        """Whatever happened since the last time."""
        for who, route, asked in self.arriving:
            if not asked:
                self.door.repeated(who, route)
            self.made.append(FakeConnection(who, route=route, peer=who.peer, dialled=APP))
            self.door.opened(self.made[-1])
        self.arriving.clear()

    def end(self) -> None:
        self.report()
        for each in self.made:
            cut = each.refusals[0].outcome if each.refusals else Outcome.CLOSED
            self.door.closed(each, ending(cut))

    def told(self) -> object:
        """All that can be seen from outside, in an order of its own."""
        _, text = self.here.metrics.render()
        numbers = [line for line in text.splitlines() if not line.startswith(b"process_")]
        cut = {each.arrival.id: each.refusals for each in self.made}
        lines = sorted(str(record.fields) for record in self.here.records)
        return sorted(numbers), cut, sorted(self.refused, key=str), lines


Step = Callable[[Keeper], None]


def revoke(keeper: Keeper, who: int) -> None:
    issued, authority = CALLERS[who]
    keeper.here.believe(with_crl(keeper.here.credentials, authority, issued))


def forget_partner(keeper: Keeper) -> None:
    before = keeper.here.credentials
    bundles = {CA.trust_domain: before.bundles[CA.trust_domain]}
    keeper.here.believe(replace(before, bundles=bundles, generation=before.generation + 1))


def show(keeper: Keeper, renewed: bool) -> None:
    shown = RENEWED if renewed else OURS
    keeper.here.believe(replace(keeper.here.credentials, svid=shown.svid, reason=""))


def lose_identity(keeper: Keeper) -> None:
    keeper.here.believe(replace(keeper.here.credentials, svid=None, reason="withdrawn"))


def change_rules(keeper: Keeper, rules: tuple[RuleSettings, ...]) -> None:
    keeper.here.connections.configure(replace(keeper.here.settings, authorization=rules))


callers = st.tuples(st.integers(0, len(CALLERS) - 1), st.sampled_from(("10.0.0.1", "10.9.9.9")))
changes: st.SearchStrategy[Step] = st.one_of(
    st.sampled_from(RULES).map(lambda rules: lambda keeper: change_rules(keeper, rules)),
    st.integers(0, len(CALLERS) - 1).map(lambda who: lambda keeper: revoke(keeper, who)),
    st.booleans().map(lambda renewed: lambda keeper: show(keeper, renewed)),
    st.sampled_from((forget_partner, lose_identity)),
    st.just(Keeper.report),
)
steps = st.lists(st.one_of(callers, callers, st.just("meet"), changes), max_size=30)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_keeping_the_routes_that_stand_changes_nothing_that_can_be_seen(
    steps: list[tuple[int, str] | str | Step],
) -> None:
    async def live(keeper: Keeper) -> object:
        shaken: list[Arrival | None] = []
        for number, step in enumerate(steps):
            if isinstance(step, tuple):
                shaken.append(keeper.shake_hands(number, *step))
            elif not isinstance(step, str):
                step(keeper)
            else:
                for each in filter(None, shaken):
                    keeper.meet(each)
                shaken.clear()
        keeper.end()
        return keeper.told()

    assert asyncio.run(live(Keeper(keeps=True))) == asyncio.run(live(Keeper(keeps=False)))
