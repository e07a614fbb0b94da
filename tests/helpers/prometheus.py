"""The distribution's Prometheus, with uProxy's alert rules, and what the shipped board asks it."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from uproxy.lab.ports import free_port
from uproxy.lab.processes import Process

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "uproxy.rules.yaml"
RULE_TESTS = DEPLOY / "prometheus" / "uproxy.rules.test.yaml"
BOARD = DEPLOY / "grafana" / "uproxy.json"

_METRIC = re.compile(r"\b(?:istio_tcp|uproxy|process)_[a-z_]+\b")


class Prometheus(Process):
    """A Prometheus that scrapes admin listeners every second as the job `uproxy`."""

    def __init__(self, folder: Path, *ports: int) -> None:
        self._port = free_port()
        targets = [f"127.0.0.1:{port}" for port in ports]
        config = folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "uproxy", "static_configs": [{"targets": targets}]},
            ],
        }))  # fmt: skip
        super().__init__(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{self._port}"],
            folder / "prometheus.log",
        )  # fmt: skip

    def is_ready(self) -> bool:
        try:
            return self._get("/-/ready")[0] == 200
        except OSError:
            return False

    def api(self, path: str) -> Any:
        """Return the data of an answer of its HTTP API.

        Raises:
            AssertionError: it answered with an error.
        """
        status, text = self._get(f"/api/v1/{path}")
        assert status == 200, text
        return json.loads(text)["data"]

    def query(self, expression: str) -> list[Mapping[str, Any]]:
        """Return the series that an expression has now."""
        found: list[Mapping[str, Any]] = self.api(f"query?query={quote(expression)}")["result"]
        return found

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10.0)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def board_queries() -> Iterator[tuple[str, str]]:
    """Yield the title of each panel of the board and its expressions, with Grafana's variables
    as it fills them in for everything."""
    for panel in json.loads(BOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "1m")
            yield panel["title"], re.sub(r"\$(job|instance)\b", ".*", expression)


def alerts() -> Mapping[str, str]:
    """Return the expression of each alert by its name."""
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def metrics_in(expression: str) -> set[str]:
    """Return the metrics that an expression names, without the suffixes of a histogram."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in _METRIC.findall(expression)}
