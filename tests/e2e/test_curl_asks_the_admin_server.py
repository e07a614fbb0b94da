"""curl, a client no one here wrote, and Prometheus' own parser against the admin server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.helpers.admin import RunningAdmin, orders_facts
from uproxy.model import TcpAddress, UnixAddress
from uproxy.proxy.admin.messages import Surface
from uproxy.proxy.admin.vitals import Readiness

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@pytest.fixture
def admin() -> Iterator[RunningAdmin]:
    with RunningAdmin(orders_facts()) as running:
        yield running


@pytest.fixture
def address(admin: RunningAdmin) -> str:
    return f"http://{admin.listen().address}"


def curl(*words: str) -> tuple[int, str]:
    """Status (or what another `-w` asks for) and body."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl (package curl)")
    ran = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "--max-time", "20", "-w", "\n%{http_code}", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    body, _, status = ran.stdout.rpartition("\n")
    return int(status), body


def test_every_path_answers(address: str) -> None:
    for path in ("readyz", "livez", "metrics", "config_dump", "certs", "connections", "l7", ""):
        assert curl(f"{address}/{path}")[0] == 200, path
    assert json.loads(curl(f"{address}/certs")[1])["svid"]["spiffe_id"].startswith("spiffe://")


def test_readiness_is_told_on_its_own_listener(admin: RunningAdmin) -> None:
    ready = admin.listen(surface=Surface.READY).address
    assert curl(f"http://{ready}/readyz") == (200, "ready\n")
    admin.facts.ready = Readiness(("no identity yet: agent socket refused",))
    assert curl(f"http://{ready}/readyz") == (503, "no identity yet\n")
    assert curl(f"http://{ready}/certs")[0] == 404


def test_prometheus_reads_the_metrics_in_both_forms(admin: RunningAdmin) -> None:
    admin.facts.opened.labels('spiffe://example.org/quo"te\\').inc(3)
    metrics = f"http://{admin.listen(surface=Surface.METRICS).address}/metrics"
    for accept, read in (("text/plain", read_text), (OPENMETRICS, read_openmetrics)):
        status, body = curl("-H", f"Accept: {accept}", metrics)
        assert status == 200
        samples = {
            sample.name: (sample.labels, sample.value)
            for family in read(body)
            for sample in family.samples
        }
        assert samples["istio_tcp_connections_opened_total"] == (
            {"source_principal": 'spiffe://example.org/quo"te\\'},
            3.0,
        )


def test_one_connection_serves_many_requests(address: str) -> None:
    connects, _ = curl("-w", "\n%{num_connects}", f"{address}/livez", f"{address}/readyz")
    assert connects == 0  # made for the last of the two


def test_head_has_no_body(address: str) -> None:
    status, head = curl("-I", f"{address}/readyz")
    assert status == 200
    assert "content-length: 6" in head.lower()


def test_state_changes_by_post_only(admin: RunningAdmin, address: str) -> None:
    assert curl(f"{address}/drain")[0] == 405
    assert curl("-X", "POST", f"{address}/drain")[0] == 200
    assert curl("-X", "POST", f"{address}/logging?level=debug")[0] == 200
    assert curl("-d", "", f"{address}/quitquitquit")[0] == 200
    assert curl("-d", "level=info", f"{address}/logging")[0] == 413
    assert admin.facts.commands == ["drain", "level debug", "quit"]


def test_a_name_that_was_rebound_is_refused(admin: RunningAdmin) -> None:
    listening = admin.listen().address
    assert isinstance(listening, TcpAddress)
    rebound = f"evil.example:{listening.port}"
    status, body = curl("--resolve", f"{rebound}:127.0.0.1", f"http://{rebound}/config_dump")
    assert status == 403
    assert "localhost" in body
    assert curl(f"http://localhost:{listening.port}/livez", "-4") == (200, "alive\n")


def test_a_page_of_another_origin_is_refused(admin: RunningAdmin, address: str) -> None:
    status, _ = curl("-X", "POST", "-H", "Origin: http://evil.example", f"{address}/drain")
    assert (status, admin.facts.commands) == (403, [])
    status, _ = curl("-X", "POST", "-H", f"Origin: {address}", f"{address}/drain")
    assert (status, admin.facts.commands) == (200, ["drain"])


def test_a_unix_socket_answers(admin: RunningAdmin, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    admin.listen(UnixAddress(str(path)))
    status, _ = curl("--unix-socket", str(path), "-X", "POST", "http://uproxy/drain")
    assert (status, admin.facts.commands) == (200, ["drain"])
