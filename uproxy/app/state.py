"""The state of a running uProxy: starting, draining, or with a configuration that was refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from uproxy.descriptors import Budget


@dataclass(frozen=True, slots=True)
class Refused:
    """A configuration that was refused while another is in force."""

    since: datetime
    """When the first was refused since the last that was put in force."""
    mistakes: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.mistakes)


@dataclass(slots=True)
class RunState:
    """Changed by the application's process, read by the admin server and for systemd's status."""

    started_at: datetime
    loaded_at: datetime
    """When the configuration in force was read."""
    file: str
    """The absolute path of the configuration file."""
    starting: bool = True
    waiting: tuple[str, ...] = ()
    """While starting: what doors wait for before they accept."""
    draining: bool = False
    quitting: bool = False
    """Whether it was told to quit; a second time, it doesn't wait for connections."""
    stale: Refused | None = None
    """Why the configuration file's present contents were refused; None: they are in force."""
    budget: Budget | None = None
    """How many connections fit; None until that is known."""

    @property
    def not_ready(self) -> tuple[str, ...]:
        """Why new work shouldn't be sent here, apart from a missing identity."""
        if self.starting:
            return self.waiting or ("starting",)
        return ("draining",) if self.draining else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What operators should know although it doesn't affect readiness."""
        stale = () if self.stale is None else (f"config_stale: {self.stale}",)
        if self.budget is None or self.budget.note is None:
            return stale
        return (*stale, f"limits_clamped: {self.budget.note}")
