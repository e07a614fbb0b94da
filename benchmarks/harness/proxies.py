"""The proxies that are compared, always as a pair: client → A ⇢ mutual TLS ⇢ B → application.

Rules: two threads each (uProxy has one in this version), no access log, no resumption, the
same identities, TLS 1.3 with AES-128-GCM and one key exchange group.  Each is asked for that
in its own words; `observe` looks whether it happened.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.helpers.envoy import EnvoyClient, EnvoyServer
from tests.helpers.golang import find_go, peer
from tests.helpers.mesh import ORDERS, WEB, Inbound, Outbound
from tests.helpers.peers import GhostunnelClient, GhostunnelServer, IdentityFiles
from tests.helpers.processes import Uproxy

CIPHER = "TLS_AES_128_GCM_SHA256"
X25519 = "X25519"
X25519MLKEM768 = "X25519MLKEM768"


Proxy = EnvoyServer | EnvoyClient | GhostunnelServer | GhostunnelClient | Inbound | Outbound
"""A process that listens on `port` of loopback while its `with` block lasts."""


class Identities(Protocol):
    """Where the two workloads' identities come from; see tests/helpers/mesh.py."""

    def ours(self, spiffe_id: str) -> dict[str, Any]: ...

    def theirs(self, spiffe_id: str) -> IdentityFiles: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of a table: how its two proxies are made, not yet started."""

    key: str
    title: str
    group: str | None = None
    """The key exchange that must be seen; None: there is no TLS."""
    inbound: Callable[[Path, Identities, int], Proxy] | None = None
    """B, in front of an application's port; None: the client goes to the application."""
    outbound: Callable[[Path, Identities, int], Proxy] | None = None
    """A, in front of B's port."""


@dataclass(frozen=True, slots=True)
class Running:
    """Where a client goes in, and who is measured."""

    port: int
    proxies: tuple[Proxy, ...]
    """A and B; none for a direct connection."""

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(proxy.pid for proxy in self.proxies)


@contextlib.contextmanager
def pair(kind: Kind, folder: Path, identities: Identities, application: int) -> Iterator[Running]:
    """Both proxies on fresh ports in front of an application's port, ready."""
    if kind.inbound is None or kind.outbound is None:
        yield Running(application, ())
        return
    with (
        started(kind.inbound(folder, identities, application)) as b,
        started(kind.outbound(folder, identities, b.port)) as a,
    ):
        yield Running(a.port, (a, b))


@contextlib.contextmanager
def started(proxy: Proxy) -> Iterator[Proxy]:
    """A proxy from exec to ready, and until the block ends."""
    with proxy:
        # the others are ready once entered
        if isinstance(proxy, Uproxy):
            proxy.wait_until_ready()
        yield proxy


def _uproxy_kind(key: str, title: str, *groups: str, engine: str = "python") -> Kind:
    keys: dict[str, Any] = {
        "engine": engine,
        "log": {"access": "none"},
        "tls": {"groups": list(groups), "ciphers": [CIPHER]},
    }

    def inbound(folder: Path, identities: Identities, application: int) -> Proxy:
        return Inbound(folder, identities.ours(ORDERS), application, **keys)

    def outbound(folder: Path, identities: Identities, target: int) -> Proxy:
        return Outbound(folder, identities.ours(WEB), target, **keys)

    return Kind(key, title, groups[0], inbound, outbound)


def _envoy_kind(key: str, title: str, *groups: str) -> Kind:
    common = {"tls_params": {"ecdh_curves": list(groups)}}
    server = {
        "common_tls_context": common,
        "disable_stateless_session_resumption": True,
        "disable_stateful_session_resumption": True,
    }
    client = {"common_tls_context": common, "max_session_keys": 0}

    def inbound(folder: Path, identities: Identities, application: int) -> Proxy:
        files = identities.theirs(ORDERS)
        envoy = EnvoyServer(folder, files, target=application, allow=[WEB], tls=server)
        return _two_threads(envoy)

    def outbound(folder: Path, identities: Identities, target: int) -> Proxy:
        files = identities.theirs(WEB)
        envoy = EnvoyClient(folder, files, target=target, expect=[ORDERS], tls=client)
        return _two_threads(envoy)

    return Kind(key, title, groups[0], inbound, outbound)


def _two_threads(envoy: EnvoyServer | EnvoyClient) -> Proxy:
    envoy.argv[envoy.argv.index("--concurrency") + 1] = "2"
    return envoy


def _ghostunnel_inbound(folder: Path, identities: Identities, application: int) -> Proxy:
    proxy = GhostunnelServer(folder, identities.theirs(ORDERS), target=application, allow=[WEB])
    return _quiet(proxy)


def _ghostunnel_outbound(folder: Path, identities: Identities, target: int) -> Proxy:
    proxy = GhostunnelClient(folder, identities.theirs(WEB), target=target, verify=[ORDERS])
    return _quiet(proxy)


def _quiet(proxy: GhostunnelServer | GhostunnelClient) -> Proxy:
    proxy.argv += [f"--quiet={what}" for what in ("conns", "conn-errs", "handshake-errs")]
    # newer Go offers post-quantum groups unless told otherwise; any Go takes all cores
    proxy.argv[:0] = ["env", "GOMAXPROCS=2", "GODEBUG=tlsmlkem=0"]
    return proxy


NONE = Kind("none", "none (direct)")
ENVOY = _envoy_kind("envoy", "Envoy", X25519)
ENVOY_PQ = _envoy_kind("envoy-pq", f"Envoy, {X25519MLKEM768}", X25519MLKEM768, X25519)
GHOSTUNNEL = Kind("ghostunnel", "ghostunnel", X25519, _ghostunnel_inbound, _ghostunnel_outbound)
UPROXY = _uproxy_kind("uproxy", "uProxy", X25519)
UPROXY_NATIVE = _uproxy_kind("uproxy-native", "uProxy, compiled", X25519, engine="native")
UPROXY_PQ = _uproxy_kind("uproxy-pq", f"uProxy, {X25519MLKEM768}", X25519MLKEM768, X25519, "P-256")


def versions() -> dict[str, str]:
    """What was compared, in each program's own words."""
    return {
        "Envoy": _said(str(Path(sys.executable).parent / "envoy"), "--version")
        .rpartition("version: ")[2]
        .split("/")[1],
        "ghostunnel": _said(str(find_go()), "version", "-m", str(peer("ghostunnel")))
        .partition("ghostunnel/ghostunnel\tv")[2]
        .split()[0],
        "nginx": _said("nginx", "-v").rpartition("/")[2],
        "wrk": _said("wrk", "-v").split()[1].removeprefix("debian/"),
    }


def _said(*argv: str) -> str:
    # wrk's exit status is 1 whatever it is asked
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()
