"""The workloads of the mesh: callers on the first node, services on the second.

Each has an address of its own on loopback.  On a node two workloads share a service account.
"""

from __future__ import annotations

from dataclasses import dataclass

PER_NODE = 8
PER_ACCOUNT = 2
APPLICATION = 8080
"""The port of each service's application."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload."""

    node: int
    """0: callers, 1: services."""
    number: int
    """On its node, from 0."""

    @property
    def host(self) -> str:
        """Its address."""
        return f"127.0.{self.node + 1}.{self.number + 10}"

    @property
    def account(self) -> str:
        """The name of its service account."""
        return f"{'ab'[self.node]}{self.number // PER_ACCOUNT}"

    @property
    def spiffe_id(self) -> str:
        """Its identity, which is its service account's."""
        return f"spiffe://example.org/ns/mesh/sa/{self.account}"


CALLERS = tuple(Workload(0, number) for number in range(PER_NODE))
SERVICES = tuple(Workload(1, number) for number in range(PER_NODE))


def accounts(workloads: tuple[Workload, ...]) -> dict[str, tuple[Workload, ...]]:
    """Return the workloads of each service account, by its name."""
    return {
        name: tuple(each for each in workloads if each.account == name)
        for name in dict.fromkeys(each.account for each in workloads)
    }


def service(number: int) -> Workload:
    """Return a service of the mesh.  Those beyond the ones that run are known to proxies only, and
    stand for the rest of a large mesh."""
    return SERVICES[number % PER_NODE]
