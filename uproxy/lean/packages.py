"""Submodules of a package without what the package's own __init__ imports."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def package_not_run(name: str) -> Iterator[None]:
    """Import a package's submodules inside this block while its __init__ isn't run.

    Whoever imports the package afterwards gets the real one, with submodules of its own; one that
    was imported before is used as it is.

    Raises:
        ImportError: the package isn't installed.
    """
    if name in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ImportError(f"{name} isn't installed")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        for each in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[each]
