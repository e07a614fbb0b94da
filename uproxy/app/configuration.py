"""Reads the configuration file with its overrides, at start and at each reload.

`read` blocks its thread; `load` does the same in a thread of its own and lets the event loop go on.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final

from uproxy.app.reading import WAIT_S, read_text
from uproxy.config import Settings, load
from uproxy.errors import ConfigError, UsageError
from uproxy.model import Mistake
from uproxy.offloop import compute, off_loop

HANGING_S: Final = WAIT_S + 5.0
"""Seconds that reading may take; without a limit, a mount that doesn't answer would block for
ever."""

STANDARD_INPUT: Final = "/dev/stdin"
"""The path for a configuration that comes from standard input."""

_RESERVED_FOLDERS: Final = ("/dev/", "/proc/")


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """The path of the file, and the overrides applied to it."""

    path: Path
    overrides: tuple[str, ...]
    """The values of `--set`, as written."""
    environ: Mapping[str, str]
    """The environment variables, for `UPROXY__…` overrides and `${NAME}`."""
    _reading: Lock = field(default_factory=Lock, repr=False, compare=False)
    """Held by the thread that reads the file."""

    def read(self) -> Settings:
        """Read and validate the whole configuration.

        Raises:
            ConfigError: every mistake in it.
            UsageError: there is no such file, or it can't be read.
            NotPermittedError: it may not be read.
        """
        return self.parse(read_text(self.path))

    def parse(self, text: str) -> Settings:
        """Return the settings that the file's text means, with the overrides.

        Raises:
            ConfigError: every mistake in it, with the file's name.
        """
        try:
            return load(text, environ=self.environ, overrides=self.overrides, folder=self._folder)
        except ConfigError as error:
            raise error.in_file(self.name) from None

    def locate(self, text: str, mistakes: Sequence[Mistake]) -> tuple[Mistake, ...]:
        """Return mistakes about settings of a good text, with name and line of the file."""
        # imported here to save memory: a running uProxy has no use for it
        from uproxy.config.places import locate

        return locate(text, self.name, self.environ, self.overrides, mistakes)

    @property
    def name(self) -> str:
        """What the file is called in messages."""
        return "<stdin>" if str(self.path) == STANDARD_INPUT else str(self.path)

    async def load(
        self, about_to_read: Callable[[tuple[int, ...]], None], hanging_s: float = HANGING_S
    ) -> Settings:
        """As `read`, but without blocking the event loop, and for at most `hanging_s` seconds.

        `about_to_read` is called with the file's fingerprint, in the reading thread.

        Raises:
            ConfigError, UsageError, NotPermittedError: as for `read`.
            UproxyError: no thread can be started.
        """
        text = await self.text(about_to_read, hanging_s)
        return await compute(partial(self.parse, text), "configuration")

    async def text(
        self, about_to_read: Callable[[tuple[int, ...]], None], hanging_s: float = HANGING_S
    ) -> str:
        """Return the file's text; arguments and errors are those of `load`."""
        try:
            async with asyncio.timeout(hanging_s):
                return await off_loop(partial(self._text, about_to_read), "configuration")
        except TimeoutError:
            raise UsageError(
                f"{self.name} gave no answer in {hanging_s:g} s: is its file system there?"
            ) from None

    def fingerprint(self) -> tuple[int, ...]:
        """Return a value that changes whenever the file does, also by a symbolic link that is
        replaced, as a Kubernetes ConfigMap does, and with its permissions.  For something else
        than a regular file it never changes."""
        try:
            facts = os.stat(self.path)
        except OSError as error:
            return (error.errno or 0,)
        if not stat.S_ISREG(facts.st_mode):
            return (facts.st_dev, facts.st_ino)
        # programs that copy set the old modification time again, nobody sets the change's
        return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size

    def _text(self, about_to_read: Callable[[tuple[int, ...]], None]) -> str:
        """Read the file; raise UsageError if an earlier read hasn't ended."""
        if not self._reading.acquire(blocking=False):
            raise UsageError(f"{self.name} is still being read since the last time")
        try:
            # before reading, so that a change in this moment is noticed
            about_to_read(self.fingerprint())
            return read_text(self.path)
        finally:
            self._reading.release()

    @property
    def _folder(self) -> str:
        """Where relative names in it start: its own folder, or ours where it has none
        (`/dev/stdin`, `/dev/fd/63`)."""
        if str(self.path).startswith(_RESERVED_FOLDERS):
            return os.getcwd()
        return str(self.path.parent.absolute())
