"""Reads a refusal of the admin server."""

from __future__ import annotations

from uproxy.proxy.admin.messages import Response


def refused(response: Response | None, status: int) -> str:
    """Check that a response is a refusal with `status`; return its text."""
    assert response is not None
    assert response.status == status
    return response.body.decode()
