"""The answer of /status.json as lines of text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.helpers.admin import FakeFacts, certificates, connection_row, l7_row, orders_facts
from uproxy.cli.status_lines import Line, LineKind, printable, size, span
from uproxy.cli.status_text import Earlier, render
from uproxy.model import TcpAddress
from uproxy.proxy.admin import answers
from uproxy.proxy.admin.overview import Rates, Stale
from uproxy.proxy.admin.vitals import Readiness


def status_of(facts: FakeFacts) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(answers.status(facts, datetime.now(UTC)).body)
    return told


def text_of(lines: list[Line]) -> str:
    return "\n".join(line.text for line in lines)


def test_everything_an_operator_asks_for_is_there() -> None:
    shown = text_of(render(status_of(orders_facts()), asked=TcpAddress("127.0.0.1", 15000)))
    for words in (
        "orders: ready: 3 callers refused, 1 address failing, certificate fine, for ",
        "up 3 h 00 min, pid 4711", "/etc/uproxy/orders.yaml, asked at 127.0.0.1:15000",
        "spiffe://example.org/ns/shop/sa/orders",
        "expires in 47 min", "example.org (our own), partner.test",
        "0.0.0.0:8443 -> 127.0.0.1:8080", "fails: connection refused by 10.0.0.8:5432",
        "CONNECTIONS  5 open, 3 peers", "307.0 MiB received",
        "spiffe://example.org/ns/db/sa/orders          orders-db  2 open",
        "no allow rule matches", "(X5-5)", "closed 5,012   denied 37", "refused or not reached ",
    ):  # fmt: skip
        assert words in shown


def test_what_is_wrong_comes_first_and_connections_come_last() -> None:
    facts = orders_facts()
    facts.ready = Readiness(("no identity yet: agent refused",), ("distrusted: x",))
    facts.silent = ("engine thread 1 is silent",)
    first, _, *causes = render(status_of(facts))
    assert first.kind is LineKind.BAD
    assert first.text.startswith("orders: not ready: not answering, no identity, 3 callers refused")
    assert [line.text.partition(", turn: ")[0] for line in causes[:3]] == [
        "- engine thread 1 is silent",
        "- no identity yet: agent refused",
        "- an address of orders-db fails: "
        "connection refused by 10.0.0.8:5432: is the application running?, for 3 min 00 s",
    ]
    headings = [line.text for line in causes if line.kind is LineKind.HEADING]
    assert [heading.split()[0] for heading in headings] == [
        "REFUSED", "DOORS", "DESTINATIONS", "THE", "IDENTITY", "ENDED", "CONNECTIONS",
    ]  # fmt: skip


def test_every_cause_is_told_once() -> None:
    facts = orders_facts()
    reason = "connection refused by 127.0.0.1:8080: is the application running?"
    down = replace(facts.door_rows[0], trouble=reason, trouble_since=facts.started)
    facts.door_rows = (down, *facts.door_rows[1:])
    facts.denial_rows = (
        replace(facts.denial_rows[0], outcome="connect_failed", reason=reason, rule=None),
    )
    facts.ready = Readiness(("no identity yet: no agent at /run/x",))
    facts.certs = certificates(svid=None, reason="no agent at /run/x")
    facts.refused_file = Stale("/etc/uproxy/orders.yaml", facts.started, ("naem: no such key",), 1)
    shown = text_of(render(status_of(facts)))
    for cause in (reason, "no agent at /run/x", "naem: no such key", "refused by 10.0.0.8:5432"):
        assert shown.count(cause) == 1
    assert "down, for 3 h 00 min" in shown
    assert "as above" in shown


def test_whom_we_could_not_reach_is_no_caller_without_an_identity() -> None:
    facts = FakeFacts()
    out = replace(
        orders_facts().denial_rows[2], direction="outbound", outcome="connect_failed",
        door="127.0.0.1:5432",
    )  # fmt: skip
    facts.denial_rows = (replace(out, destination="orders-db"), replace(out, destination=None))
    shown = text_of(render(status_of(facts)))
    assert "to orders-db" in shown
    assert "to 127.0.0.1:5432" in shown
    assert "no identity" not in shown


def test_a_stale_configuration_is_a_list_with_its_file_and_since_when() -> None:
    facts = FakeFacts()
    mistakes = tuple(f"timeouts.t{n}: no such key" for n in range(20))
    facts.refused_file = Stale("/etc/uproxy/orders.yaml", facts.started, mistakes, 23)
    lines = [line.text for line in render(status_of(facts))]
    at = lines.index("- /etc/uproxy/orders.yaml is not in force, for 3 h 00 min, "
                     "turn: whoever wrote orders.yaml")  # fmt: skip
    assert lines[at + 1 : at + 22] == [*(f"  - {each}" for each in mistakes), "  - and 3 more"]


def test_without_an_identity_the_reason_is_shown() -> None:
    facts = FakeFacts(certs=certificates(svid=None, reason="no agent at /run/x", trust_domains=()))
    shown = text_of(render(status_of(facts)))
    assert "no agent at /run/x" in shown
    assert "trusts nobody yet" in shown


def test_an_idle_proxy_has_none_of_each() -> None:
    shown = text_of(render(status_of(FakeFacts())))
    assert shown.startswith("orders: ready: nothing is wrong, certificate fine\n")
    assert shown.count("\nnone") == 4
    assert "ENDED" not in shown


def test_a_crowd_makes_no_more_lines_than_its_peers_and_they_are_bounded() -> None:
    facts = orders_facts()
    facts.rows = tuple(connection_row(n, identity=f"spiffe://a.b/n{n % 90}") for n in range(900))
    facts.denial_rows = tuple(
        replace(facts.denial_rows[0], identity=f"spiffe://a.b/n{n}") for n in range(50)
    )
    lines = [line.text for line in render(status_of(facts))]
    assert len(lines) < 90
    assert "CONNECTIONS  900 open, 90 peers" in lines
    assert any("70 more peers: /connections" in line for line in lines)
    assert any(line.startswith("35 more") for line in lines)


@pytest.mark.parametrize("width", [120, 80, 60])
def test_the_newest_part_of_a_chart_fits_into_the_width(width: int) -> None:
    facts = FakeFacts(rate_rows=Rates(15.0, *[(*map(float, range(59)), 200.0)] * 4))
    charts = [line.text for line in render(status_of(facts), width) if "at most" in line.text]
    assert len(charts) == 4
    assert all(line.endswith("▄█") for line in charts)


@pytest.mark.parametrize("most", [0.067, 0.6, 5.19, *(count / 15 for count in range(1, 100))])
def test_whatever_the_highest_rate_is_it_has_the_highest_bar(most: float) -> None:
    facts = FakeFacts(rate_rows=Rates(15.0, *[(0.0, most)] * 4))
    charts = [line.text for line in render(status_of(facts)) if "at most" in line.text]
    assert len(charts) == 4
    assert all(line.endswith("▁█") for line in charts)


@pytest.mark.parametrize("width", [200, 120, 80, 40, 20, 1])
def test_lines_fit_into_the_width(width: int) -> None:
    assert max(len(line.text) for line in render(status_of(orders_facts()), width)) <= width


def test_a_shortened_identity_keeps_its_trust_domain_and_its_name() -> None:
    shown = text_of(render(status_of(orders_facts()), 120))
    assert "spiffe://e" in shown
    assert "sa/frontend" in shown


def test_rates_come_from_two_answers() -> None:
    one, other = "spiffe://a.b/one", "spiffe://a.b/other"
    facts = FakeFacts(rows=(connection_row(1, identity=one, bytes_received=0, bytes_sent=0),))
    before = status_of(facts)
    facts.rows = (
        connection_row(1, identity=one, bytes_received=4096, bytes_sent=0),
        connection_row(2, identity=one, bytes_received=0, bytes_sent=4096),
        connection_row(3, identity=other),
    )
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


def test_tunnels_are_told_at_their_door_and_their_destination() -> None:
    facts = orders_facts()
    api, out = facts.door_rows
    facts.door_rows = (replace(api, transport="hbone", to="ports 8080", tunnels=2), out)
    [db] = facts.destination_rows
    facts.destination_rows = (replace(db, transport="hbone", tunnel_end="*:15008"),)
    shown = text_of(render(status_of(facts)))
    assert re.search(r"0\.0\.0\.0:8443 -> ports 8080 +hbone +3 open in 2 tunnels$", shown, re.M)
    assert re.search(r"orders-db +10\.0\.0\.7:5432 +hbone to \*:15008 +2 open$", shown, re.M)


@pytest.mark.parametrize(
    ("original", "words"), [(True, "original destinations"), (False, "no address yet")]
)
def test_a_destination_without_addresses_says_where_it_leads(*, original: bool, words: str) -> None:
    facts = orders_facts()
    [db] = facts.destination_rows
    facts.destination_rows = (replace(db, endpoints=(), original=original),)
    shown = text_of(render(status_of(facts)))
    assert re.search(rf"orders-db +{words} +mtls$", shown, re.M)


def test_the_addresses_of_l7_proxies_are_told_where_there_are_any() -> None:
    facts = orders_facts()
    assert "L7 PROXIES" not in text_of(render(status_of(facts)))
    [db] = facts.destination_rows
    facts.destination_rows = (replace(db, transport="hbone", tunnel_end="*:15008", via="l7"),)
    facts.l7_rows = (l7_row(), l7_row(name="other", endpoints=(), destinations=()))
    shown = text_of(render(status_of(facts)))
    assert re.search(r"^ *l7 +10\.0\.0\.9:15008 +for reviews +3 open$", shown, re.M)
    assert re.search(r"^ *l7 +10\.0\.0\.10:15008 +for reviews +draining, 1 open$", shown, re.M)
    assert re.search(r"10\.0\.0\.11:15008 +for reviews +0 open, passed over$", shown, re.M)
    assert re.search(r"^ *other +no address yet +for nobody$", shown, re.M)
    assert re.search(r"orders-db +10\.0\.0\.7:5432 +hbone via l7 +2 open$", shown, re.M)
