"""The process's log: standard logging and the access log, on their way to standard output.

It decides which lines are written and hands them to a `Pipe`; it never waits for standard
output.  Rules: failures of the same kind are summed up after the first few (here only, never
in metrics); the access log follows `access`, whatever the level; a traceback is shown at
level debug only.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial

from uproxy.accesslog import AccessRecord, logged_outcomes
from uproxy.config.settings import LogSettings
from uproxy.log.lines import Event, Fields, json_line, text_line
from uproxy.log.pipe import QUEUE_LINES, Pipe
from uproxy.log.ratelimit import RateLimit
from uproxy.model import Outcome

STDOUT = 1

_OURS = logging.getLogger("uproxy")
_WORDS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "error",
}
_LEVELS = {word: number for number, word in _WORDS.items() if number != logging.CRITICAL}


class Log(logging.Handler):
    """Where every line of this process goes, from `start` to `finish`."""

    def __init__(
        self,
        settings: LogSettings,
        name: str,
        *,
        fd: int = STDOUT,
        lines: int = QUEUE_LINES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is the configuration's; it tells several uProxies on one machine apart."""
        super().__init__()
        self._tags: Fields = (("name", name),)
        self._clock = clock
        self._limit = RateLimit()
        self._limit_lock = threading.Lock()
        self._pipe = Pipe(fd, drops=self._drops, idle=self._sum_up, lines=lines)
        self.configure(settings)

    @property
    def dropped(self) -> int:
        """Lines that standard output didn't take."""
        return self._pipe.dropped

    @property
    def level_word(self) -> str:
        """`debug`, `info`, `warning` or `error`."""
        return self._level_word

    def configure(self, settings: LogSettings) -> None:
        """Follow the configuration, as a reload does."""
        self._render = json_line if settings.format == "json" else text_line
        self._logged_outcomes = logged_outcomes(settings.access)
        self.set_level(settings.level)

    def set_level(self, word: str) -> None:
        """Write lines of this level and above.  The access log isn't concerned.

        Raises:
            KeyError: not one of `debug`, `info`, `warning`, `error`.
        """
        level = _LEVELS[word]
        self._level_word = word
        _OURS.setLevel(level)
        # libraries' chatter is nobody's business, their warnings are
        logging.getLogger().setLevel(max(level, logging.WARNING))

    def start(self) -> None:
        """Take over standard logging."""
        logging.getLogger().addHandler(self)
        self._pipe.start()

    def finish(self, timeout: float = 1.0) -> None:
        """Write what is queued, waiting at most `timeout` seconds for standard output."""
        logging.getLogger().removeHandler(self)
        _OURS.setLevel(logging.NOTSET)
        self._sum_up(everything=True)
        self._pipe.close(timeout)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by standard logging, on any thread."""
        fields = self._tags
        if record.exc_info and record.exc_info[1] is not None:
            fields = (*fields, ("error", self._explain(record.exc_info[1])))
        level = _WORDS.get(record.levelno, record.levelname.lower())
        self._put(Event(record.created, level, record.name, record.getMessage(), fields))

    def wants(self, outcome: Outcome) -> bool:
        """Whether the configuration keeps a line for a connection that ended so."""
        return outcome in self._logged_outcomes

    def access(self, record: AccessRecord) -> None:
        """One line for a finished connection, if the configuration wants it."""
        if record.outcome not in self._logged_outcomes:
            return
        if record.kind is not None:
            self._sum_up()
            with self._limit_lock:
                if not self._limit.passes(record.kind, self._clock()):
                    return
        level = "info" if record.kind is None else "warning"
        fields = (*record.fields, *self._tags)
        self._put(Event(time.time(), level, "access", "connection complete", fields))

    def _sum_up(self, everything: bool = False) -> None:
        now = float("inf") if everything else self._clock()
        with self._limit_lock:
            told = self._limit.due(now)
        for kind, count in told:
            fields = (("kind", " ".join(kind)), ("count", count), *self._tags)
            message = f"{count} more connections failed alike"
            self._put(Event(time.time(), "warning", "access", message, fields))

    def _explain(self, error: BaseException) -> str:
        if self._level_word == "debug":
            return "".join(traceback.format_exception(error))
        return f"{type(error).__name__}: {error}"

    def _put(self, event: Event) -> None:
        self._pipe.put(partial(self._render, event))

    def _drops(self, count: int) -> str:
        fields = (("count", count), *self._tags)
        message = f"{count} log lines were dropped: standard output is blocked"
        return self._render(Event(time.time(), "warning", "uproxy.log", message, fields))
