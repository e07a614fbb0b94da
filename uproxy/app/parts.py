"""The parts of a uProxy, built but not started, in the order they depend on each other."""

from __future__ import annotations

from collections.abc import Mapping

from uproxy.app.doors import Doors
from uproxy.app.engines import make_engine
from uproxy.app.identity import make_source
from uproxy.config import Settings
from uproxy.connections import Connections, InForce
from uproxy.contract import Door
from uproxy.destinations import Destinations
from uproxy.log import Log
from uproxy.metrics import Metrics
from uproxy.model import ListenAddress
from uproxy.proxy.inbound import InboundDoor
from uproxy.proxy.outbound import OutboundDoor
from uproxy.proxy.services import Services
from uproxy.resolver import Resolver
from uproxy.systemd import Listeners


class Parts:
    """Everything that lives as long as the process does."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        listeners: Listeners,
        versions: Mapping[str, str],
    ) -> None:
        self.log = log
        self.metrics = Metrics()
        self.source = make_source(settings.identity)
        self.engine = make_engine(settings.engine, settings.workers)
        self.destinations = Destinations()
        self.destinations.configure(settings)
        self.resolver = Resolver(self.destinations, changed=self.engine.ask_again)
        in_force = InForce.first(settings, self.source.current)
        self.connections = Connections(in_force, self.metrics, log, ask_again=self.engine.ask_again)
        self.services = Services(self.connections, self.destinations, self.metrics)
        self.doors = Doors(self.engine, listeners)
        self.source.subscribe(self.connections.credentials_changed)
        self.metrics.watch_identity(lambda: self.source.status)
        self.metrics.watch_limits(self.engine.refused)
        self.metrics.watch_log(lambda: log.dropped)
        self.metrics.build_info(versions)

    def make_doors(self, settings: Settings) -> dict[ListenAddress, Door]:
        """The doors of a configuration, which `destinations` must know already."""
        return {
            **{
                each.listen: InboundDoor(each, settings, self.services) for each in settings.inbound
            },
            **{
                each.listen: OutboundDoor(each, settings, self.services)
                for each in settings.outbound
            },
        }
