"""Reloading: a whole new configuration, or none of it.

A configuration that can't be read, is wrong, needs a restart or can't have its sockets
changes nothing; it is logged, counted and shown until a good one comes.  So does one that
fails for a reason nobody thought of: the process runs on.  The file is looked at, read and
parsed in threads of their own, so that neither a pipe, a mount that hangs nor a thousand rules
hold up the event loop.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from uproxy.app.configuration import ConfigurationFile
from uproxy.app.identity import now
from uproxy.app.state import Refused, RunState
from uproxy.config import Changes, Settings, changes
from uproxy.errors import ConfigError, UproxyError
from uproxy.metrics import Metrics
from uproxy.offloop import compute, off_loop

MOST_KEYS = 20
"""Changed keys that the log names."""

LOOK_EVERY_S = 0.5
"""A changed file is read once it has been the same for two looks: editors write in pieces."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reloader:
    """Follows one configuration file."""

    file: ConfigurationFile
    state: RunState
    metrics: Metrics
    in_force: Callable[[], Settings]
    apply: Callable[[Settings], Awaitable[None]]
    """Puts settings in force, or raises UproxyError and leaves everything as it was."""
    seen: tuple[int, ...]
    """The file's fingerprint just before it was last read, or its change last reported."""

    async def reload(self) -> bool:
        """Read the file and put it in force; whether that was possible.  Cancelling it before
        `apply` has changed anything changes nothing."""
        try:
            text = await self.file.text(self._about_to_read)
            settings = await compute(partial(self.file.parse, text), "configuration")
            difference = await self._difference(settings, text)
            await self.apply(settings)
        except UproxyError as error:
            self._refused(error)
            return False
        except Exception as error:  # noqa: BLE001  whatever it is, what runs goes on
            _log.debug("why it was not reloaded", exc_info=True)
            self._refused(UproxyError(_in_words(error)))
            return False
        self.state.stale = None
        self.state.loaded_at = now()
        self.metrics.reloaded(applied=True)
        _log.info("reloaded %s: %s", self.file.path, _shortened(difference.keys) or "no change")
        return True

    async def changed(self) -> None:
        """Wait until the file has changed and settled, and nobody has read it since."""
        given_up = threading.Event()
        try:
            await off_loop(partial(self._look, given_up), "configuration's watch")
        finally:
            given_up.set()

    def _look(self, given_up: threading.Event) -> None:
        """Return when the file has changed and settled; blocks its thread."""
        last = self.seen
        while not given_up.wait(LOOK_EVERY_S):
            current = self.file.fingerprint()
            if current != self.seen and current == last:
                self.seen = current
                return
            last = current

    def _about_to_read(self, fingerprint: tuple[int, ...]) -> None:
        self.seen = fingerprint

    async def _difference(self, settings: Settings, text: str) -> Changes:
        """Return what the settings change, of which `text` is what the file says; raise
        ConfigError, with lines, if that needs a restart."""
        difference = await compute(partial(changes, self.in_force(), settings), "configuration")
        if difference.restart:
            locate = partial(self.file.locate, text, difference.restart)
            raise ConfigError(await compute(locate, "configuration"))
        return difference

    def _refused(self, error: UproxyError) -> None:
        mistakes = error.mistakes if isinstance(error, ConfigError) else (error,)
        before = self.state.stale
        since = now() if before is None else before.since
        self.state.stale = Refused(since, tuple(map(str, mistakes)))
        self.metrics.reloaded(applied=False)
        for mistake in mistakes:
            _log.error("%s not reloaded, what ran before stays: %s", self.file.path, mistake)


def _shortened(keys: tuple[str, ...]) -> str:
    more = len(keys) - MOST_KEYS
    return ", ".join(keys[:MOST_KEYS]) + (f" and {more} more" if more > 0 else "")


def _in_words(error: Exception) -> str:
    """Return what went wrong, for an error that isn't one of ours."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{os.strerror(error.errno).lower()}: is this machine short of something?"
    if isinstance(error, MemoryError):
        return "no memory left: raise the memory limit, or make the configuration smaller"
    return (
        f"{type(error).__name__}: {error}; this is a defect of uProxy, --log-level debug says more"
    )
