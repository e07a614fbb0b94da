"""How much memory does an idle proxy use, and how much more for each idle connection?

Flow: B alone from exec until it is ready, then 2 s of nothing, then its memory; then A is started
too, 5,000 connections each carry one request with an answer of 1 KiB and stay open.  uProxy's
identity comes from a Workload API whose stream stays open, and its metrics are scraped once
before; the others have files, and Envoy's metrics are scraped once too.  Files are synced
first: a library's pages count as dirty until they are on disk.

Not measured: memory under load, Envoy's memory with a mesh's clusters and endpoints (it grows
with them).  PSS is taken with four processes of a kind; a uProxy also shares the interpreter's
pages with this program and the authority, which are Python.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace

from benchmarks.harness.application import Application
from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.clients import Clients
from benchmarks.harness.figures import Figures
from benchmarks.harness.proxies import (
    ENVOY,
    ENVOY_PQ,
    GHOSTUNNEL,
    HAPROXY,
    UPROXY,
    UPROXY_PQ,
    Proxy,
    ProxyKind,
    started,
)
from uproxy.lab.memory import memory
from uproxy.lab.mesh import Identities
from uproxy.lab.processes import Uproxy
from uproxy.lab.software.envoy import EnvoyServer

_IDLE_S = 2.0
_CONNECTIONS = 5_000
_WARM = 64
_COPIES = 4
_MIB = 1 << 20

_UPROXY = replace(UPROXY, title="uProxy, Workload API")
_UPROXY_PQ = replace(UPROXY_PQ, title=f"uProxy, Workload API, {UPROXY_PQ.group}")


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure B alone and idle, then both with idle connections."""
    assert kind.inbound is not None
    assert kind.outbound is not None
    identities: Identities = stage.files
    if kind in (_UPROXY, _UPROXY_PQ) and stage.agent is not None:
        identities = stage.agent
    with Application(stage.folder) as application:
        proxy = kind.inbound(stage.folder, identities, application.port)
        begun = time.monotonic()
        with started(proxy) as b:
            figures = {"ready": (time.monotonic() - begun) * 1000}
            _scrape(b)
            _settle()
            idle = memory(b.pid)
            figures |= {
                "private": idle.private_dirty / _MIB,
                "rss": idle.rss / _MIB,
            }
            figures["pss"] = _shared(stage, kind, identities, b) / _MIB
            outbound = kind.outbound(stage.folder, identities, b.port, application.port)
            with started(outbound) as a:
                figures |= per_connection(a, b)
    return figures


def _shared(stage: Stage, kind: ProxyKind, identities: Identities, proxy: Proxy) -> int:
    """Return the PSS of a proxy in bytes while others of its kind run."""
    assert kind.inbound is not None
    with contextlib.ExitStack() as stack:
        for _ in range(_COPIES - 1):
            # no client connects to them, so their application's port doesn't matter
            other = kind.inbound(stage.folder, identities, proxy.port)
            stack.enter_context(started(other))
        return memory(proxy.pid).pss


def per_connection(a: Proxy, b: Proxy) -> Figures:
    """Return the private memory for each idle connection in KiB, of A and of B."""
    with Clients(a.port) as early:
        early.open(_WARM)
    with Clients(a.port) as clients:
        _settle()
        before = [memory(proxy.pid).private_dirty for proxy in (a, b)]
        clients.open(_CONNECTIONS)
        _settle()
        after = [memory(proxy.pid).private_dirty for proxy in (a, b)]
    names = ("connection_a", "connection_b")
    return {
        name: (late - early) / _CONNECTIONS / 1024
        for name, early, late in zip(names, before, after, strict=True)
    }


def _scrape(proxy: Proxy) -> None:
    if isinstance(proxy, Uproxy):
        proxy.request("/metrics")
    elif isinstance(proxy, EnvoyServer):
        proxy.admin("/stats/prometheus")


def _settle() -> None:
    os.sync()
    time.sleep(_IDLE_S)


_IDLE, _OPEN = "B, idle", f"{_CONNECTIONS:,} idle connections"
BENCHMARK = Benchmark(
    name="memory",
    title="Memory and start",
    columns=(
        Column("private", "private MiB", 1, _IDLE, ratio=True, summary="private MiB"),
        Column("rss", "RSS MiB", 1, _IDLE, ratio=True),
        Column("pss", f"PSS MiB, {_COPIES} of a kind", 1, _IDLE, ratio=True),
        Column("ready", "exec to ready, ms", 0, _IDLE, ratio=True, summary="ready ms"),
        Column("connection_a", "KiB per connection, A", 1, _OPEN, ratio=True),
        Column(
            "connection_b",
            "KiB per connection, B",
            1,
            _OPEN,
            ratio=True,
            summary="KiB per connection",
        ),
    ),
    kinds=(ENVOY, HAPROXY, GHOSTUNNEL, _UPROXY, ENVOY_PQ, _UPROXY_PQ),
    measure=measure,
    charts=("private", "rss", "connection_a", "connection_b", "ready"),
    seconds=_IDLE_S,
    workload_api=True,
)
