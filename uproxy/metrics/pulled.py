"""Metrics that are read from their source at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from uproxy.lean.prometheus import (
    Collector,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from uproxy.metrics.durations import Durations
from uproxy.metrics.labels import shortened
from uproxy.model import Direction

_STREAM_STATES = ("connecting", "streaming", "retrying")

Samples = Iterable[tuple[tuple[str, ...], float]]
"""(label values, number) of each sample."""


class Pulled(Collector):
    """A prometheus_client collector that calls a function for each metric, in the order added."""

    def __init__(self) -> None:
        self._reads: list[Callable[[], Metric]] = []

    def counter(
        self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Samples]
    ) -> None:
        """Add a counter whose samples `read` returns at each scrape."""
        self._add(lambda: CounterMetricFamily(name, text, labels=labels), read)

    def gauge(
        self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Samples]
    ) -> None:
        """Add a gauge whose samples `read` returns at each scrape."""
        self._add(lambda: GaugeMetricFamily(name, text, labels=labels), read)

    def collect(self) -> Iterable[Metric]:
        """Read all metrics; prometheus_client calls this at each scrape."""
        return [read() for read in self._reads]

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry would use it to check for duplicate names, and it would
        read the metrics to learn their names."""
        return ()

    def _add(
        self,
        make: Callable[[], CounterMetricFamily | GaugeMetricFamily],
        read: Callable[[], Samples],
    ) -> None:
        """Add a metric that `make` creates and `read` fills at each scrape."""

        def family() -> Metric:
            made = make()
            for values, number in read():
                made.add_metric(tuple(map(shortened, values)), number)
            return made

        self._reads.append(family)

    def histogram(self, name: str, text: str, label: str, read: Mapping[str, Durations]) -> None:
        """Add histograms with one label; `read` maps its values to their durations."""

        def family() -> Metric:
            made = HistogramMetricFamily(name, text, labels=(label,))
            for value, durations in read.items():
                made.add_metric((value,), durations.buckets(), durations.sum)
            return made

        self._reads.append(family)


def expiry(status: Callable[[], Mapping[str, object]]) -> Samples:
    """Yield when our SVID expires, in seconds since the epoch, labelled with its SPIFFE ID."""
    facts = status()
    spiffe_id, expires = facts.get("spiffe_id"), facts.get("expires")
    if isinstance(spiffe_id, str) and isinstance(expires, str):
        yield (spiffe_id,), datetime.fromisoformat(expires).timestamp()


def stream(status: Callable[[], Mapping[str, object]]) -> Samples:
    """Yield 1 for the state that the Workload API stream is in and 0 for the others."""
    stream = status().get("stream")
    if stream is not None:
        yield from (((state,), float(state == stream)) for state in _STREAM_STATES)


def fact(status: Callable[[], Mapping[str, object]], name: str) -> Samples:
    """Yield the number that the identity's status has under `name`, if it has one."""
    value = status().get(name)
    if isinstance(value, int):
        yield (), value


def by_direction(counts: Mapping[Direction, int]) -> Samples:
    """Yield a number for each direction, also where there is none yet."""
    yield from (((each.value,), counts.get(each, 0)) for each in Direction)
