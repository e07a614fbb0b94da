"""The contents of an authority's file: trust domains, their entries, revoked identities.

`definition_file` reads the YAML.  Values are immutable: a changed file gives a new Definition,
and `domain` applies the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_TTL_S = 600.0
"""Seconds that an SVID is valid unless `ttl` says otherwise."""


@dataclass(frozen=True, slots=True)
class CallingProcess:
    """The process at the other end of a Workload API socket, as the kernel reports it."""

    pid: int
    uid: int
    gid: int
    path: str | None
    """The path of its executable; None where the kernel doesn't show it."""


@dataclass(frozen=True, slots=True)
class EntryDefinition:
    """One identity, and the processes that may have it."""

    spiffe_id: str
    hint: str = ""
    """A name by which a workload with several identities can choose this one."""
    uid: int | None = None
    gid: int | None = None
    path: str | None = None
    """At least one of uid, gid and path is set; a process must match all that are set."""

    def selects(self, caller: CallingProcess) -> bool:
        """Return whether this process may have the identity."""
        return (
            self.uid in (None, caller.uid)
            and self.gid in (None, caller.gid)
            and self.path in (None, caller.path)
        )


@dataclass(frozen=True, slots=True)
class DomainDefinition:
    """One trust domain, served on a socket of its own."""

    name: str
    entries: tuple[EntryDefinition, ...] = ()
    ttl: float = DEFAULT_TTL_S
    """Seconds that an SVID is valid; it is renewed after half of them."""
    jwt_ttl: float = 300.0
    """Seconds that a JWT-SVID is valid."""
    ca_ttl: float = 86_400.0
    """Seconds that a CA is valid, and a key for JWT-SVIDs; it is replaced after half of them."""
    intermediate: bool = False
    """Whether an intermediate CA signs the SVIDs, as with most production CAs."""
    federates_with: tuple[str, ...] = ()
    """The other trust domains of this file whose bundles this domain's workloads receive."""
    revoke: tuple[str, ...] = ()
    """SPIFFE IDs: their SVIDs are put on the CRL, and they receive no new ones."""
    ca: int = 1
    """Changing this number starts a CA rotation."""
    socket: str | None = None
    """The socket's path; None: a file in the authority's folder."""


@dataclass(frozen=True, slots=True)
class Definition:
    """The contents of the whole file."""

    trust_domains: Mapping[str, DomainDefinition]
    sockets: str | None = None
    """The folder of the sockets; None: a folder made at start and removed at exit."""
