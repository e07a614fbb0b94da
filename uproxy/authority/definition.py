"""What a development authority is told: trust domains, who gets which identity, what is revoked.

Not how it is written (`definition_file` reads the YAML) and nothing that happens.  Values
are immutable; a changed file gives a new Definition, and `domain` works out the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_TTL_S = 600.0


@dataclass(frozen=True, slots=True)
class Caller:
    """A process at the other end of the socket, as the kernel vouches for it."""

    pid: int
    uid: int
    gid: int
    path: str | None
    """Its program; None where the kernel doesn't tell us."""


@dataclass(frozen=True, slots=True)
class EntryDefinition:
    """One identity and the processes that may have it."""

    spiffe_id: str
    hint: str = ""
    """A name by which a workload that is offered several identities can choose."""
    uid: int | None = None
    gid: int | None = None
    path: str | None = None
    """Of uid, gid and path at least one is set; those that are must all fit."""

    def selects(self, caller: Caller) -> bool:
        """Whether the entry means this process."""
        return (
            self.uid in (None, caller.uid)
            and self.gid in (None, caller.gid)
            and self.path in (None, caller.path)
        )


@dataclass(frozen=True, slots=True)
class DomainDefinition:
    """One trust domain with an endpoint of its own."""

    name: str
    entries: tuple[EntryDefinition, ...] = ()
    ttl: float = DEFAULT_TTL_S
    """The life of an SVID in seconds; a new one comes at its half."""
    ca_ttl: float = 86_400.0
    """The life of a CA in seconds; a new one takes over at its half."""
    intermediate: bool = False
    """Whether an intermediate signs, as in most production CAs."""
    federates_with: tuple[str, ...] = ()
    """The trust domains of this authority whose bundles this one's workloads get."""
    revoke: tuple[str, ...] = ()
    """SPIFFE IDs: what they were issued is on the CRL, and they are issued nothing."""
    ca: int = 1
    """Any other number than before: a new CA takes over."""
    socket: str | None = None
    """The endpoint's path; None: in the folder of the authority."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A whole authority."""

    trust_domains: Mapping[str, DomainDefinition]
    sockets: str | None = None
    """The folder of the endpoints; None: a folder made at start and removed at exit."""
