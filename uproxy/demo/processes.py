"""Programs that this process starts and that never outlive it: their output, their end.

It knows nothing of what they do.  Rules: a program ends on its own signal, or else is
killed after a grace, with everything it started; it is in a session of its own, so that
Ctrl-C in a terminal reaches only us, who then end it in order.
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

PATIENCE_S = 30.0
"""For anything to happen that is going to happen; machines are slow at times."""
_STOP_GRACE_S = 5.0
_LOOK_EVERY_S = 0.02
_LONGEST_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Command:
    """What to start, and how to end it."""

    name: str
    """As people call it."""
    argv: Sequence[str | Path]
    env: Mapping[str, str] | None = None
    """None: ours."""
    user: str | None = None
    """None: ours; another one needs root."""
    stop_signal: signal.Signals = signal.SIGTERM
    has_input: bool = False
    """Whether something will be written to it."""


class Program:
    """A running command; leaving its `async with` ends it."""

    def __init__(self, command: Command, folder: Path) -> None:
        """`folder` is where it runs."""
        self.command = command
        self.lines: list[str] = []
        """Everything it has written so far, to either of its outputs."""
        self._folder = folder
        self._process: Process | None = None  # set by __aenter__, as is the next
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start it; it may need a while to be of use.

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
        """End it, and everything it started."""
        if self._process is None or self._reader is None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(self.command.stop_signal)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_GRACE_S):
                    await self._process.wait()
        finally:
            # also when this is interrupted
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._reader

    @property
    def exit_code(self) -> int | None:
        """None while it runs or is being read; negative: the signal that ended it."""
        if self._process is None or self._reader is None or not self._reader.done():
            return None
        return self._process.returncode

    async def say(self, text: str) -> None:
        """Write to its input.

        Raises:
            UproxyError: it has ended.
        """
        assert self._process is not None  # noqa: S101  used inside its `async with` only
        assert self._process.stdin is not None  # noqa: S101  the command has_input
        try:
            self._process.stdin.write(text.encode())
            await self._process.stdin.drain()
        except ConnectionError:
            raise UproxyError(self.last_words()) from None

    async def until(self, condition: Callable[[], _T], what: str) -> _T:
        """Look until `condition()` is true; returns what it gave.

        Raises:
            UproxyError: it ended before, or it took longer than PATIENCE_S.
        """
        return await until(condition, what, self)

    def last_words(self) -> str:
        """What to tell when it has ended too early."""
        said = next((line for line in reversed(self.lines) if line.strip()), "nothing")
        return f"{self.command.name} ended (exit code {self.exit_code}); its last line: {said}"

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        while line := await process.stdout.readline():
            self.lines.append(line.decode(errors="replace").rstrip("\n"))


async def until(condition: Callable[[], _T], what: str, alive: Program | None = None) -> _T:
    """Look until `condition()` is true; returns what it gave.

    Raises:
        UproxyError: `alive` ended before, or it took longer than PATIENCE_S.
    """

    async def look() -> _T:
        return condition()

    return await until_seen(look, what, alive)


async def until_seen(
    look: Callable[[], Awaitable[_T]], what: str, alive: Program | None = None
) -> _T:
    """`until`, where looking takes a while."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not (seen := await look()):
        if alive is not None and alive.exit_code is not None:
            raise UproxyError(alive.last_words())
        if asyncio.get_running_loop().time() > deadline:
            raise UproxyError(f"{what}: this did not happen within {PATIENCE_S:g} s")
        await asyncio.sleep(_LOOK_EVERY_S)
    return seen


async def output_of(command: Command, folder: Path) -> str:
    """What a command prints that ends by itself.

    Raises:
        UproxyError: it failed, or took longer than PATIENCE_S.
    """
    async with Program(command, folder) as program:
        await until(lambda: program.exit_code is not None, f"{command.name} ends")
    if program.exit_code != 0:
        raise UproxyError(program.last_words())
    return "\n".join(program.lines)


def _as_user(name: str | None) -> dict[str, Any]:
    """subprocess's arguments for running as somebody else."""
    if name is None:
        return {}
    user = pwd.getpwnam(name)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
