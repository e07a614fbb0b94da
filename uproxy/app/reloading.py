"""Reloading: a whole new configuration, or none of it.

A configuration that can't be read, is wrong, needs a restart or can't have its sockets
changes nothing; it is logged, counted and shown until a good one comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from uproxy.app.configuration import ConfigurationFile
from uproxy.app.identity import now
from uproxy.app.state import RunState
from uproxy.config import Changes, Settings, changes
from uproxy.errors import ConfigError, UproxyError
from uproxy.metrics import Metrics

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
    """The file's fingerprint just before it was last read, or its change last told."""

    async def reload(self) -> bool:
        """Read the file and put it in force; whether that was possible."""
        self.seen = self.file.fingerprint()
        try:
            settings = self.file.read()
            difference = self._difference(settings)
            await self.apply(settings)
        except UproxyError as error:
            self._refused(error)
            return False
        self.state.stale = None
        self.state.loaded_at = now()
        self.metrics.reloaded(applied=True)
        _log.info("reloaded %s: %s", self.file.path, ", ".join(difference.keys) or "no change")
        return True

    async def changed(self) -> None:
        """Wait until the file has changed and settled, and nobody has read it since."""
        last = self.seen
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            current = self.file.fingerprint()
            if current != self.seen and current == last:
                self.seen = current
                return
            last = current

    def _difference(self, settings: Settings) -> Changes:
        difference = changes(self.in_force(), settings)
        if difference.restart:
            raise ConfigError(difference.restart)
        return difference

    def _refused(self, error: UproxyError) -> None:
        self.state.stale = str(error)
        self.metrics.reloaded(applied=False)
        mistakes = error.mistakes if isinstance(error, ConfigError) else (error,)
        for mistake in mistakes:
            _log.error("%s not reloaded, what ran before stays: %s", self.file.path, mistake)
