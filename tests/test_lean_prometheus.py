"""uproxy.lean.prometheus: rendering metrics, without the rest of prometheus_client."""

from __future__ import annotations

import subprocess
import sys

from uproxy.lean import prometheus


def test_recording_and_rendering_bring_no_http_server_and_no_ssl_into_the_process() -> None:
    script = (
        "import sys; from uproxy.metrics import Metrics; Metrics().render('');"
        "print([name for name in ('http.server', 'ssl', 'wsgiref', 'socketserver')"
        " if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert told.stdout == b"[]\n"


def test_numbers_and_the_content_type_are_those_of_the_text_format() -> None:
    assert prometheus.number(1.0) == "1.0"
    assert prometheus.number(float("inf")) == "+Inf"
    assert prometheus.OPENMETRICS_CONTENT_TYPE.startswith("application/openmetrics-text")
