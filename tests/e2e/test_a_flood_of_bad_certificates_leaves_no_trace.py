"""A crowd in C throws thousands of different bad certificates at a door, as fast as it can.

Each is refused with the alert of the rule that it breaks and counted once; the log sums them up
after the first few; nobody else's bytes are lost meanwhile, and afterwards memory and
descriptors are where they were.  How long others wait meanwhile is a benchmark's question:
benchmarks/flood.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import hostile_account
from tests.helpers.endings import Line, ended, metric
from tests.helpers.hostile_account import ENGINES, FRONTEND, counts, open_descriptors, serves
from tests.helpers.in_use import counted, in_use
from tests.helpers.load import Load
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, Inbound, Outbound
from uproxy.lab.software.flood import (
    REFUSED,
    Pace,
    bad_leaves,
    flood,
    key_updates,
    write_flood,
)
from uproxy.lab.waiting import wait_until

door = hostile_account.door

CROWD = 2000
MIB = 1 << 20
UPDATES = 300_000
"""Whose answers are more than the kernel takes for a caller who doesn't read: 8 MiB."""
PASSING = 10
"""Lines of failures alike in one window: docs/reference/access-log.md."""


@pytest.fixture(scope="module")
def crowd(folder: Path, file_world: FileWorld) -> Path:
    return write_flood(
        folder / "crowd.pem", (issued for _, issued in bad_leaves(file_world.ca, CROWD))
    )


@pytest.fixture(scope="module")
def caller(folder: Path, file_world: FileWorld) -> Path:
    return write_flood(folder / "caller.pem", [file_world.ca.issue(FRONTEND)])


@pytest.fixture(params=ENGINES)
def flooded(
    request: pytest.FixtureRequest, folder: Path, file_world: FileWorld, echo_app: int
) -> Iterator[Inbound]:
    """One of its own: what a flood leaves in its log is told at its end."""
    plain = Inbound(folder, file_world.ours(ORDERS), echo_app, engine=request.param)
    with counted(plain) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


def refusals(uproxy: Inbound) -> Counter[str]:
    """Failed handshakes so far, by rule."""
    return Counter(
        {
            rule: int(metric(uproxy, "uproxy_handshake_failures_total", rule=rule))
            for rule in {each.rule for each in REFUSED}
        }
    )


def kind_of(line: Line) -> str:
    """As the log's own summaries name it."""
    return f"{line['outcome']} {line['rule']} {line['src.addr'].partition(':')[0]}"


def throw(uproxy: Inbound, crowd: Path, count: int) -> None:
    """So many of a crowd, each of whom hears why it is refused."""
    done = flood(uproxy.port, crowd, Pace(count=count))
    assert (done.begun, done.shaken, done.orderly, done.cut) == (count, count, 0, 0)
    assert done.refused == {48: count // 2, 45: count // 4, 42: count // 4}


def check_log(uproxy: Inbound, *floods: int) -> None:
    """Lines and summaries together tell of everybody in floods of such sizes, and no line is
    too much; uProxy has ended."""
    told = [line for line in uproxy.accesses if line.get("outcome") == "peer_untrusted"]
    summed = [line for line in uproxy.accesses if "failed alike" in line["message"]]
    lines = Counter(map(kind_of, told))
    windows = Counter(line["kind"] for line in summed)
    everybody = lines.copy()
    for line in summed:
        everybody[line["kind"]] += line["count"]

    wanted = [count // share for count in floods for share in (2, 4, 4)]
    assert sorted(everybody.values()) == sorted(wanted)
    # a window without a summary was its kind's last
    assert all(lines[kind] <= PASSING * (windows[kind] + 1) for kind in lines)


async def test_everybody_is_refused_counted_and_summed_up(
    flooded: Inbound, folder: Path, file_world: FileWorld, crowd: Path
) -> None:
    failed = "istio_tcp_connections_failed_total"
    with Outbound(folder, file_world.ours(WEB), flooded.port) as outbound:
        outbound.wait_until_ready()
        # with callers already, so that threads and buffers that the first crowd needs are there
        async with Load(outbound.port, workers=2):
            await asyncio.to_thread(throw, flooded, crowd, CROWD)
        wait_until(lambda: counts(flooded)[failed] >= CROWD, "the crowd's end")
        before, memory = refusals(flooded), in_use(flooded)
        descriptors = open_descriptors(flooded)
        assert counts(flooded)[failed] == CROWD

        async with Load(outbound.port, workers=2) as load:
            await asyncio.to_thread(throw, flooded, crowd, CROWD // 2)
    assert load.failures == []
    assert load.successes > 0

    wait_until(lambda: counts(flooded)[failed] >= CROWD + CROWD // 2, "the second crowd's end")
    wait_until(lambda: open_descriptors(flooded) <= descriptors, f"{descriptors} descriptors")
    assert in_use(flooded) < memory + 4 * MIB
    assert counts(flooded)[failed] == CROWD + CROWD // 2
    more = Counter({"X5-14": CROWD // 4, "X5-2": CROWD // 8, "X5-17": CROWD // 8})
    assert refusals(flooded) == before + more
    assert more + more == before
    assert flooded.stop() == 0
    check_log(flooded, CROWD, CROWD // 2)


def test_a_flood_of_good_callers_is_served(door: Inbound, caller: Path) -> None:
    """The same crowd, with a certificate that a rule allows."""
    with ended(door, "closed", count=1000, timeout=30.0):
        done = flood(door.port, caller, Pace(count=1000))
    assert (done.shaken, done.orderly, done.refused) == (1000, 1000, {})


@pytest.mark.slow
def test_a_flood_of_questions_for_a_new_key_costs_nothing(
    flooded: Inbound, file_world: FileWorld, caller: Path
) -> None:
    """The caller never reads an answer; another one is served meanwhile."""
    before = in_use(flooded)
    with contextlib.ExitStack() as caller_stays:
        asked = caller_stays.enter_context(key_updates(flooded.port, caller, UPDATES))
        assert asked.times > UPDATES // 10
        assert in_use(flooded) < before + MIB
        serves(flooded, file_world.ca.issue(FRONTEND))
        with ended(flooded, "reset"):
            caller_stays.close()
