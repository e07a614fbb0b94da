"""What the admin server needs of the rest of uProxy from the start: whether it is ready and alive,
its metrics, and the commands.  Everything else is in `facts`, which is only imported when it is
asked for: most are asked for their metrics and their readiness only.

`app.vitals` implements it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from uproxy.proxy.admin.row import Row

LOG_LEVELS = ("debug", "info", "warning", "error")
"""The levels that `POST /logging?level=` accepts."""


@dataclass(frozen=True, slots=True)
class Readiness(Row):
    """Whether new work should be sent to this uProxy."""

    reasons: tuple[str, ...] = ()
    """Why it shouldn't, in words; empty: it is ready."""
    notes: tuple[str, ...] = ()
    """What operators should know although it doesn't affect readiness: `config_stale: …`."""
    since: Mapping[str, datetime] = field(default_factory=dict)
    """Since when each of them has been so, by what stands before its colon."""


class Vitals(Protocol):
    """What the admin server asks most often, and the three commands that it can give.

    Called on the event loop's thread; no method may block or raise.
    """

    def readiness(self) -> Readiness:
        """Return whether new work should be sent here."""

    def liveness(self) -> tuple[str, ...]:
        """Return the parts that don't respond, in words; empty: alive."""

    def render_metrics(self, accept: str) -> tuple[str, bytes]:
        """Return (content type, text) of the metrics, in the format that `accept` asks for."""

    def set_log_level(self, level: str) -> None:
        """Change the log level to `level`, one of LOG_LEVELS."""

    def drain(self) -> None:
        """Start to drain without exiting; return at once.  A second call has no effect."""

    def quit(self) -> None:
        """Start to drain, then exit; return at once."""
