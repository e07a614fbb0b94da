"""Every metric of uProxy: events are counted here, and rendered when a scraper asks."""

from uproxy.metrics.flows import FlowCounters
from uproxy.metrics.history import History, Totals
from uproxy.metrics.labels import FlowLabels
from uproxy.metrics.record import Metrics

__all__ = ["FlowCounters", "FlowLabels", "History", "Metrics", "Totals"]
