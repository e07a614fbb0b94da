"""Every metric uProxy shows: what happens is recorded by name, and rendered for scrapers."""

from uproxy.metrics.flows import Flow
from uproxy.metrics.labels import FlowLabels
from uproxy.metrics.record import Metrics

__all__ = ["Flow", "FlowLabels", "Metrics"]
