"""uProxies among strangers: where identities come from, and a `uproxy run` in one line.

A `World` hands out identities of the trust domains example.org and stranger.test: to uProxies
as their configuration wants them, to strangers as PEM files.  `FileWorld` has CAs of its own
and writes files for both; `AgentWorld` is `uproxy authority`, from which uProxies live through
the Workload API and strangers' files are taken with PyPI's `spiffe`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.identities import IdentityFiles, write_identity
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy

WEB = "spiffe://example.org/ns/web/sa/frontend"
ORDERS = "spiffe://example.org/ns/shop/sa/orders"
UNWANTED = "spiffe://example.org/ns/web/sa/unwanted"
"""Of our own trust domain, and allowed nothing."""
STRANGER = "spiffe://stranger.test/ns/void/sa/nobody"
"""Of a trust domain that example.org isn't federated with."""

Config = dict[str, Any]


class World(Protocol):
    """Where everybody's identity comes from."""

    def ours(self, spiffe_id: str) -> Config:
        """The `identity` of a uProxy's configuration."""

    def theirs(self, spiffe_id: str) -> IdentityFiles:
        """Files for a stranger, who believes example.org's bundle."""


class FileWorld:
    """Files for everybody, signed by CAs made at run time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, IdentityFiles] = {}
        self.ca = Authority("example.org")
        self.stranger_ca = Authority("stranger.test")

    def ours(self, spiffe_id: str) -> Config:
        return by_files(self.theirs(spiffe_id))

    def theirs(self, spiffe_id: str) -> IdentityFiles:
        # once each: a uProxy would follow files that change
        if spiffe_id not in self._written:
            domain, path = _split(spiffe_id)
            ca = {"example.org": self.ca, "stranger.test": self.stranger_ca}[domain]
            # ghostunnel looks for the address it dials
            issued = ca.issue(path, ips=("127.0.0.1",))
            self._written[spiffe_id] = self.write(path.replace("/", "-"), issued)
        return self._written[spiffe_id]

    def write(self, name: str, issued: Issued) -> IdentityFiles:
        """Files of something special, beside example.org's bundle."""
        return write_identity(self._folder / name, issued, self.ca.pem)


class AgentWorld:
    """A running `uproxy authority`, whose `starter` is offered every identity."""

    def __init__(self, folder: Path, authority: DevAuthority) -> None:
        self._folder = folder
        self.authority = authority

    @staticmethod
    def domains() -> dict[str, Any]:
        """What the authority is to be started with."""
        return {
            "example.org": {"entries": [entry(WEB), entry(ORDERS), entry(UNWANTED)]},
            "stranger.test": {"entries": [entry(STRANGER)]},
        }

    @property
    def endpoint(self) -> str:
        """The Workload API of example.org."""
        return self.authority.endpoints["example.org"]

    def ours(self, spiffe_id: str) -> Config:
        return by_agent(self.endpoint, spiffe_id)

    def theirs(self, spiffe_id: str) -> IdentityFiles:
        domain, path = _split(spiffe_id)
        folder = self._folder / path.replace("/", "-")
        files = fetch_identity(folder, self.authority.endpoints[domain], spiffe_id)
        home = fetch_identity(self._folder / "home", self.endpoint, WEB)
        files.bundle.write_bytes(home.bundle.read_bytes())
        return files


def by_files(files: IdentityFiles, **more: Any) -> Config:
    """`identity` with `files`, believing example.org's bundle."""
    bundles = {"example.org": str(files.bundle)}
    return {"files": {"svid": str(files.svid), "key": str(files.key), "bundles": bundles}, **more}


def by_agent(endpoint: str, spiffe_id: str, **more: Any) -> Config:
    """`identity` with a Workload API."""
    return {"workload_api": endpoint, "spiffe_id": spiffe_id, **more}


def fetch_identity(folder: Path, endpoint: str, spiffe_id: str) -> IdentityFiles:
    """Files of an identity as the Workload API has it now, beside its own domain's bundle."""
    from spiffe import WorkloadApiClient

    with contextlib.closing(WorkloadApiClient(endpoint, default_timeout=20)) as client:
        context = client.fetch_x509_context()
    svid = next(each for each in context.x509_svids if str(each.spiffe_id) == spiffe_id)
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    assert bundle is not None
    assert isinstance(svid.private_key, EllipticCurvePrivateKey)
    roots = b"".join(root.public_bytes(Encoding.PEM) for root in bundle.x509_authorities)
    return write_identity(folder, Issued(tuple(svid.cert_chain), svid.private_key), roots)


class Inbound(Uproxy):
    """A uProxy with one mTLS door, `port`, in front of an application at `app`; lets in
    `allow`.  `more` are further keys of its configuration."""

    def __init__(
        self,
        folder: Path,
        identity: Config,
        app: int,
        *,
        allow: Sequence[str] = (WEB,),
        **more: Any,
    ) -> None:
        self.port = free_port()
        door = {"name": "door", "listen": f"127.0.0.1:{self.port}", "transport": "mtls",
                "to": f"127.0.0.1:{app}"}  # fmt: skip
        self.config: Config = {
            "identity": identity,
            "inbound": [door],
            "authorization": [allowing(*allow)],
            **more,
        }
        super().__init__(self.config, folder / f"inbound-{self.port}")

    def change(self, **keys: Any) -> None:
        """Replace keys of its configuration, which it then reloads."""
        self.config = {**self.config, **keys}
        self.write_config(self.config)


class Outbound(Uproxy):
    """A uProxy with one door in clear, `port`, to the ports `peers`, who must be one of
    `expect`.  `more` are further keys of its configuration."""

    def __init__(
        self,
        folder: Path,
        identity: Config,
        *peers: int,
        expect: Sequence[str] = (ORDERS,),
        **more: Any,
    ) -> None:
        self.port = free_port()
        peer = {"addresses": [f"127.0.0.1:{port}" for port in peers], "transport": "mtls",
                "identities": list(expect)}  # fmt: skip
        self.config: Config = {
            "identity": identity,
            "outbound": [{"listen": f"127.0.0.1:{self.port}", "to": "peer"}],
            "destinations": {"peer": peer},
            **more,
        }
        super().__init__(self.config, folder / f"outbound-{self.port}")


def own_serial(uproxy: Uproxy) -> str:
    """Of the SVID in force."""
    serial: str = json.loads(uproxy.request("/certs")[1])["svid"]["chain"][0]["serial"]
    return serial


def allowing(*spiffe_ids: str) -> Mapping[str, Any]:
    """A rule named `callers` that lets them in."""
    return {"name": "callers", "action": "allow", "from": {"identities": list(spiffe_ids)}}


def _split(spiffe_id: str) -> tuple[str, str]:
    domain, slash, path = spiffe_id.removeprefix("spiffe://").partition("/")
    return domain, slash + path
