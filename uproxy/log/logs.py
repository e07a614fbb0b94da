"""The process's log: receives standard logging and access records, and writes lines.

It decides which events are written, formats them on the writer thread of a `Pipe`, and never
waits for standard output.  Rules: of lines that outsiders can cause at will, only the first few
of a kind are written; the rest are counted and summed up in one line (metrics count all of them).
The access log follows `log.access` whatever the level; only probes, like tracebacks, need the level
debug.
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
from uproxy.log.ratelimit import Kind, RateLimit
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


_LINES = "lines"
"""The first part of the kind of lines that aren't access records."""


def alike(*kind: str) -> dict[str, object]:
    """Return the `extra` argument for a log call that outsiders can cause at will.  Lines with
    the same `kind` share one rate limit."""
    return {"uproxy_kind": (_LINES, *kind)}


def _kind_of(record: logging.LogRecord) -> Kind | None:
    """Return the kind by which a record is rate-limited; None: it isn't.

    Exceptions share a limit with others of the same log call, and all lines of a library share
    one.
    """
    kind: Kind | None = getattr(record, "uproxy_kind", None)
    if kind is None and record.exc_info:
        return (_LINES, record.name, str(record.msg))
    if kind is None and not record.name.startswith("uproxy"):
        return (_LINES, record.name)
    return kind


class Log(logging.Handler):
    """The logging handler of this process, between `start` and `finish`."""

    def __init__(
        self,
        settings: LogSettings,
        name: str,
        *,
        fd: int = STDOUT,
        lines: int = QUEUE_LINES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the log; `start` begins to write.

        Args:
            settings: the configuration's `log`.
            name: the configured name of this uProxy, added to every line.
            fd: the file descriptor to write to.
            lines: how many lines may wait for the descriptor before further ones are dropped.
            clock: seconds of a monotonic clock, for rate limiting.
        """
        super().__init__()
        self._tags: Fields = (("name", name),)
        self._clock = clock
        self._limit = RateLimit()
        self._limit_lock = threading.Lock()
        self._pipe = Pipe(fd, drop_line=self._drop_line, on_idle=self._write_summaries, lines=lines)
        self.configure(settings)

    @property
    def dropped(self) -> int:
        """How many lines were dropped so far because standard output was blocked."""
        return self._pipe.dropped

    @property
    def level_word(self) -> str:
        """The level in force: `debug`, `info`, `warning` or `error`."""
        return self._level_word

    def configure(self, settings: LogSettings) -> None:
        """Apply these settings, at start or on a reload."""
        self._render = json_line if settings.format == "json" else text_line
        self._logged_outcomes = logged_outcomes(settings.access)
        self.set_level(settings.level)

    def set_level(self, word: str) -> None:
        """Write lines of this level and above; the access log is not affected.

        Raises:
            KeyError: not one of `debug`, `info`, `warning`, `error`.
        """
        level = _LEVELS[word]
        self._level_word = word
        _OURS.setLevel(level)
        # from libraries only warnings and errors are logged
        logging.getLogger().setLevel(max(level, logging.WARNING))

    def start(self) -> None:
        """Start the writer thread, and receive standard logging from now on.

        Raises:
            UproxyError: the thread can't be started.
        """
        self._pipe.start()
        logging.getLogger().addHandler(self)

    def finish(self, timeout: float = 1.0) -> None:
        """Write what is queued, waiting at most `timeout` seconds for standard output, and
        stop."""
        logging.getLogger().removeHandler(self)
        _OURS.setLevel(logging.NOTSET)
        self._write_summaries(everything=True)
        self._pipe.close(timeout)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record of standard logging; called on any thread."""
        kind = _kind_of(record)
        if kind is not None and not self._allows(kind):
            return
        fields = self._tags
        if record.exc_info and record.exc_info[1] is not None:
            fields = (*fields, ("error", self._error_text(record.exc_info[1])))
        level = _WORDS.get(record.levelno, record.levelname.lower())
        self._put(Event(record.created, level, record.name, record.getMessage(), fields))

    def wants(self, outcome: Outcome) -> bool:
        """Return whether connections with this outcome are logged."""
        if outcome is Outcome.PROBED and self._level_word != "debug":
            return False
        return outcome in self._logged_outcomes

    def access(self, record: AccessRecord) -> None:
        """Write the line of a connection that has ended, unless `log.access` or the rate limit
        omits it."""
        if not self.wants(record.outcome):
            return
        if record.kind is not None and not self._allows(record.kind):
            return
        level = "info" if record.kind is None else "warning"
        if record.outcome is Outcome.PROBED:
            level = "debug"
        fields = (*record.fields, *self._tags)
        self._put(Event(time.time(), level, "access", "connection complete", fields))

    def _allows(self, kind: Kind) -> bool:
        """Return whether the rate limit lets one more line of this kind through, and count it."""
        self._write_summaries()
        with self._limit_lock:
            return self._limit.allows(kind, self._clock())

    def _write_summaries(self, everything: bool = False) -> None:
        """Write one summary line for each kind whose rate limit window is over."""
        now = float("inf") if everything else self._clock()
        with self._limit_lock:
            summaries = self._limit.close_windows(now)
        for kind, count in summaries:
            fields = (("kind", " ".join(kind)), ("count", count), *self._tags)
            if kind[0] == _LINES:
                message, scope = f"{count} more lines were alike", "uproxy.log"
            else:
                message, scope = f"{count} more connections failed alike", "access"
            self._put(Event(time.time(), "warning", scope, message, fields))

    def _error_text(self, error: BaseException) -> str:
        """Return an exception as text, with its traceback at level debug."""
        if self._level_word == "debug":
            return "".join(traceback.format_exception(error))
        return f"{type(error).__name__}: {error}"

    def _put(self, event: Event) -> None:
        self._pipe.put(partial(self._render, event))

    def _drop_line(self, count: int) -> str:
        """Return the line that reports how many lines were dropped."""
        fields = (("count", count), *self._tags)
        message = f"{count} log lines were dropped: standard output is blocked"
        return self._render(Event(time.time(), "warning", "uproxy.log", message, fields))
