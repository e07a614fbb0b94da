"""Programs that the demonstration starts: their words, their end, and that nothing survives it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from uproxy.demo import processes
from uproxy.demo.processes import Program, ProgramCommand, output_of, until
from uproxy.errors import UproxyError
from uproxy.lab.waiting import eventually

DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
)


def python(program: str, **how: bool) -> ProgramCommand:
    return ProgramCommand("a program", [sys.executable, "-c", program], **how)  # type: ignore[arg-type]  # passed through


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_what_a_command_prints_is_its_output(tmp_path: Path) -> None:
    assert await output_of(python("print('one'); print('two')"), tmp_path) == "one\ntwo"


async def test_it_runs_in_the_folder_it_is_given(tmp_path: Path) -> None:
    assert await output_of(python("import os; print(os.getcwd())"), tmp_path) == str(tmp_path)


async def test_a_command_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(UproxyError, match=r"a program ended \(exit code 3\); its last line: why"):
        await output_of(python("print('why'); raise SystemExit(3)"), tmp_path)


async def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UproxyError, match=r"nothing can't be started: .*No such file"):
        await output_of(ProgramCommand("nothing", [tmp_path / "nothing"]), tmp_path)


async def test_a_program_answers_what_it_is_told(tmp_path: Path) -> None:
    echo = "while True: print('heard', input(), flush=True)"
    async with Program(python(echo, has_input=True), tmp_path) as program:
        await program.write_input("you\n")
        assert await program.until(lambda: program.lines, "an answer") == ["heard you"]


async def test_waiting_for_a_program_that_has_ended_is_over_at_once(tmp_path: Path) -> None:
    async with Program(python("print('bye')"), tmp_path) as program:
        with pytest.raises(UproxyError, match=r"ended \(exit code 0\); its last line: bye"):
            await program.until(lambda: False, "something else")


async def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TIMEOUT_S", 0.05)
    with pytest.raises(UproxyError, match=r"the impossible: this did not happen within 0\.05 s"):
        await until(lambda: False, "the impossible")


async def test_leaving_ends_it_by_its_own_signal(tmp_path: Path) -> None:
    async with Program(python("import time; time.sleep(100)"), tmp_path) as program:
        pass
    assert program.exit_code == -signal.SIGTERM


async def test_one_that_ignores_its_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_GRACE_S", 0.1)
    async with Program(python(f"{DEAF}; time.sleep(100)"), tmp_path) as program:
        await program.until(lambda: program.lines, "it is deaf")
    assert program.exit_code == -signal.SIGKILL


async def test_its_children_do_not_survive_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_GRACE_S", 0.1)
    family = (
        "import subprocess, sys, time;"
        f"child = subprocess.Popen([sys.executable, '-c', {f'{DEAF}; time.sleep(100)'!r}]);"
        "print(child.pid, flush=True); time.sleep(100)"
    )
    async with Program(python(family), tmp_path) as program:
        await program.until(lambda: len(program.lines) == 2, "the child is deaf")
        child = int(next(line for line in program.lines if line != "deaf"))
    await eventually(lambda: not exists(child) or _is_zombie(child), "the child is gone")


async def test_interrupting_its_start_leaves_nothing_behind(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    program = (
        f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    )
    task = asyncio.create_task(output_of(python(program), tmp_path))
    await eventually(lambda: marker.exists() and marker.read_text(), "it runs")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not exists(int(marker.read_text()))


async def test_interrupting_its_end_kills_it(tmp_path: Path) -> None:
    stubborn = (
        "import os, signal, time;"
        "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True));"
        "print(os.getpid(), flush=True);"
        "time.sleep(100)"
    )
    program = Program(python(stubborn), tmp_path)

    async def start_and_end() -> None:
        async with program:
            await program.until(lambda: program.lines, "it runs")

    task = asyncio.create_task(start_and_end())
    await eventually(lambda: "no" in program.lines, "it is asked to end")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: program.exit_code == -signal.SIGKILL, "it is killed")


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_root_can_start_it_as_somebody_else() -> None:
    command = ProgramCommand("id", ["id", "-un"], user="nobody")
    assert await output_of(command, Path("/")) == "nobody"


def _is_zombie(pid: int) -> bool:
    """Whoever adopted it hasn't waited for it; it has ended all the same."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
