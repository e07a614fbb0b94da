"""Where the settings are that a warning is about."""

from __future__ import annotations

import pytest

from uproxy.config.places import locate
from uproxy.model import Mistake

TEXT = """\
destinations:
  orders-db:
    addresses: [a:1, b:2]
identity: {files: {bundles: {example.org: x}}}
"""


def located(path: str, **environ: str) -> Mistake:
    [found] = locate(TEXT, "orders.yaml", environ, ["limits.connections=7"], [Mistake(path, "odd")])
    return found


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        ("destinations.orders-db", 3, 5),
        ("destinations.orders-db.addresses[1]", 3, 22),
        ('identity.files.bundles["example.org"]', 4, 43),
        # what isn't written is near what is
        ("destinations.orders-db.addresses[2]", 3, 16),
        ("destinations.orders-db.transport", 3, 5),
        ("authorization", None, None),
        ("", None, None),
    ],
)
def test_a_path_leads_to_the_value(path: str, line: int | None, column: int | None) -> None:
    found = located(path)
    assert (found.file, found.line, found.column) == ("orders.yaml", line, column)


def test_what_was_set_elsewhere_is_not_in_the_file() -> None:
    found = located("limits.connections")
    assert (found.file, found.line) == (None, None)
    assert found.reason == "odd (from --set limits.connections=7)"
    found = located("identity.spiffe_id", UPROXY__IDENTITY__SPIFFE_ID="spiffe://a/b")
    assert found.reason == "odd (from UPROXY__IDENTITY__SPIFFE_ID)"
