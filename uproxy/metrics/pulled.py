"""Numbers that are read at each scrape, wherever they are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from uproxy.metrics.client import (
    Collector,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from uproxy.metrics.durations import Durations
from uproxy.metrics.labels import short

_STREAM_STATES = ("connecting", "streaming", "retrying")

Samples = Iterable[tuple[tuple[str, ...], float]]
"""Label values and the number."""


class Pulled(Collector):
    """All of them, in the order in which they were named."""

    def __init__(self) -> None:
        self._reads: list[Callable[[], Metric]] = []

    def counter(
        self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Samples]
    ) -> None:
        """Show what `read` gives as a counter."""
        self._add(lambda: CounterMetricFamily(name, text, labels=labels), read)

    def gauge(
        self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Samples]
    ) -> None:
        """Show what `read` gives as a gauge."""
        self._add(lambda: GaugeMetricFamily(name, text, labels=labels), read)

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client asks for them."""
        return [read() for read in self._reads]

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: the names don't clash, and asking would read."""
        return ()

    def _add(
        self,
        make: Callable[[], CounterMetricFamily | GaugeMetricFamily],
        read: Callable[[], Samples],
    ) -> None:
        def family() -> Metric:
            made = make()
            for values, number in read():
                made.add_metric(tuple(map(short, values)), number)
            return made

        self._reads.append(family)

    def histogram(self, name: str, text: str, label: str, read: Mapping[str, Durations]) -> None:
        """Show what `read` holds by the label's values."""

        def family() -> Metric:
            made = HistogramMetricFamily(name, text, labels=(label,))
            for value, durations in read.items():
                made.add_metric((value,), durations.buckets(), durations.sum)
            return made

        self._reads.append(family)


def expiry(status: Callable[[], Mapping[str, object]]) -> Samples:
    facts = status()
    spiffe_id, expires = facts.get("spiffe_id"), facts.get("expires")
    if isinstance(spiffe_id, str) and isinstance(expires, str):
        yield (spiffe_id,), datetime.fromisoformat(expires).timestamp()


def stream(status: Callable[[], Mapping[str, object]]) -> Samples:
    stream = status().get("stream")
    if stream is not None:
        yield from (((state,), float(state == stream)) for state in _STREAM_STATES)


def fact(status: Callable[[], Mapping[str, object]], name: str) -> Samples:
    value = status().get(name)
    if isinstance(value, int):
        yield (), value
