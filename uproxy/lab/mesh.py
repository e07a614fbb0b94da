"""Identities for tests with several proxies, and `uproxy run` in one line.

`Identities` provides identities of the trust domains example.org and stranger.test: to uProxies as
configuration, to other programs as PEM files.  `FileWorld` has CAs of its own and writes files for
both; `AgentWorld` uses `uproxy authority`: uProxies use its Workload API, and files for other
programs are fetched with PyPI's `spiffe`.
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
"""An identity of our own trust domain that no rule allows."""
STRANGER = "spiffe://stranger.test/ns/void/sa/nobody"
"""An identity of a trust domain that example.org isn't federated with."""

TUNNEL_ENGINES = ("native", "python")
"""The engines that carry tunnels."""
LOOPBACK = "127.0.0.1"

Config = dict[str, Any]


class Identities(Protocol):
    """Where all identities come from."""

    def ours(self, spiffe_id: str) -> Config:
        """Return the `identity` of a uProxy's configuration."""

    def theirs(self, spiffe_id: str) -> IdentityFiles:
        """Return files for another program, which trusts example.org's bundle."""


class FileWorld:
    """Identities in files, signed by CAs that are made at run time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, IdentityFiles] = {}
        self.ca = Authority("example.org")
        self.stranger_ca = Authority("stranger.test")

    def ours(self, spiffe_id: str) -> Config:
        return by_files(self.theirs(spiffe_id))

    def theirs(self, spiffe_id: str) -> IdentityFiles:
        # written once only: a uProxy would reload files that change
        if spiffe_id not in self._written:
            domain, path = _split(spiffe_id)
            ca = {"example.org": self.ca, "stranger.test": self.stranger_ca}[domain]
            # ghostunnel demands the dialled address in the certificate
            issued = ca.issue(path, ips=("127.0.0.1",))
            self._written[spiffe_id] = self.write(path.replace("/", "-"), issued)
        return self._written[spiffe_id]

    def write(self, name: str, issued: Issued) -> IdentityFiles:
        """Write files of another SVID, with example.org's bundle."""
        return write_identity(self._folder / name, issued, self.ca.pem)


class AgentWorld:
    """Identities of a running `uproxy authority`, which gives each to processes of this user."""

    def __init__(self, folder: Path, authority: DevAuthority) -> None:
        self._folder = folder
        self.authority = authority

    @staticmethod
    def domains() -> dict[str, Any]:
        """Return the trust domains with which the authority must be started."""
        return {
            "example.org": {"entries": [entry(WEB), entry(ORDERS), entry(UNWANTED)]},
            "stranger.test": {"entries": [entry(STRANGER)]},
        }

    @property
    def endpoint(self) -> str:
        """The address of example.org's Workload API."""
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
    """Return an `identity` with `files`, trusting example.org's bundle."""
    bundles = {"example.org": str(files.bundle)}
    return {"files": {"svid": str(files.svid), "key": str(files.key), "bundles": bundles}, **more}


def by_agent(endpoint: str, spiffe_id: str, **more: Any) -> Config:
    """Return an `identity` with a Workload API."""
    return {"workload_api": endpoint, "spiffe_id": spiffe_id, **more}


def fetch_identity(folder: Path, endpoint: str, spiffe_id: str) -> IdentityFiles:
    """Fetch an identity from a Workload API and write it, with its own domain's bundle, as
    files."""
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
    """A uProxy with one mTLS door on `port`, for an application on the port `app`.

    It admits the identities in `allow`.  `more` are further keys of its configuration.
    """

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
        """Replace keys of the configuration file, which the uProxy then reloads."""
        self.config = {**self.config, **keys}
        self.write_config(self.config)


class Outbound(Uproxy):
    """A uProxy with one plaintext door on `port`, which connects to the ports `peers`.

    A peer must have an identity in `expect`.  `more` are further keys of its configuration.
    """

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


class TunnelsIn(Uproxy):
    """A uProxy with one door for tunnels (HBONE) on `port` of the loopback address `host`, whose
    ports `apps` are those of applications on 127.0.0.1.

    It admits the identities in `allow`.  `more` are further keys of its configuration.
    """

    def __init__(
        self,
        folder: Path,
        identity: Config,
        *apps: int,
        engine: str,
        host: str = LOOPBACK,
        port: int | None = None,
        allow: Sequence[str] = (WEB,),
        **more: Any,
    ) -> None:
        self.port = free_port() if port is None else port
        door = {"name": "tunnels", "listen": f"{host}:{self.port}", "transport": "hbone",
                "ports": list(apps), "addresses": [host], "to": LOOPBACK}  # fmt: skip
        self.config: Config = {
            "engine": engine,
            "identity": identity,
            "inbound": [door],
            "authorization": [allowing(*allow)],
            **more,
        }
        super().__init__(self.config, folder / f"tunnels-in-{host}-{self.port}")

    def change(self, **keys: Any) -> None:
        """Replace keys of the configuration file, which the uProxy then reloads."""
        self.config = {**self.config, **keys}
        self.write_config(self.config)


class TunnelsOut(Uproxy):
    """A uProxy with one plaintext door on `port`, which leads through tunnels to the addresses
    `apps`, or ports of 127.0.0.1.

    The tunnels end at the port `end` of an application's address, where an identity in `expect`
    must answer.  There is one engine thread, because each has tunnels of its own.  `more` are
    further keys of its configuration.
    """

    def __init__(
        self,
        folder: Path,
        identity: Config,
        *apps: str | int,
        end: int,
        engine: str,
        expect: Sequence[str] = (ORDERS,),
        **more: Any,
    ) -> None:
        self.port = free_port()
        addresses = [each if isinstance(each, str) else f"{LOOPBACK}:{each}" for each in apps]
        peer = {"addresses": addresses, "transport": "hbone", "hbone_port": end,
                "identities": list(expect)}  # fmt: skip
        self.config: Config = {
            "engine": engine,
            "workers": 1,
            "identity": identity,
            "outbound": [{"listen": f"{LOOPBACK}:{self.port}", "to": "peer"}],
            "destinations": {"peer": peer},
            **more,
        }
        super().__init__(self.config, folder / f"tunnels-out-{self.port}")


class ThroughL7(Uproxy):
    """A uProxy that leads to the addresses `apps` through L7 proxies: `ports` are its plaintext
    doors, one for each application, `port` is the first.

    The L7 proxies are on the ports `proxies`, and have the identity `l7`; at an application an
    identity in `expect` must answer.  There is one engine thread, because each has tunnels of its
    own.  `more` are further keys of its configuration.
    """

    def __init__(
        self,
        folder: Path,
        identity: Config,
        *apps: str,
        proxies: Sequence[int],
        l7: str,
        engine: str = "native",
        expect: Sequence[str] = (ORDERS,),
        **more: Any,
    ) -> None:
        self.ports = [free_port() for _ in apps]
        self.port = self.ports[0]
        doors = [{"listen": f"{LOOPBACK}:{port}", "to": f"app-{port}"} for port in self.ports]
        destinations = {
            door["to"]: {"addresses": [app], "transport": "hbone", "identities": list(expect),
                         "via": "l7"}
            for door, app in zip(doors, apps, strict=True)
        }  # fmt: skip
        self.config: Config = {
            "engine": engine,
            "workers": 1,
            "identity": identity,
            "outbound": doors,
            "destinations": destinations,
            "l7_proxies": {"l7": {"identities": [l7], "addresses": self.addresses(*proxies)}},
            **more,
        }
        super().__init__(self.config, folder / f"through-l7-{self.port}")

    def is_ready(self) -> bool:
        return self.status("/readyz") == 200

    @staticmethod
    def addresses(*proxies: int, draining: Sequence[int] = ()) -> list[Any]:
        """Return `addresses` of L7 proxies on these ports."""
        return [{"address": f"{LOOPBACK}:{port}", "draining": port in draining} for port in proxies]

    def change(self, **keys: Any) -> None:
        """Replace keys of the configuration file, which the uProxy then reloads."""
        self.config = {**self.config, **keys}
        self.write_config(self.config)


def own_serial(uproxy: Uproxy) -> str:
    """Return the serial number of the SVID in use."""
    serial: str = json.loads(uproxy.request("/certs")[1])["svid"]["chain"][0]["serial"]
    return serial


def allowing(*spiffe_ids: str) -> Mapping[str, Any]:
    """Return an authorization rule named `callers` that allows these identities."""
    return {"name": "callers", "action": "allow", "from": {"identities": list(spiffe_ids)}}


def _split(spiffe_id: str) -> tuple[str, str]:
    domain, slash, path = spiffe_id.removeprefix("spiffe://").partition("/")
    return domain, slash + path
