"""Makes the engine that the configuration names, never another one in its place."""

from __future__ import annotations

from typing import Final

from uproxy import libssl, processors
from uproxy.contract import Engine
from uproxy.errors import EngineError, in_words

MOST_WORKERS: Final = 4
"""The most threads that the compiled engine has unless `workers` asks for more."""


def make_engine(name: str, workers: int | None) -> Engine:
    """Make the engine of that name, on the running event loop.  `workers` is its number of threads;
    None: one per processor, MOST_WORKERS at most.

    Raises:
        EngineError: it isn't part of this installation, can't have so many threads, or can't be
            called by OpenSSL.
    """
    if name == "python":
        from uproxy.transport.python import PythonEngine

        libssl.check_callbacks()
        return PythonEngine()
    try:
        from uproxy.transport.native import NativeEngine
    except ImportError as error:
        raise EngineError(
            f"the compiled engine can't be loaded ({error}): install uproxy with a C compiler "
            "and Python's headers present, or say engine: python"
        ) from None
    threads = workers or min(processors.allowed(), MOST_WORKERS)
    try:
        return NativeEngine(threads)
    except (OSError, RuntimeError) as error:
        why = in_words(error) if isinstance(error, OSError) else error
        raise EngineError(f"no {threads} threads ({why}): ask for fewer `workers`") from None
