"""What a running uProxy says of itself: ready or not, stale or not, and since when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(slots=True)
class RunState:
    """Changed by the wiring, read by admin and systemd."""

    started_at: datetime
    loaded_at: datetime
    """When the configuration in force was read."""
    starting: bool = True
    draining: bool = False
    quitting: bool = False
    """Asked to quit once; asked again it doesn't wait."""
    stale: str | None = None
    """Why the file as it is now isn't in force."""
    limits_note: str | None = None
    """Why fewer connections fit than were asked for."""

    @property
    def not_ready(self) -> tuple[str, ...]:
        """Reasons in words, besides a missing identity."""
        if self.starting:
            return ("starting",)
        return ("draining",) if self.draining else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator should know although it decides nothing."""
        stale = () if self.stale is None else (f"config_stale: {self.stale}",)
        return stale if self.limits_note is None else (*stale, self.limits_note)
