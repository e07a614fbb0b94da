"""The status page in a real browser: trouble first, live, readable on a phone, deaf to peers'
markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.helpers.admin import (
    FakeFacts,
    RunningAdmin,
    certificates,
    connection_row,
    l7_row,
    orders_facts,
)
from tests.helpers.browser import Browser, browser
from uproxy.lab.waiting import wait_until
from uproxy.proxy.admin.facts import DenialRow
from uproxy.proxy.admin.l7_rows import L7DestinationRow, L7EndpointRow
from uproxy.proxy.admin.overview import Rates, Stale
from uproxy.proxy.admin.row import UnresolvedRow
from uproxy.proxy.admin.server import AdminListener
from uproxy.proxy.admin.vitals import Readiness

HOSTILE = "spiffe://example.org/<script>document.title='owned'</script><img src=x onerror=alert(1)>"
WIDE = 1280
PHONES = (360, 320)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def admin() -> Iterator[RunningAdmin]:
    with RunningAdmin(orders_facts()) as running:
        yield running


def visit(tab: Browser, admin: RunningAdmin, width: int = WIDE) -> AdminListener:
    """Open the page and wait for its first facts; `window.visited` tells a reload."""
    listener = admin.listen()
    tab.resize(width)
    tab.go(f"http://{listener.address}/")
    tab.run("window.visited = true")
    wait_until(lambda: "log level" in tab.text, "the first facts")
    _ = tab.complaints  # those of an earlier test's page, whose proxy went away
    return listener


def open_all(tab: Browser) -> None:
    """Open what is only shown where it is asked for."""
    tab.run("for (const each of document.querySelectorAll('details')) each.open = true")


def crowd(admin: RunningAdmin) -> None:
    """250 connections of 36 peers, and 30 refusals."""
    admin.facts.rows = tuple(
        connection_row(n, identity=f"spiffe://example.org/ns/web/sa/frontend-{n % 36}", age=n)
        for n in range(250)
    )
    denial = admin.facts.denial_rows[0]
    admin.facts.denial_rows = tuple(
        replace(denial, identity=f"{denial.identity}-{n}", at=denial.at - timedelta(seconds=42 + n))
        for n in range(30)
    )


def shows(tab: Browser, words: str) -> None:
    wait_until(lambda: words in tab.text, f"the page to show {words!r}")


@pytest.mark.parametrize("width", [WIDE, 768, *PHONES])
@pytest.mark.parametrize("hostile", [False, True])
def test_nothing_scrolls_sideways(
    tab: Browser, admin: RunningAdmin, width: int, hostile: bool
) -> None:
    if hostile:
        endless = "spiffe://example.org/" + "x" * 2000
        admin.facts.rows = (connection_row(identity=endless, rule="r" * 300),)
        admin.facts.l7_rows = (l7_row(name="l" * 300),)
        admin.facts.refused_file = Stale("/" + "f" * 300, admin.facts.started, ("m" * 400,), 1)
    visit(tab, admin, width)
    open_all(tab)
    shows(tab, "rule rrrr" if hostile else "rule web-reads-orders")
    assert tab.run("return document.documentElement.scrollWidth") <= width
    spilled = tab.run(
        "return [...document.querySelectorAll('main :not(thead, thead *)')].filter((e) => "
        "e.clientWidth && "
        "e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML)"
    )
    assert spilled == []


def test_everything_an_operator_asks_for_is_there(tab: Browser, admin: RunningAdmin) -> None:
    visit(tab, admin)
    open_all(tab)
    for words in (
        "orders", "ready", "3 callers refused, 1 address failing, certificate fine",
        "turn: whoever runs orders-db; ", "refused or not reached",
        "spiffe://example.org/ns/shop/sa/orders", "expires in",
        "workload api, ready", "partner.test", "CRL: 3 serials revoked", "0.0.0.0:8443",
        "db.internal:5432", "fails: connection refused by 10.0.0.8:5432", "passed over",
        "5 connections, 3 peers", "307 MiB",
        "spiffe://example.org/ns/web/sa/frontend", "10.0.3.17:45107", "rule web-reads-orders",
        "X25519MLKEM768", "no allow rule matches", "rule X5-5", "peer untrusted", "5,012",
        "OpenSSL 4.0.3",
    ):  # fmt: skip
        shows(tab, words)
    assert tab.complaints == []


@pytest.mark.parametrize(("width", "tallest"), [(WIDE, 2700), (390, 5000)])
def test_many_connections_and_refusals_make_no_long_page(
    tab: Browser, admin: RunningAdmin, width: int, tallest: int
) -> None:
    crowd(admin)
    visit(tab, admin, width)
    shows(tab, "30 callers refused")
    shows(tab, "250 connections, 36 peers")
    assert tab.run("return document.documentElement.scrollHeight") <= tallest
    hidden = 30 - (8 if width == WIDE else 4)
    shows(tab, f"{hidden} more")
    assert "scanner-29" not in tab.text
    open_all(tab)
    shows(tab, "scanner-29")
    shows(tab, "and 16 more, in /connections")


def test_trouble_comes_first_and_connections_come_last(tab: Browser, admin: RunningAdmin) -> None:
    visit(tab, admin)
    shows(tab, "3 callers refused")
    tops = tab.run(
        "return ['headline', 'words', 'denials', 'doors', 'rates', 'identity', 'outcomes', 'peers']"
        ".map((id) => document.getElementById(id).getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    assert tops[2] < 900  # a screen's height


def test_how_long_ago_it_was_stays_in_one_line(tab: Browser, admin: RunningAdmin) -> None:
    crowd(admin)
    visit(tab, admin, 900)
    wait_until(lambda: re.search(r"\b\d\d s ago", tab.text), "two digits of seconds")
    heights = tab.run(
        "return [...document.querySelectorAll('#denials td:first-child time:first-of-type')]"
        ".map((e) => e.getClientRects().length)"
    )
    assert heights
    assert set(heights) == {1}


def test_an_identity_that_was_not_proven_is_shown_as_such(
    tab: Browser, admin: RunningAdmin
) -> None:
    denial = admin.facts.denial_rows[1]
    claimed = "spiffe://example.org/ns/test/sa/somebody"
    admin.facts.denial_rows = (
        replace(denial, unproven_identity=claimed, unproven_serial="0a1b"),
        replace(denial, source="10.9.9.9:1", unproven_serial="0a1c"),
    )
    visit(tab, admin)
    shows(tab, f"{claimed}\nnot proven, serial 0a1b")
    shows(tab, "no identity\nnot proven, serial 0a1c")
    admin.facts.denial_rows = (replace(denial, direction="outbound", destination="orders-db"),)
    shows(tab, "to orders-db")


def test_a_stale_configuration_is_a_list_with_its_file_and_since_when(
    tab: Browser, admin: RunningAdmin
) -> None:
    mistakes = ("naem: no such key", "timeouts.idle: no duration")
    admin.facts.refused_file = Stale("/etc/uproxy/orders.yaml", admin.facts.started, mistakes, 5)
    visit(tab, admin)
    shows(tab, "/etc/uproxy/orders.yaml is not in force")
    listed = tab.run(
        "return [...document.querySelectorAll('#words li li')].map((e) => e.innerText)"
    )
    assert listed == [*mistakes, "and 3 more"]
    shows(tab, "for 3 h 00 min; turn: whoever wrote orders.yaml")


def test_l7_proxies_are_told_with_who_can_end_what_is_wrong(
    tab: Browser, admin: RunningAdmin
) -> None:
    visit(tab, admin)
    facts = admin.facts
    assert not tab.run("return document.getElementById('l7-section').clientHeight")
    first, draining, failing = l7_row().endpoints
    unproved = L7DestinationRow("ratings", proof=False)
    facts.l7_rows = (
        l7_row(
            when_unavailable="bypass",
            endpoints=(first, draining, replace(failing, since=facts.started)),
            destinations=(*l7_row().destinations, unproved),
        ),
        l7_row(
            name="other", endpoints=(), unresolved=(UnresolvedRow("envoy.test", "no such name"),)
        ),
        l7_row(name="third", endpoints=(), destinations=()),
    )
    facts.denial_rows = (
        replace(
            facts.denial_rows[0], direction="outbound", outcome="l7_refused", destination="ratings"
        ),
    )
    shows(tab, "3 of them")
    said = tab.run("return document.getElementById('l7').innerText")
    for words in (
        "gone past if it can't be used", "10.0.0.9:15008\nin use", "draining: no new streams",
        "passed over, for 3 h 00 min", "turn: whoever runs L7 proxy l7", "reviews",
        "ratings without a proof of who calls",
        "envoy.test\ncan't be resolved", "turn: whoever gives envoy.test its address",
        "no address yet", "no destination",
    ):  # fmt: skip
        assert words in said
    assert re.search(r"refused ratings \d+ s ago", said)
    assert tab.text.count("no answer") == 1  # among the causes at the top
    assert tab.complaints == []


def test_many_addresses_of_l7_proxies_make_no_long_page(tab: Browser, admin: RunningAdmin) -> None:
    one = l7_row().endpoints[0]
    many = tuple(replace(one, address=f"10.0.1.{n}:15008") for n in range(40))
    to = tuple(L7DestinationRow(f"reviews-{n}", proof=True) for n in range(40))
    admin.facts.l7_rows = (l7_row(endpoints=many, destinations=to),)
    visit(tab, admin)
    shows(tab, "32 more")
    shows(tab, "and 30 more, in /l7")
    assert "10.0.1.39:15008" not in tab.text
    open_all(tab)
    shows(tab, "10.0.1.39:15008")


def test_pointing_at_a_duration_tells_the_time(tab: Browser, admin: RunningAdmin) -> None:
    visit(tab, admin)
    shows(tab, "3 callers refused")
    (title,) = tab.run("return [...document.querySelectorAll('#uptime time')].map((e) => e.title)")
    assert admin.facts.started.strftime("%Y-%m-%d %H:%M:%S UTC") in title


def test_every_cause_is_told_once(tab: Browser, admin: RunningAdmin) -> None:
    facts, reason = admin.facts, "connection refused by 127.0.0.1:8080"
    down = replace(facts.door_rows[0], trouble=reason, trouble_since=facts.started)
    facts.door_rows = (down, *facts.door_rows[1:])
    facts.denial_rows = (
        replace(facts.denial_rows[0], outcome="connect_failed", reason=reason, rule=None),
    )
    facts.ready = Readiness(("no identity yet: no agent at /run/x",))
    facts.certs = certificates(
        svid=None, reason="no agent at /run/x", source={"last_error": "no agent at /run/x"}
    )
    visit(tab, admin)
    shows(tab, "identity, 1 application down")
    for cause in (reason, "no agent at /run/x", "refused by 10.0.0.8:5432"):
        assert tab.text.count(cause) == 1
    shows(tab, "down for 3 h 00 min")


def test_a_chart_tells_its_numbers_to_who_cannot_see_it(tab: Browser, admin: RunningAdmin) -> None:
    admin.facts.rate_rows = Rates(15.0, (0.0, 1.0, 3.0), (0.0,) * 3, (2048.0,) * 3, (0.0,) * 3)
    visit(tab, admin)
    shows(tab, "3.0/s")
    labels = tab.run("return [...document.querySelectorAll('svg')].map((e) => e.ariaLabel)")
    assert labels[0] == "opened: 3.0/s now, at most 3.0/s in 1 minute"
    assert labels[2] == "received: 2.0 KiB/s now, at most 2.0 KiB/s in 1 minute"


def test_our_own_trust_domain_is_not_federated(tab: Browser, admin: RunningAdmin) -> None:
    visit(tab, admin)
    admin.facts.certs = certificates(svid=None, reason="it expired")
    shows(tab, "it expired")
    shows(tab, "our own")
    assert tab.text.count("federated") == 1


def test_facts_move_without_a_reload(tab: Browser, admin: RunningAdmin) -> None:
    visit(tab, admin)
    open_all(tab)
    admin.facts.rows = (connection_row(9, bytes_sent=0, identity="spiffe://example.org/newcomer"),)
    shows(tab, "spiffe://example.org/newcomer")
    admin.facts.rows = (
        connection_row(9, bytes_sent=5 * 1024**2, identity="spiffe://example.org/newcomer"),
    )
    shows(tab, "5.0 MiB")
    admin.facts.ready = Readiness(("no identity yet: agent socket refused",), ("distrusted: x y",))
    shows(tab, "no identity yet: agent socket refused")
    shows(tab, "x y")
    shows(tab, "not ready")
    assert tab.run("return window.visited") is True


def test_the_expiry_counts_down(tab: Browser, admin: RunningAdmin) -> None:
    visit(tab, admin)
    left = "return document.querySelector('dd.large').textContent"
    first = tab.run(left)
    assert first.startswith("47 min")
    wait_until(lambda: tab.run(left) not in (first, ""), "the next second")


def test_without_an_identity_the_reason_takes_its_place(tab: Browser, admin: RunningAdmin) -> None:
    admin.facts.certs = certificates(svid=None, reason="no identity yet: no agent at /run/x.sock")
    visit(tab, admin)
    shows(tab, "no identity yet: no agent at /run/x.sock")


def test_a_proxy_that_goes_away_is_noticed(tab: Browser, admin: RunningAdmin) -> None:
    listener = visit(tab, admin)
    shows(tab, "live")
    admin.call(listener.close())
    shows(tab, "what follows is old")
    shows(tab, "unknown")


def test_markup_in_what_peers_say_stays_text(tab: Browser, admin: RunningAdmin) -> None:
    facts = admin.facts
    facts.rows = (connection_row(identity=HOSTILE, rule=HOSTILE, source=HOSTILE),)
    facts.denial_rows = (
        DenialRow(
            facts.started, "inbound", HOSTILE, HOSTILE, HOSTILE, "denied", HOSTILE, HOSTILE, HOSTILE
        ),
    )
    facts.ready = Readiness((HOSTILE,), (HOSTILE,))
    facts.ended = {HOSTILE: 3}
    facts.refused_file = Stale(HOSTILE, facts.started, (HOSTILE,), 1)
    facts.door_rows = (replace(facts.door_rows[0], trouble=HOSTILE),)
    endpoint = L7EndpointRow(HOSTILE, HOSTILE, False, True, 0, HOSTILE, facts.started)
    facts.l7_rows = (
        l7_row(
            name=HOSTILE, endpoints=(endpoint,), destinations=(L7DestinationRow(HOSTILE, False),)
        ),
    )
    visit(tab, admin)
    open_all(tab)
    shows(tab, HOSTILE)
    assert tab.run("return document.title").startswith("orders · all peers refused, ")
    assert tab.run("return document.querySelectorAll('script').length") == 1
    assert tab.run("return document.querySelectorAll('img').length") == 0
    assert tab.complaints == []


def test_the_policy_stops_a_script_that_got_in_nevertheless(
    tab: Browser, admin: RunningAdmin
) -> None:
    visit(tab, admin)
    tab.run(
        "const s = document.createElement('script'); s.textContent = \"document.title='owned'\";"
        "document.body.append(s)"
    )
    assert tab.run("return document.title") != "owned"
    assert any("Content Security Policy" in message for message in tab.complaints)


def test_an_empty_proxy_says_so(tab: Browser, admin: RunningAdmin) -> None:
    admin.facts = FakeFacts()
    visit(tab, admin)
    for words in (
        "No connection is open.",
        "Nobody was refused lately.",
        "No connection has ended",
    ):
        shows(tab, words)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_has_contrast(tab: Browser, admin: RunningAdmin, scheme: str) -> None:
    admin.facts.ready = Readiness(("draining",), ("limits_clamped: few",))
    admin.facts.l7_rows = (l7_row(when_unavailable="bypass"),)
    tab.prefer(scheme)
    visit(tab, admin)
    open_all(tab)
    shows(tab, "few")
    faint: list[Any] = tab.run(_FAINT)
    assert faint == []


_FAINT = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const color = channels(getComputedStyle(e).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll('body *')]
  .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .filter((e) => e.tagName !== 'SCRIPT' && e.tagName !== 'STYLE')
  .map((e) => {
    const [a, b] = [light(channels(getComputedStyle(e).color)), light(ground(e))];
    return [e.textContent, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  })
  .filter(([, ratio]) => ratio < 4.5);
"""
"""Texts below WCAG 2's contrast of 4.5 to 1."""
