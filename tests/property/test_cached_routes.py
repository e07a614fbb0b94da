"""An engine with a route cache, compared with one that asks about every arrival.

The same arrivals and changes happen to both.  The one with a cache reports an arrival that it gave
a cached route late, with the next batch; afterwards the two must not differ: who was admitted, who
was cut and why, what the metrics count.
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
from uproxy.connections import ConnectionInfo, Connections
from uproxy.contract import Arrival, CacheScope, Door, OnClosed, PeerSvid, Refusal, Route, TlsPlan
from uproxy.errors import UntrustedError
from uproxy.lab.pki import Authority
from uproxy.model import Outcome, TcpAddress, Transport

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
    """Checks every connection again when it opens."""

    def admitted(self, info: ConnectionInfo, arrival: Arrival, _revision: int) -> None:
        super().admitted(info, arrival, 0)


@dataclass
class Keeper:
    """An engine that asks about an arrival only if no cached route fits, or (without `keeps`) about
    every arrival."""

    keeps: bool
    here: World = field(init=False)
    door: Door = field(init=False)
    cached_routes: dict[Hashable, Route] = field(default_factory=dict)
    verdicts: dict[tuple[int, int], PeerSvid] = field(default_factory=dict)
    """By caller and `TlsPlan.trust_id`."""
    arriving: list[tuple[Arrival, Route, Door, bool]] = field(default_factory=list)
    """Admitted and not reported yet: arrival, route, the door that decided, whether it was
    asked."""
    made: list[tuple[FakeConnection, OnClosed]] = field(default_factory=list)
    refused: list[tuple[int, Refusal]] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = configured(ANYBODY, inbound=(DOOR,))
        self.here = World(config, credentials(OURS, CA, PARTNER), now=CA.now)
        kind = Connections if self.keeps else Suspicious
        here = self.here
        here.connections = kind(here.snapshot, here.metrics, here.log, clock=lambda: here.now)
        self.door = here.door()

    def renew(self) -> None:
        """The listener has its door of another snapshot."""
        self.door = self.here.door()
        self.cached_routes.clear()

    def shake_hands(self, number: int, who: int, host: str) -> Arrival | None:
        """Return the arrival; None: there is no plan, or the peer isn't trusted."""
        plan = self.door.tls()
        if not isinstance(plan, TlsPlan):
            return None
        verdict = self.verdicts.get((who, plan.trust_id)) if self.keeps else None
        if verdict is None:
            try:
                verdict = plan.verify(CALLERS[who][0].der)
            except UntrustedError:
                return None
            self.verdicts[who, plan.trust_id] = verdict
        return replace(arrival(verdict, TcpAddress(host, 1), number), tls=plan)

    def meet(self, who: Arrival) -> None:
        assert who.peer is not None
        assert isinstance(who.source, TcpAddress)
        leaf, host = who.peer.chain[0], who.source.host
        cached = self.cached_routes.get((leaf, None)) or self.cached_routes.get((leaf, host))
        if cached is not None and who.tls is self.door.tls():
            self.arriving.append((who, cached, self.door, False))
            return
        answer = self.door.admit(who)
        if isinstance(answer, Refusal):
            self.refused.append((who.id, answer))
            return
        self.arriving.append((who, answer, self.door, True))
        scope = answer.cache_scope
        if self.keeps and scope is not None and who.tls is self.door.tls():
            self.cached_routes[leaf, host if CacheScope.SOURCE in scope else None] = answer

    def report(self) -> None:
        """Report what has happened since the last report."""
        for who, route, door, asked in self.arriving:
            if not asked:
                door.admitted_from_cache(who, route)
            made = FakeConnection(who, route=route, peer=who.peer, dialled=APP)
            self.made.append((made, door.opened(made)))
        self.arriving.clear()

    def end(self) -> None:
        self.report()
        for each, closed in self.made:
            cut = each.refusals[0].outcome if each.refusals else Outcome.CLOSED
            closed(each, ending(cut))

    def seen(self) -> object:
        """Return everything that can be seen from outside, sorted."""
        _, text = self.here.metrics.render()
        numbers = [line for line in text.splitlines() if not line.startswith(b"process_")]
        cut = {each.arrival.id: each.refusals for each, _ in self.made}
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
    keeper.here.configure(replace(keeper.here.settings, authorization=rules))


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
def test_a_route_cache_changes_nothing_that_can_be_seen(
    steps: list[tuple[int, str] | str | Step],
) -> None:
    async def live(keeper: Keeper) -> object:
        shaken: list[Arrival | None] = []
        for number, step in enumerate(steps):
            if isinstance(step, tuple):
                shaken.append(keeper.shake_hands(number, *step))
            elif not isinstance(step, str):
                step(keeper)
                if step is not Keeper.report:
                    keeper.renew()
            else:
                for each in filter(None, shaken):
                    keeper.meet(each)
                shaken.clear()
        keeper.end()
        return keeper.seen()

    assert asyncio.run(live(Keeper(keeps=True))) == asyncio.run(live(Keeper(keeps=False)))
