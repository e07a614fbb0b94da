"""Runs the applications of `traffic` in a thread, beside tests that block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from tests.helpers.traffic import Handler, serving


@contextlib.contextmanager
def background(handler: Handler) -> Iterator[int]:
    """Run a TCP server with `handler` in another thread; yield its loopback port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="application")
    thread.start()
    app = serving(handler)
    try:
        yield asyncio.run_coroutine_threadsafe(app.__aenter__(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(app.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
