"""The table's defaults for L7 proxies are those of the settings."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest

from uproxy.config.document import parse_value
from uproxy.config.l7_fields import ENDPOINT, HEALTH, INBOUND_TRUST, L7_PROXY
from uproxy.config.records import Record
from uproxy.model import Mistake


@pytest.mark.parametrize("record", [ENDPOINT, HEALTH, INBOUND_TRUST, L7_PROXY])
def test_every_default_that_is_documented_is_the_one_that_is_used(record: Record) -> None:
    assert isinstance(record.makes, type)
    used = {each.name: each.default for each in fields(record.makes)}
    assert {each.name for each in record.fields} == used.keys() - {"name"}
    for field in record.fields:
        default = used[field.name]
        assert field.required == (default is MISSING)
        if field.default is None:
            assert default in (None, MISSING)
            continue
        node, _ = parse_value(str(field.default).lower())
        wrong: list[Mistake] = []
        assert node is not None
        assert field.kind.read(node, "", wrong) == default
        assert wrong == []
