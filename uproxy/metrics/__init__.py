"""Every metric of uProxy: events are counted here, and rendered when a scraper asks."""

from uproxy.metrics.flows import Flow
from uproxy.metrics.labels import FlowLabels
from uproxy.metrics.record import Metrics

__all__ = ["Flow", "FlowLabels", "Metrics"]
