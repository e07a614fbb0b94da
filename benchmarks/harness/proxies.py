"""The compared proxies, always as a pair: client → A ⇢ mutual TLS ⇢ B → application.

Rules: two threads each (uProxy has one for each processor, four at most), no access log unless
the row's title has one, no resumption, the same identities, TLS 1.3 with AES-128-GCM and one key
exchange group.  Each is configured for that; `observe` checks whether it happens.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.haproxy import Haproxy
from uproxy.lab.mesh import ORDERS, WEB, Identities, Inbound, Outbound, TunnelsIn, TunnelsOut
from uproxy.lab.processes import Uproxy
from uproxy.lab.software.envoy import Envoy, EnvoyClient, EnvoyServer
from uproxy.lab.software.envoy_tunnels import TunnelOriginator, TunnelTerminator
from uproxy.lab.software.peers import GhostunnelClient, GhostunnelServer

CIPHER = "TLS_AES_128_GCM_SHA256"
X25519 = "X25519"
X25519MLKEM768 = "X25519MLKEM768"
_MOST = 20_000


Proxy = (
    Envoy
    | Haproxy
    | GhostunnelServer
    | GhostunnelClient
    | Inbound
    | Outbound
    | TunnelsIn
    | TunnelsOut
)
"""A process that listens on the loopback port `port` inside its `with` block."""


@dataclass(frozen=True, slots=True)
class ProxyKind:
    """One row of a table: how its two proxies are made."""

    key: str
    title: str
    group: str | None = None
    """The key exchange group that must be negotiated; None: there is no TLS."""
    inbound: Callable[[Path, Identities, int], Proxy] | None = None
    """Makes B, in front of an application's port; None: clients connect to the application."""
    outbound: Callable[[Path, Identities, int, int], Proxy] | None = None
    """Makes A, in front of B's port and, behind that, the application's."""
    tunnels: bool = False
    """Whether all connections between A and B are streams of a few tunnels (HBONE)."""


@dataclass(frozen=True, slots=True)
class Running:
    """Where clients connect, and which processes are measured."""

    port: int
    proxies: tuple[Proxy, ...]
    """A and B; empty for a direct connection."""

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(proxy.pid for proxy in self.proxies)


@contextlib.contextmanager
def pair(
    kind: ProxyKind, folder: Path, identities: Identities, application: int
) -> Iterator[Running]:
    """Start both proxies on new ports in front of an application's port."""
    if kind.inbound is None or kind.outbound is None:
        yield Running(application, ())
        return
    with (
        started(kind.inbound(folder, identities, application)) as b,
        started(kind.outbound(folder, identities, b.port, application)) as a,
    ):
        yield Running(a.port, (a, b))


@contextlib.contextmanager
def started(proxy: Proxy) -> Iterator[Proxy]:
    """Start a proxy and wait until it is ready; stop it when the block ends."""
    with proxy:
        # the others are ready when their `with` block begins
        if isinstance(proxy, Uproxy):
            proxy.wait_until_ready()
        yield proxy


def _uproxy_kind(
    key: str, title: str, *groups: str, engine: str = "native", access: str = "none"
) -> ProxyKind:
    keys: dict[str, Any] = {
        "engine": engine,
        "log": {"access": access, "format": "json"},
        "tls": {"groups": list(groups), "ciphers": [CIPHER]},
    }

    def inbound(folder: Path, identities: Identities, application: int) -> Proxy:
        return Inbound(folder, identities.ours(ORDERS), application, **keys)

    def outbound(folder: Path, identities: Identities, target: int, _application: int) -> Proxy:
        return Outbound(folder, identities.ours(WEB), target, **keys)

    return ProxyKind(key, title, groups[0], inbound, outbound)


def _envoy_tls(*groups: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what an Envoy server and an Envoy client need to negotiate what the others do."""
    common = {"tls_params": {"ecdh_curves": list(groups)}}
    server = {
        "common_tls_context": common,
        "disable_stateless_session_resumption": True,
        "disable_stateful_session_resumption": True,
    }
    return server, {"common_tls_context": common, "max_session_keys": 0}


def _envoy_kind(key: str, title: str, *groups: str) -> ProxyKind:
    server, client = _envoy_tls(*groups)

    def inbound(folder: Path, identities: Identities, application: int) -> Proxy:
        files = identities.theirs(ORDERS)
        envoy = EnvoyServer(folder, files, target=application, allow=[WEB], tls=server)
        return _for_load(envoy)

    def outbound(folder: Path, identities: Identities, target: int, _application: int) -> Proxy:
        files = identities.theirs(WEB)
        envoy = EnvoyClient(folder, files, target=target, expect=[ORDERS], tls=client)
        return _for_load(envoy)

    return ProxyKind(key, title, groups[0], inbound, outbound)


def _uproxy_tunnels(key: str, title: str, engine: str, **hbone: int) -> ProxyKind:
    """As `_uproxy_kind`, with tunnels between A and B; `hbone` are A's keys for them."""
    keys: dict[str, Any] = {
        "log": {"access": "none", "format": "json"},
        "tls": {"groups": [X25519], "ciphers": [CIPHER]},
    }

    def inbound(folder: Path, identities: Identities, application: int) -> Proxy:
        ours = identities.ours(ORDERS)
        return TunnelsIn(folder, ours, application, engine=engine, **keys)

    def outbound(folder: Path, identities: Identities, target: int, application: int) -> Proxy:
        ours = identities.ours(WEB)
        return TunnelsOut(folder, ours, application, end=target, engine=engine, **keys, hbone=hbone)

    return ProxyKind(key, title, X25519, inbound, outbound, tunnels=True)


def _envoy_tunnels() -> ProxyKind:
    """Envoy as Istio has it: CONNECT over HTTP/2, terminated and originated."""
    server, client = _envoy_tls(X25519)

    def inbound(folder: Path, identities: Identities, application: int) -> Proxy:
        files = identities.theirs(ORDERS)
        most = {"max_concurrent_streams": _MOST}
        return _for_load(
            TunnelTerminator(folder, files, target=application, allow=[WEB], http2=most, tls=server)
        )

    def outbound(folder: Path, identities: Identities, target: int, application: int) -> Proxy:
        return _for_load(
            TunnelOriginator(
                folder,
                identities.theirs(WEB),
                target=target,
                authority=f"127.0.0.1:{application}",
                expect=[ORDERS],
                tls=client,
            )
        )

    return ProxyKind("envoy", "Envoy, HBONE", X25519, inbound, outbound, tunnels=True)


def _for_load(envoy: Envoy) -> Proxy:
    """Give Envoy two threads, and lift its limits of 1,024 connections and requests per cluster."""
    envoy.argv[envoy.argv.index("--concurrency") + 1] = "2"
    config = Path(envoy.argv[envoy.argv.index("-c") + 1])
    bootstrap = json.loads(config.read_text())
    most = {"max_connections": _MOST, "max_pending_requests": _MOST, "max_requests": _MOST}
    for cluster in bootstrap["static_resources"]["clusters"]:
        cluster["circuit_breakers"] = {"thresholds": [most]}
    config.write_text(json.dumps(bootstrap, indent=1))
    return envoy


def _haproxy_inbound(folder: Path, identities: Identities, application: int) -> Proxy:
    files = identities.theirs(ORDERS)
    return Haproxy(folder, files, application, X25519, CIPHER, is_server=True)


def _haproxy_outbound(
    folder: Path, identities: Identities, target: int, _application: int
) -> Proxy:
    files = identities.theirs(WEB)
    return Haproxy(folder, files, target, X25519, CIPHER, is_server=False)


def _ghostunnel_inbound(folder: Path, identities: Identities, application: int) -> Proxy:
    files = identities.theirs(ORDERS)
    return _in_go(GhostunnelServer(folder, files, target=application, allow=[WEB]))


def _ghostunnel_outbound(
    folder: Path, identities: Identities, target: int, _application: int
) -> Proxy:
    files = identities.theirs(WEB)
    return _in_go(GhostunnelClient(folder, files, target=target, verify=[ORDERS]))


def _in_go(proxy: GhostunnelServer | GhostunnelClient) -> Proxy:
    proxy.argv += [f"--quiet={what}" for what in ("conns", "conn-errs", "handshake-errs")]
    # newer Go offers post-quantum groups unless told otherwise; any Go takes all cores
    proxy.argv[:0] = ["env", "GOMAXPROCS=2", "GODEBUG=tlsmlkem=0"]
    return proxy


NONE = ProxyKind("none", "none (direct)")
ENVOY = _envoy_kind("envoy", "Envoy", X25519)
ENVOY_PQ = _envoy_kind("envoy-pq", f"Envoy, {X25519MLKEM768}", X25519MLKEM768, X25519)
HAPROXY = ProxyKind("haproxy", "HAProxy", X25519, _haproxy_inbound, _haproxy_outbound)
GHOSTUNNEL = ProxyKind(
    "ghostunnel", "ghostunnel", X25519, _ghostunnel_inbound, _ghostunnel_outbound
)
UPROXY = _uproxy_kind("uproxy", "uProxy", X25519)
UPROXY_PQ = _uproxy_kind("uproxy-pq", f"uProxy, {X25519MLKEM768}", X25519MLKEM768, X25519, "P-256")
UPROXY_LOGGING = _uproxy_kind("uproxy-logging", "uProxy, JSON access log", X25519, access="all")
PYTHON_ENGINE = _uproxy_kind("uproxy-python", "uProxy, Python engine", X25519, engine="python")

COMPARED = (ENVOY, HAPROXY, GHOSTUNNEL, UPROXY)
"""Each as it is meant to be run, and as alike as possible."""

TUNNELS = (
    _envoy_tunnels(),
    _uproxy_tunnels("uproxy", "uProxy, HBONE", "native"),
    _uproxy_tunnels("uproxy-python", "uProxy, HBONE, Python engine", "python"),
)
"""All connections between A and B are streams of tunnels (HBONE)."""

FULL_TUNNELS = tuple(
    _uproxy_tunnels(kind.key, kind.title, engine, streams_per_connection=1_024) if engine else kind
    for kind, engine in zip(TUNNELS, ("", "native", "python"), strict=True)
)
"""The same, with as many streams in a tunnel as in Envoy's, not 100 of ours."""
