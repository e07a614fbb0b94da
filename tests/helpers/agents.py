"""A `uproxy authority` with a fixed address, which tests can start, change, kill and restart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import ORDERS, UNWANTED, WEB, fetch_identity
from uproxy.lab.waiting import wait_until

BILLING = "spiffe://partner.test/ns/billing/sa/invoices"
"""An identity of a trust domain with which example.org is federated."""


class Agent:
    """An authority for example.org and partner.test, whose addresses are known before it runs."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.folder = folder
        self.endpoint = f"unix://{sockets}/agent.sock"
        self.partners = f"unix://{sockets}/partner.sock"
        self.authority = DevAuthority(folder, self._domains({}))

    def plan(self, **example: Any) -> None:
        """Set keys of the trust domain example.org before the authority starts."""
        self.authority.define(self._domains(example))

    def define(self, **example: Any) -> None:
        """Change keys of the trust domain example.org; return when the authority has read them."""
        taken_over = self.authority.output.count("taken over")
        self.plan(**example)
        wait_until(lambda: self.authority.output.count("taken over") > taken_over, "the definition")

    def unfederate(self) -> None:
        """End the federation of the two trust domains."""
        domains = self._domains({})
        for domain in domains.values():
            domain.pop("federates_with", None)
        self.authority.define(domains)

    def files(self, spiffe_id: str) -> IdentityFiles:
        """Fetch an identity as files for another program, which trusts example.org."""
        domain, name = spiffe_id.split("/")[2], spiffe_id.rsplit("/", 1)[-1]
        if domain == "example.org":
            return fetch_identity(self.folder / name, self.endpoint, spiffe_id)
        files = fetch_identity(self.folder / name, self.partners, spiffe_id)
        home = fetch_identity(self.folder / "home", self.endpoint, WEB)
        files.bundle.write_bytes(home.bundle.read_bytes())
        return files

    def _domains(self, example: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "example.org": {
                "socket": self.endpoint.removeprefix("unix://"),
                "entries": [entry(WEB), entry(ORDERS), entry(UNWANTED)],
                "federates_with": ["partner.test"],
                **example,
            },
            "partner.test": {
                "socket": self.partners.removeprefix("unix://"),
                "entries": [entry(BILLING)],
            },
        }
