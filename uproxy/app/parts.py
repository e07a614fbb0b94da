"""The parts of a uProxy, built but not started, in the order they depend on each other."""

from __future__ import annotations

import time
from collections.abc import Mapping

from uproxy.app.current import Current
from uproxy.app.doors import Doors
from uproxy.app.engines import make_engine
from uproxy.app.identity import make_source
from uproxy.app.l7_health import L7Health
from uproxy.app.l7_metrics import usable_endpoints
from uproxy.app.proofs import Proofs
from uproxy.config import Settings
from uproxy.connections import Connections
from uproxy.destinations import AllEndpoints
from uproxy.log import Log
from uproxy.metrics import History, Metrics
from uproxy.model import Direction
from uproxy.proxy.services import Services
from uproxy.resolver import Resolver
from uproxy.snapshot import Snapshot
from uproxy.systemd import PassedSockets


class Parts:
    """Everything that lives as long as the process."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        listeners: PassedSockets,
        versions: Mapping[str, str],
    ) -> None:
        self.log = log
        self.metrics = Metrics()
        self.source = make_source(settings.identity)
        self.engine = make_engine(settings.engine, settings.workers)
        snapshot = Snapshot.first(settings, self.source.current)
        self.connections = Connections(snapshot, self.metrics, log)
        self.history = History(time.monotonic())
        self.endpoints = AllEndpoints()
        self.services = Services(
            self.connections,
            self.endpoints,
            self.metrics,
            why_unresolved=lambda name: self.resolver.why_failing(name),  # which is made below
            passed_ports=listeners.ports(),
        )
        self.doors = Doors(self.engine, listeners)
        self.current = Current(self.services, self.doors)
        self.resolver = Resolver(self.current)
        self.l7_health = L7Health(lambda: self.snapshot, self.endpoints)
        self.source.subscribe(self.current.credentials_changed)
        self.proofs = Proofs(self.source, self.current.tokens_changed)
        self.metrics.watch_identity(lambda: self.source.status)
        self.metrics.watch_tokens(
            lambda: {name: each.expires for name, each in self.proofs.status.items()}
        )
        self.metrics.watch_limits(self.engine.refused)
        self.metrics.watch_l7(lambda: usable_endpoints(self.snapshot, self.endpoints))
        self.engine.watch_tunnels(self.connections.tunnels.ended_dialled)
        self.metrics.watch_tunnels(
            lambda: {
                Direction.INBOUND: len(self.connections.tunnels),
                Direction.OUTBOUND: self.engine.pooled_tunnels(),
            }
        )
        self.metrics.watch_log(lambda: log.dropped)
        self.metrics.build_info(versions)

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force."""
        return self.current.snapshot
