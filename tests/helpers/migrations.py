"""The tables of the pages for those who come from other software: their words beside uProxy's."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from tests.helpers.docs import ROOT, tables
from uproxy.config import load
from uproxy.config.settings import Settings

Config = dict[str, Any]

_CODE = re.compile(r"`([^`]+)`")
_BASE: Config = {
    "identity": {"workload_api": "unix:///run/agent.sock"},
    "inbound": [
        {"name": "api", "listen": "0.0.0.0:8443", "transport": "mtls", "to": "127.0.0.1:8080"}
    ],
    "outbound": [{"listen": "127.0.0.1:5432", "to": "db"}],
    "destinations": {
        "db": {
            "addresses": ["10.0.0.7:8443"],
            "transport": "mtls",
            "identities": ["spiffe://example.org/ns/db/sa/orders"],
        }
    },
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row."""

    theirs: tuple[str, ...]
    """What is written for the other software."""
    ours: Config
    """The part of uProxy's configuration; empty if none is needed, or there is no counterpart."""

    def __str__(self) -> str:
        return self.theirs[0]

    def load(self) -> Settings:
        """Load it as a part of a whole configuration."""
        return load(json.dumps({**_BASE, **self.ours}), environ={}, overrides=(), folder=str(ROOT))


def migrations(software: str) -> list[list[Row]]:
    """Return the tables of the page for those who come from `software`."""
    page = ROOT / "docs" / "howto" / f"from-{software}.md"
    return [[_row(cells) for cells in rows] for rows in tables(page, software)]


def _row(cells: tuple[str, ...]) -> Row:
    ours = _CODE.findall(cells[1])
    return Row(tuple(_CODE.findall(cells[0])), yaml.safe_load(ours[0]) if ours else {})
