"""Whom the admin server asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uproxy.proxy.admin.vitals import Vitals

if TYPE_CHECKING:
    from uproxy.proxy.admin.facts import AdminFacts


@dataclass(frozen=True, slots=True)
class Sources:
    """What tells the admin server about the rest of uProxy."""

    vitals: Vitals
    facts: Callable[[], AdminFacts]
    """Makes what tells more than the vitals, and imports what that needs.

    Raises:
        ImportError, OSError: its modules can't be loaded.
    """
