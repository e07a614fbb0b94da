"""The answer of /status.json as lines of text."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.helpers.admin import FakeFacts, certificates, connection_row, orders_facts
from uproxy.cli.status_text import Earlier, Line, LineKind, printable, render, size, span
from uproxy.proxy.admin import answers
from uproxy.proxy.admin.facts import Readiness


def status_of(facts: FakeFacts) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(answers.status(facts, datetime.now(UTC)).body)
    return told


def text_of(lines: list[Line]) -> str:
    return "\n".join(line.text for line in lines)


def test_everything_an_operator_asks_for_is_there() -> None:
    shown = text_of(render(status_of(orders_facts())))
    for words in (
        "orders: ready   up 3 h 00 min, pid 4711", "spiffe://example.org/ns/shop/sa/orders",
        "expires in 47 min", "example.org (our own), partner.test",
        "0.0.0.0:8443 -> 127.0.0.1:8080", "passed over: connection refused by 10.0.0.8:5432",
        "10.0.3.17:45107 -> 127.0.0.1:8080", "CONNECTIONS  5 open", "78.0 MiB received",
        "no allow rule matches", "(X5-5)", "closed 5,012   denied 37",
    ):  # fmt: skip
        assert words in shown


def test_what_is_wrong_comes_first_and_stands_out() -> None:
    facts = FakeFacts(ready=Readiness(("no identity yet: agent refused",), ("config_stale: x",)))
    facts.silent = ("engine thread 1 is silent",)
    first, *reasons = render(status_of(facts))[:4]
    assert (first.kind, "not ready" in first.text) == (LineKind.BAD, True)
    assert [line.text.strip() for line in reasons] == [
        "engine thread 1 is silent",
        "no identity yet: agent refused",
        "config_stale: x",
    ]


def test_without_an_identity_the_reason_is_shown() -> None:
    facts = FakeFacts(certs=certificates(svid=None, reason="no agent at /run/x", trust_domains=()))
    shown = text_of(render(status_of(facts)))
    assert "no agent at /run/x" in shown
    assert "trusts nobody yet" in shown


def test_an_idle_proxy_has_none_of_each() -> None:
    shown = text_of(render(status_of(FakeFacts())))
    assert shown.count("none") == 4
    assert "ENDED" not in shown


@pytest.mark.parametrize("width", [200, 120, 80, 40, 20, 1])
def test_lines_fit_into_the_width(width: int) -> None:
    assert max(len(line.text) for line in render(status_of(orders_facts()), width)) <= width


def test_a_shortened_identity_keeps_its_trust_domain_and_its_name() -> None:
    shown = text_of(render(status_of(orders_facts()), 120))
    assert "spiffe://e" in shown
    assert "sa/frontend" in shown


def test_rates_come_from_two_answers() -> None:
    facts = FakeFacts(rows=(connection_row(1, bytes_received=0, bytes_sent=0), connection_row(2)))
    before = status_of(facts)
    facts.rows = (connection_row(1, bytes_received=4096, bytes_sent=4096), connection_row(3))
    shown = text_of(render(status_of(facts), None, Earlier(before, 2.0)))
    assert shown.count("4.0 KiB/s") == 1
    assert len(re.findall(r"B/s$", shown, re.MULTILINE)) == 1


def test_what_would_move_the_cursor_is_replaced() -> None:
    told = printable({"a\x1b[2J": ["spiffe://x/\x9b31m\u202egnp\r\n", 7, None, "übel 漢"]})
    assert told == {"a\ufffd[2J": ["spiffe://x/\ufffd31m\ufffdgnp\ufffd\ufffd", 7, None, "übel 漢"]}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (0.9, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"),
     (3600, "1 h 00 min"), (86_399, "23 h 59 min"), (90_000, "1 d 1 h")],
)  # fmt: skip
def test_durations_have_two_units(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 1024**3, "5.0 GiB"),
     (3 * 1024**5, "3072.0 TiB")],
)  # fmt: skip
def test_sizes_have_the_largest_unit(count: int, words: str) -> None:
    assert size(count) == words
