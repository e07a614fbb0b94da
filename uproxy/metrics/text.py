"""Renders metrics as text: OpenMetrics, or the older Prometheus format 0.0.4.

The writer of the older format is our own, because prometheus_client's is in the module that
imports an HTTP server (see `client`).
"""

from __future__ import annotations

from collections.abc import Iterable

from uproxy.lean.prometheus import (
    OPENMETRICS_CONTENT_TYPE,
    CollectorRegistry,
    Metric,
    number,
    openmetrics,
)

TEXT_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(registry: CollectorRegistry, accept: str) -> tuple[str, bytes]:
    """Return (content type, text): OpenMetrics if the Accept header `accept` names it."""
    if _wants_openmetrics(accept):
        return OPENMETRICS_CONTENT_TYPE, openmetrics(registry)
    return TEXT_CONTENT_TYPE, _text(registry.collect()).encode()


def _wants_openmetrics(accept: str) -> bool:
    kinds = (part.split(";")[0].strip().lower() for part in accept.split(","))
    return "application/openmetrics-text" in kinds


def _text(metrics: Iterable[Metric]) -> str:
    """Render metrics in Prometheus text format 0.0.4."""
    lines = []
    for metric in metrics:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        lines.append(f"# HELP {name} {metric.documentation}\n# TYPE {name} {metric.type}\n")
        for sample in metric.samples:
            labels = ",".join(
                f'{label}="{_escaped(value)}"' for label, value in sample.labels.items()
            )
            braced = f"{{{labels}}}" if labels else ""
            lines.append(f"{sample.name}{braced} {number(sample.value)}\n")
    return "".join(lines)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
