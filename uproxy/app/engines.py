"""Which engine moves the connections: as configured, never another one in its place."""

from __future__ import annotations

from uproxy.contract import Engine
from uproxy.errors import EngineError


def make_engine(name: str) -> Engine:
    """The engine of that name, on the running event loop.

    Raises:
        EngineError: it isn't part of this installation.
    """
    if name == "python":
        from uproxy.transport.twin import TwinEngine

        return TwinEngine()
    try:
        from uproxy.transport.native import NativeEngine
    except ImportError as error:
        raise EngineError(
            f"the compiled engine can't be loaded ({error}): install uproxy with a C compiler "
            "and Python's headers present, or say engine: python"
        ) from None
    return NativeEngine()
