"""Imports without what libraries bring along and a uProxy has no use for.

asyncio and uvloop import `ssl`, cryptography imports `hashlib`, and both would bring the
system's libssl and libcrypto into a process that has an OpenSSL already: 1 MiB in every
workload, and a second library to keep free of holes.  `email.utils`, 0.4 MiB, is for
certificates with an e-mail address in them.  While `lean_imports` lasts, modules that refuse
to work, or that load the real one when they are first used, stand in their place.  Rules: what
was imported before is left alone, and afterwards whoever else wants them gets the real ones.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType


class AbsentError(Exception):
    """Every class of the stand-in for `ssl`; there are no instances."""

    def __init__(self, *_args: object, **_options: object) -> None:
        raise RuntimeError("the standard ssl isn't in this process: TLS is uproxy.libssl's")


class _NoSsl(ModuleType):
    """Has every name, so that a newer asyncio or uvloop finds the ones it asks for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        # constants are kept as C integers
        return 0 if name.isupper() else AbsentError


class _EmailUtils(ModuleType):
    """For cryptography, at whose exactly pinned version it is made."""

    @staticmethod
    def parseaddr(text: str) -> tuple[str, str]:
        from email.utils import parseaddr

        return parseaddr(text)


@contextlib.contextmanager
def lean_imports() -> Iterator[None]:
    """Import inside this block what would import more than a uProxy needs."""
    stand_ins: dict[str, ModuleType | None] = {
        "ssl": _NoSsl("ssl"),
        # None: not to be imported; hashlib then takes Python's own SHA-2
        "_hashlib": None,
        "email.utils": _EmailUtils("email.utils"),
    }
    placed = [name for name in stand_ins if name not in sys.modules]
    for name in placed:
        sys.modules[name] = stand_ins[name]  # type: ignore[assignment]  # None is import's own word
    try:
        yield
    finally:
        for name in placed:
            del sys.modules[name]
