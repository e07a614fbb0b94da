"""The development identity authority: a small CA that serves the real SPIFFE Workload API.

For development and tests only: whoever may edit its file can give any process any identity.
Tests and the demo use the names below or its sockets; the proxy never imports it.

    definition, definition_file   trust domains and entries, and the YAML they are read from
    ca, jwt_keys, domain          certificates, keys for JWT-SVIDs, and their rotation; pure
    handout, jwt_handout,         each caller's messages of the Workload API and of Envoy's SDS;
    secrets_handout, calls        and when they are sent; pure
    rpc, server                   both on a unix socket
    service                       everything together, with a clock
"""

from __future__ import annotations

from uproxy.authority.definition import (
    CallingProcess,
    Definition,
    DomainDefinition,
    EntryDefinition,
)
from uproxy.authority.definition_file import parse_definition
from uproxy.authority.service import DevelopmentAuthority

__all__ = [
    "CallingProcess",
    "Definition",
    "DevelopmentAuthority",
    "DomainDefinition",
    "EntryDefinition",
    "parse_definition",
]
