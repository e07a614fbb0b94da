"""The log: one line per event on standard output, and never a wait for it."""

from uproxy.log.logs import Log

__all__ = ["Log"]
