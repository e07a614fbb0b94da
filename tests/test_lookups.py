"""Look-ups in threads: whoever gets no answer keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from uproxy import lookups
from uproxy.lab.waiting import eventually
from uproxy.lookups import RESERVED, Lookups, ask_system
from uproxy.model import TcpAddress


class System:
    """A resolver that answers `good…`, fails for `bad…`, and hangs for `dead…` until released."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.hanging = 0
        self.most_hanging = 0
        self._released = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, host: str) -> tuple[str, ...]:
        with self._lock:
            self.asked[host] += 1
        if host.startswith("dead"):
            with self._lock:
                self.hanging += 1
                self.most_hanging = max(self.hanging, self.most_hanging)
            self._released.wait(60)
            with self._lock:
                self.hanging -= 1
        if not host.startswith("good"):
            raise OSError(-2, "Name or service not known")
        return ("10.0.0.1", "fd00::1")

    def release(self) -> None:
        self._released.set()


@pytest.fixture
async def system() -> AsyncIterator[System]:
    system = System()
    yield system
    system.release()
    await eventually(lambda: system.hanging == 0, "the hanging threads to end")


def name(host: str, port: int = 80) -> TcpAddress:
    return TcpAddress(host, port)


def leave(tasks: list[asyncio.Task[tuple[TcpAddress, ...]]]) -> asyncio.Future[list[object]]:
    for task in tasks:
        task.cancel()
    return asyncio.gather(*tasks, return_exceptions=True)


async def test_every_address_comes_back_with_the_names_port(system: System) -> None:
    assert await Lookups(system)(name("good", 7)) == (name("10.0.0.1", 7), name("fd00::1", 7))


async def test_a_failure_is_raised_and_the_next_one_asks_again(system: System) -> None:
    look_up = Lookups(system)
    for count in (1, 2):
        with pytest.raises(OSError, match="Name or service not known"):
            await look_up(name("bad"))
        assert system.asked["bad"] == count


async def test_a_good_name_is_answered_beside_a_hundred_dead_ones(system: System) -> None:
    look_up = Lookups(system)
    dead = [asyncio.create_task(look_up(name(f"dead{n}"))) for n in range(100)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await look_up(name("good"))
    assert not any(task.done() for task in dead)
    await leave(dead)


async def test_a_dead_name_has_one_thread_however_many_wait_and_however_often(
    system: System,
) -> None:
    look_up = Lookups(system)
    for _ in range(3):
        waiting = [asyncio.create_task(look_up(name("dead", port))) for port in (1, 2, 3)]
        await eventually(lambda: system.hanging == 1, "the look-up to hang")
        await leave(waiting)
    assert system.asked["dead"] == 1
    waiting = [asyncio.create_task(look_up(name("dead", port))) for port in (1, 2)]
    await asyncio.sleep(0)
    system.release()
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, OSError)
    assert system.asked["dead"] == 1


async def test_there_are_never_more_threads_than_the_most(system: System) -> None:
    look_up = Lookups(system, most=6)
    dead = [asyncio.create_task(look_up(name(f"dead{n}"))) for n in range(20)]
    await eventually(lambda: system.hanging == 6, "as many threads as there may be")
    good = asyncio.create_task(look_up(name("good")))
    await asyncio.sleep(10 * lookups.GROW_AFTER_S)  # long enough for too many to start
    assert system.most_hanging == 6
    assert not good.done()
    system.release()
    assert await good
    await asyncio.gather(*dead, return_exceptions=True)


async def test_few_threads_do_for_names_that_answer(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "GROW_AFTER_S", 3600.0)
    most = 0

    def ask(host: str) -> tuple[str, ...]:
        nonlocal most
        running = sum(thread.name == "lookup" for thread in threading.enumerate())
        most = max(most, running)
        return system(host)

    look_up = Lookups(ask)
    await asyncio.gather(*(look_up(name(f"good{n}")) for n in range(200)))
    assert most <= 2 * lookups.FIRST_THREADS  # one that has answered may not have ended yet


async def test_names_that_were_slow_leave_threads_to_the_others(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "SLOW_S", -1.0)  # everybody is slow
    look_up, most = Lookups(system, most=RESERVED + 4), RESERVED + 4
    system.release()
    slow = [f"dead{n}" for n in range(most)]
    await asyncio.gather(*(look_up(name(host)) for host in slow), return_exceptions=True)
    system._released.clear()
    dead = [asyncio.create_task(look_up(name(host))) for host in slow]
    await eventually(lambda: system.hanging == 4, "the slow ones to take what they may")
    async with asyncio.timeout(10):
        assert await look_up(name("good"))
    assert system.hanging == 4
    await leave(dead)


async def test_whoever_nobody_waits_for_any_more_is_not_asked_for(system: System) -> None:
    look_up = Lookups(system, most=1)
    dead = asyncio.create_task(look_up(name("dead")))
    await eventually(lambda: system.hanging == 1, "the only thread to hang")
    given_up = [asyncio.create_task(look_up(name(f"good{n}"))) for n in range(50)]
    await asyncio.sleep(0)
    await leave(given_up)
    system.release()
    assert await look_up(name("good"))
    assert set(system.asked) == {"dead", "good"}
    await asyncio.gather(dead, return_exceptions=True)


@pytest.mark.parametrize("hanging", [0, 1])
async def test_without_a_thread_to_be_had_look_ups_wait_or_fail(
    system: System, monkeypatch: pytest.MonkeyPatch, hanging: int
) -> None:
    look_up = Lookups(system)
    dead = [asyncio.create_task(look_up(name(f"dead{n}"))) for n in range(hanging)]
    await eventually(lambda: system.hanging == hanging, "the thread to hang")

    def none_left(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as shortage:
        shortage.setattr(threading.Thread, "start", none_left)
        good = [asyncio.create_task(look_up(name(f"good{n}"))) for n in range(500)]
        await asyncio.sleep(5 * lookups.GROW_AFTER_S)
        answers = [] if hanging else await asyncio.gather(*good, return_exceptions=True)
    if hanging:
        assert not any(task.done() for task in good)
    else:
        for error in answers:
            assert isinstance(error, OSError)
            assert error.strerror == "no thread left to look it up"
    system.release()
    await asyncio.gather(*dead, *good, return_exceptions=True)
    assert await look_up(name("good"))


async def test_a_defect_of_the_resolver_is_a_failure_like_others() -> None:
    def broken(_host: str) -> tuple[str, ...]:
        raise MemoryError("none left")

    with pytest.raises(OSError, match="MemoryError: none left"):
        await Lookups(broken)(name("good"))


def test_a_loop_that_has_ended_does_not_hear_of_a_late_answer(
    recwarn: pytest.WarningsRecorder,
) -> None:
    system = System()

    async def leave_it() -> None:
        task = asyncio.create_task(Lookups(system)(name("dead")))
        await eventually(lambda: system.hanging == 1, "the look-up to hang")
        await leave([task])

    asyncio.run(leave_it())
    (thread,) = (each for each in threading.enumerate() if each.name == "lookup")
    system.release()
    thread.join(10)
    assert not thread.is_alive()
    assert not recwarn.list


def test_the_system_knows_localhost_and_not_an_invalid_name() -> None:
    found = ask_system("localhost")
    assert set(found) <= {"127.0.0.1", "::1"}
    assert len(set(found)) == len(found) > 0
    with pytest.raises(OSError, match=r"\w"):
        ask_system("a.invalid")


def test_asking_brings_no_tables_of_international_names_into_the_process() -> None:
    program = (
        "import sys; from uproxy.lookups import ask_system; ask_system('localhost'); "
        "print('encodings.idna' in sys.modules, 'stringprep' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
