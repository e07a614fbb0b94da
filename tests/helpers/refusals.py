"""Reading a refusal of the admin server."""

from __future__ import annotations

from uproxy.proxy.admin.messages import Response


def refused(response: Response | None, status: int) -> str:
    """The words of a response that must be a refusal with `status`."""
    assert response is not None
    assert response.status == status
    return response.body.decode()
