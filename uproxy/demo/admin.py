"""Asks the admin listener of a uProxy or an Envoy on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import http.client

_ANSWER_S = 5.0
"""Seconds that the admin listener may take to answer."""


async def get(port: int, path: str) -> tuple[int, bytes]:
    """Return (HTTP status, body); status 0 if nobody answers."""
    return await asyncio.to_thread(_get, port, path)


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
