"""Every metric uProxy shows: what happens is recorded by name, and rendered for scrapers."""

from uproxy.metrics.labels import FlowLabels
from uproxy.metrics.record import Flow, Metrics

__all__ = ["Flow", "FlowLabels", "Metrics"]
