"""The development identity authority: a small CA behind the real SPIFFE Workload API.

For development and tests only: whoever may edit its file may be anyone.  Others use it
through the names below, or through its sockets; the proxy never imports it.

    definition, definition_file   what it is told, and how that is written
    ca, domain, handout           what is signed, over time, and who sees what    pure
    rpc, server                   the Workload API on a unix socket
    service                       all of it together, with a clock
"""

from __future__ import annotations

from uproxy.authority.definition import (
    Caller,
    Definition,
    DomainDefinition,
    EntryDefinition,
)
from uproxy.authority.definition_file import parse_definition
from uproxy.authority.service import Authority

__all__ = [
    "Authority",
    "Caller",
    "Definition",
    "DomainDefinition",
    "EntryDefinition",
    "parse_definition",
]
