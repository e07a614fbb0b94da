"""Rows become JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone

from tests.helpers.admin import certificates, connection_row
from uproxy.model import Outcome, TcpAddress
from uproxy.proxy.admin.facts import ConnectionList
from uproxy.proxy.admin.row import plain


def test_a_row_becomes_an_object_with_its_fields_as_keys() -> None:
    row = connection_row(7)
    assert list(row.to_json()) == [field.name for field in fields(row)]
    assert row.to_json()["id"] == 7


def test_rows_within_rows_become_objects_too() -> None:
    told = ConnectionList(2, (connection_row(1), connection_row(2))).to_json()
    assert [row["id"] for row in told["connections"]] == [1, 2]
    assert json.loads(json.dumps(certificates().to_json()))["trust_domains"][1]["crls"]


def test_times_are_utc_to_the_second() -> None:
    east = datetime(2026, 9, 1, 14, 0, 0, 999, tzinfo=timezone(timedelta(hours=2)))
    assert plain(east) == "2026-09-01T12:00:00Z"
    assert plain({"at": datetime(2026, 9, 1, tzinfo=UTC)}) == {"at": "2026-09-01T00:00:00Z"}


def test_what_json_does_not_know_is_told_as_text() -> None:
    value = {"address": TcpAddress("::1", 8080), Outcome.DENIED: (1, 2.5, None, True)}
    assert plain(value) == {"address": "[::1]:8080", "denied": [1, 2.5, None, True]}
