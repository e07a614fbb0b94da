"""What stays true of a destination whatever happens to its endpoints, in any order."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.helpers.destinations import Destination
from uproxy.contract import Candidate
from uproxy.destinations import LONGEST_BACKOFF_S
from uproxy.model import Address, TcpAddress

NAMES = tuple(TcpAddress(name, 1) for name in ("a.internal", "b.internal"))
LITERALS = tuple(TcpAddress(f"10.0.0.{n}", 1) for n in range(3))
RECORDS = (*LITERALS, *(TcpAddress(f"fd00::{n}", 1) for n in range(3)))


class DestinationMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: tuple[TcpAddress, ...] = (NAMES[0], LITERALS[0])
        self.destination = Destination(self.addresses)
        self.records: dict[TcpAddress, tuple[TcpAddress, ...]] = {}
        self.open: Counter[Address] = Counter()
        self.failed_at: dict[Address, float] = {}
        self.now = 0.0

    def listed(self) -> set[Address]:
        found: set[Address] = set()
        for address in self.addresses:
            found |= {address} if address.ip else set(self.records.get(address, ()))
        return found

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(addresses=st.lists(st.sampled_from(NAMES + LITERALS), min_size=1, unique=True))
    def reload(self, addresses: list[TcpAddress]) -> None:
        self.addresses = tuple(addresses)
        self.records = {name: self.records[name] for name in addresses if name in self.records}
        self.destination.configure(self.addresses)

    @rule(name=st.sampled_from(NAMES), records=st.lists(st.sampled_from(RECORDS), unique=True))
    def resolve(self, name: TcpAddress, records: list[TcpAddress]) -> None:
        self.destination.resolved(name, tuple(records))
        if records and name in self.addresses:
            self.records[name] = tuple(records)

    @rule(which=st.integers(0, 20), second=st.booleans())
    def open_one(self, which: int, second: bool) -> None:
        tried = self.destination.candidates(self.now)
        if not tried:
            assert not self.listed()
            return
        candidate = tried[which % len(tried)]
        dialled = candidate.addresses[-1 if second else 0]
        for passed in self.preferred(tried, dialled):
            self.failed_at[passed] = self.now
        self.failed_at.pop(dialled, None)
        self.destination.opened(tried, dialled, self.now)
        self.open[dialled] += 1

    def preferred(self, tried: tuple[Candidate, ...], dialled: Address) -> list[Address]:
        firsts = [candidate.addresses[0] for candidate in tried]
        reached = next(n for n, each in enumerate(tried) if dialled in each.addresses)
        return [address for address in firsts[: reached + 1] if address != dialled]

    @rule(address=st.sampled_from(RECORDS))
    def fail(self, address: TcpAddress) -> None:
        self.destination.failed(address, self.now, "refused")
        self.failed_at[address] = self.now

    @precondition(lambda self: self.open.total() > 0)
    @rule(data=st.data())
    def close_one(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(+self.open, key=str)))
        self.destination.closed(address)
        self.open[address] -= 1

    @invariant()
    def counts_are_what_was_opened_and_not_closed(self) -> None:
        assert self.destination.connections == dict(+self.open)

    @invariant()
    def candidates_are_listed_each_once_and_never_none_while_something_is_listed(self) -> None:
        firsts = [each.addresses[0] for each in self.destination.candidates(self.now)]
        assert len(set(firsts)) == len(firsts)
        assert set(firsts) <= self.listed()
        assert bool(firsts) == bool(self.listed())

    @invariant()
    def what_never_failed_or_failed_long_ago_is_always_tried(self) -> None:
        firsts = {each.addresses[0] for each in self.destination.candidates(self.now)}
        for address in self.listed():
            failed_at = self.failed_at.get(address)
            if failed_at is None or self.now - failed_at >= LONGEST_BACKOFF_S:
                assert address in firsts

    @invariant()
    def loads_never_fall_along_the_list(self) -> None:
        order = [self.open[each.addresses[0]] for each in self.destination.candidates(self.now)]
        assert order == sorted(order)

    @invariant()
    def a_race_is_one_record_of_each_family_of_one_name(self) -> None:
        for candidate in self.destination.candidates(self.now):
            if len(candidate.addresses) == 1:
                continue
            first, second = candidate.addresses
            records = {str(name): found for name, found in self.records.items()}
            assert {first, second} <= set(records[candidate.endpoint])
            assert str(first).startswith("[") != str(second).startswith("[")


TestDestination = DestinationMachine.TestCase
