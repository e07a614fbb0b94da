"""Tasks that run until they are cancelled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from uproxy.tasks import background

PROXY = Path(__file__).parents[1] / "uproxy"


async def test_a_task_that_dies_is_heard_of_while_it_is_kept_and_a_cancelled_one_is_not() -> None:
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: heard.append(context.get("exception"))
    )
    defect = ValueError("a defect")

    async def die() -> None:
        raise defect

    dying = background(die(), "dying")
    stopped = background(asyncio.Event().wait(), "stopped")
    stopped.cancel()
    await asyncio.wait([dying, stopped])
    assert (dying.get_name(), stopped.cancelled()) == ("dying", True)
    assert heard == [defect]


async def test_a_task_returns_what_its_work_does() -> None:
    assert await background(asyncio.sleep(0, 7), "seven") == 7


@pytest.mark.parametrize(
    "module", ["app/process.py", "app/l7_health.py", "connections/checking.py"]
)
def test_no_task_that_a_part_of_the_process_keeps_can_die_unheard(module: str) -> None:
    """`hurry` is awaited by who begins it."""
    kept = [
        line
        for line in (PROXY / module).read_text().splitlines()
        if "create_task" in line and "hurry" not in line
    ]
    assert kept == []
