"""Child processes: their output, their end, and waiting for conditions.

Rules: a process gets its stop signal and, after a grace period, is killed with all its
children; it runs in a session of its own, so that Ctrl-C in a terminal reaches only this
process, which then stops it in order.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from uproxy.errors import UproxyError

_T = TypeVar("_T")

TIMEOUT_S = 30.0
"""Seconds after which waiting fails; generous, because machines may be slow."""
_STOP_GRACE_S = 5.0
"""Seconds from the stop signal to SIGKILL."""
_LOOK_EVERY_S = 0.02
"""Seconds between two checks of a condition."""
_LONGEST_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProgramCommand:
    """What to run, and how to stop it."""

    name: str
    """The name for messages."""
    argv: Sequence[str | Path]
    env: Mapping[str, str] | None = None
    """The environment; None: ours."""
    user: str | None = None
    """The user to run as; None: ours.  Another one needs root."""
    stop_signal: signal.Signals = signal.SIGTERM
    has_input: bool = False
    """Whether its standard input is a pipe that we write to."""


class Program:
    """A running command; leaving its `async with` stops it."""

    def __init__(self, command: ProgramCommand, folder: Path) -> None:
        """`folder` is its working directory."""
        self.command = command
        self.lines: list[str] = []
        """The lines it has written so far to standard output and standard error."""
        self._folder = folder
        self._process: Process | None = None  # set by __aenter__, as is the next
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start it, without waiting until it is ready.

        Raises:
            UproxyError: it can't be started.
        """
        command = self.command
        try:
            self._process = await asyncio.create_subprocess_exec(
                *map(str, command.argv),
                stdin=PIPE if command.has_input else DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                env=command.env,
                cwd=self._folder,
                start_new_session=True,
                limit=_LONGEST_LINE_BYTES,
                **_as_user(command.user),
            )
        except OSError as error:
            raise UproxyError(f"{command.name} can't be started: {error}") from error
        self._reader = asyncio.create_task(self._read(self._process))
        return self

    async def __aexit__(self, *why: object) -> None:
        """Stop it and all processes that it started."""
        if self._process is None or self._reader is None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(self.command.stop_signal)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_GRACE_S):
                    await self._process.wait()
        finally:
            # also when this task is cancelled
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._reader

    @property
    def exit_code(self) -> int | None:
        """None until it has ended and its output was read; negative: the signal that ended it."""
        if self._process is None or self._reader is None or not self._reader.done():
            return None
        return self._process.returncode

    async def write_input(self, text: str) -> None:
        """Write to its standard input.

        Raises:
            UproxyError: it has ended.
        """
        assert self._process is not None  # noqa: S101  used inside its `async with` only
        assert self._process.stdin is not None  # noqa: S101  the command has_input
        try:
            self._process.stdin.write(text.encode())
            await self._process.stdin.drain()
        except ConnectionError:
            raise UproxyError(self.failure_message()) from None

    async def until(self, condition: Callable[[], _T], what: str) -> _T:
        """Wait until `condition()` is true; return its value.

        Raises:
            UproxyError: the program ended before, or it took longer than the timeout.
        """
        return await until(condition, what, self)

    def failure_message(self) -> str:
        """Return the message for a program that has ended too early."""
        said = next((line for line in reversed(self.lines) if line.strip()), "nothing")
        return f"{self.command.name} ended (exit code {self.exit_code}); its last line: {said}"

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        while line := await process.stdout.readline():
            self.lines.append(line.decode(errors="replace").rstrip("\n"))


async def until(condition: Callable[[], _T], what: str, alive: Program | None = None) -> _T:
    """Wait until `condition()` is true; return its value.  `what` is for the message.

    Raises:
        UproxyError: `alive` ended before, or it took longer than the timeout.
    """

    async def look() -> _T:
        return condition()

    return await until_async(look, what, alive)


async def until_async(
    look: Callable[[], Awaitable[_T]], what: str, alive: Program | None = None
) -> _T:
    """As `until`, for a condition that is a coroutine."""
    deadline = asyncio.get_running_loop().time() + TIMEOUT_S
    while not (seen := await look()):
        if alive is not None and alive.exit_code is not None:
            raise UproxyError(alive.failure_message())
        if asyncio.get_running_loop().time() > deadline:
            raise UproxyError(f"{what}: this did not happen within {TIMEOUT_S:g} s")
        await asyncio.sleep(_LOOK_EVERY_S)
    return seen


async def output_of(command: ProgramCommand, folder: Path) -> str:
    """Run a command to its end; return what it prints.

    Raises:
        UproxyError: it failed, or took longer than the timeout.
    """
    async with Program(command, folder) as program:
        await until(lambda: program.exit_code is not None, f"{command.name} ends")
    if program.exit_code != 0:
        raise UproxyError(program.failure_message())
    return "\n".join(program.lines)


def _as_user(name: str | None) -> dict[str, Any]:
    """Return the arguments of subprocess for running as another user."""
    if name is None:
        return {}
    user = pwd.getpwnam(name)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
