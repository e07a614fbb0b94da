"""The log: one line per event on standard output, written without ever blocking the caller."""

from uproxy.log.logs import Log, alike

__all__ = ["Log", "alike"]
