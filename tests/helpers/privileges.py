"""Programs that run without privileges, whoever runs the tests."""

from __future__ import annotations

import os


def unprivileged() -> list[str]:
    """A prefix that takes every capability from a program run by root; it stays root's, so that
    it still finds Python and the test's files.  Another user has none to take."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
