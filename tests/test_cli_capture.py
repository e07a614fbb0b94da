"""`uproxy capture`: what it takes, what it refuses, what it shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.test_capture_record import MADE
from uproxy.capture import control, orphans, record
from uproxy.capture.condition import Condition, State
from uproxy.capture.layout import Listener, Stat
from uproxy.capture.orphans import Orphan
from uproxy.capture.record import Mode
from uproxy.cli import main
from uproxy.cli.capture_text import as_json, as_text
from uproxy.errors import UsageError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("attach --netns x", "capture attach needs --cgroup"),
        ("attach --cgroup /", "capture attach needs --netns"),
        ("attach --cgroup / --netns x --include 1.2.3", "--include '1.2.3': neither an address"),
        (
            "attach --cgroup / --netns x --outbound-port 0",
            "--outbound-port 0: ports are 1 to 65535",
        ),
        ("attach --mark 0", "argument --mark: '0' is no number from 1 to 0xffffffff"),
        ("attach --cgroup /no --netns x", "--cgroup '/no': no such folder"),
        (
            "attach --cgroup / --netns x --short-circuit fionread,slow",
            "argument --short-circuit: 'slow' is no flaw; there are fionread, blocking",
        ),
        ("status --short-circuit", "capture status has no --short-circuit"),
        ("detach", "capture detach needs --name or --cgroup"),
        ("detach --name x --include 443", "capture detach has no --include"),
        ("status --fail-open", "capture status has no --fail-open"),
        ("follow --name no-such-capture", "no capture 'no-such-capture'"),
        (
            "attach --cgroup / --netns x --exclude fe80::1%eth0",
            "--exclude 'fe80::1%eth0': has a zone, which no program sees: write fe80::1",
        ),
        ("remove", "invalid choice: 'remove'"),
    ],
)
def test_mistakes_get_one_clear_line(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["capture", *words.split()])
    except SystemExit as ended:  # argparse's
        code = int(ended.code or 0)
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert shown.err.startswith("uproxy: error: ")
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_a_name_that_no_capture_has_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "find", lambda *_: [])  # for which one must be root
    said = "no capture 'nope' is attached; there are: none"
    with pytest.raises(UsageError, match=said):
        control.detach("nope", folder=tmp_path)
    with pytest.raises(UsageError, match=said):
        control.look("nope", folder=tmp_path)


GOOD = Condition(
    MADE,
    State.ATTACHED,
    (),
    {Listener.OUTBOUND: True, Listener.INBOUND: False},
    dict.fromkeys(Stat, 0) | {Stat.CAPTURED: 7, Stat.NO_LISTENER: 2},
)


def test_a_capture_is_shown_with_what_it_does() -> None:
    assert as_text(GOOD).splitlines() == [
        "app: attached",
        "  mode       ebpf",
        "  cgroup     /sys/fs/cgroup/app",
        "  netns      /run/netns/pod",
        "  proxy      port 15001, cgroup /sys/fs/cgroup/proxy",
        "  include    10.0.0.0/8, 443",
        "  exclude    10.1.0.0/16, 2001:db8::/32",
        "  inbound    8080 to port 15006",
        "  captured: 7",
        "  refused without the proxy: 2",
    ]


def test_what_is_wrong_is_said_first() -> None:
    stale = Condition(MADE, State.STALE, ("the cgroup was removed and made again: attach again",))
    assert as_text(stale).splitlines()[:2] == [
        "app: STALE",
        "  the cgroup was removed and made again: attach again",
    ]
    waiting = Condition(MADE, State.ATTACHED, (), {Listener.OUTBOUND: False})
    assert as_text(waiting).splitlines()[0] == "app: attached, but the proxy isn't listening"
    older = Condition(MADE, State.ATTACHED, (), {Listener.OUTBOUND: True}, {}, True)
    assert "attach again to upgrade" in as_text(older).splitlines()[0]


@pytest.mark.parametrize(
    ("accepted", "said"),
    [((), "short-circuit"), (("fionread",), "short-circuit despite fionread")],
)
def test_short_circuiting_is_shown(accepted: tuple[str, ...], said: str) -> None:
    made = replace(MADE, wanted=replace(MADE.wanted, short_circuit=accepted))
    condition = replace(GOOD, record=made, stats=GOOD.stats | {Stat.HANDED_OVER: 5})
    shown = as_text(condition).splitlines()
    assert shown[1] == f"  mode       ebpf, {said}"
    assert "  writes short-circuited: 5" in shown
    facts = as_json(condition)
    assert (facts["short_circuit"], facts["short_circuit_despite"]) == (True, list(accepted))
    assert as_json(GOOD)["short_circuit"] is False


def test_programs_get_everything_as_json() -> None:
    shown = json.loads(json.dumps(as_json(GOOD)))
    assert shown["state"] == "attached"
    assert shown["listeners"] == {"outbound": True, "inbound": False}
    assert shown["stats"]["captured"] == 7
    assert (shown["include"], shown["inbound"]) == (["10.0.0.0/8", "443"], ["8080"])


def test_without_captures_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    monkeypatch.setattr(orphans, "find", lambda *_: [])  # of others who use this machine
    assert control.look(folder=tmp_path) == []
    assert main(["capture", "status", "--json"]) in (0, 5)
    assert isinstance(json.loads(capsys.readouterr().out), list)


def test_a_capture_without_a_record_is_shown_with_the_way_out() -> None:
    lost = Orphan("orders-1", Mode.NFT, Path("/proc/1/ns/net"))
    assert as_text(lost).splitlines() == [
        "orders-1: ORPHANED",
        "  it still acts, but its record is lost: detach it by --name, or attach again",
        "  mode       nft",
        "  place      /proc/1/ns/net",
    ]
    assert as_json(lost)["state"] == "orphaned"
