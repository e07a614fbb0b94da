"""Ends captured connections: they may end by themselves for a while, and are reset then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from uproxy.capture import sockdiag

_LOOK_EVERY_S: Final = 0.05


def end(find: Callable[[], list[sockdiag.OpenSocket]], drain_s: float) -> None:
    """Wait up to `drain_s` seconds until `find` finds none, and reset those that it finds then.

    Raises:
        UproxyError: some are left, and this kernel can't reset them.
    """
    until = time.monotonic() + drain_s
    while (left := find()) and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
    sockdiag.reset(left)
