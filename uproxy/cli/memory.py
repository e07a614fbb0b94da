"""Whether `uproxy run` has the address space to start in."""

from __future__ import annotations

import resource
from typing import Final

from uproxy.errors import UproxyError

LEAST: Final = 80 << 20
"""Bytes.  With less a thread can't be started, and with much less libraries don't report what they
lack, but crash (OpenSSL 4.0, in `ERR_new`)."""


def too_little() -> UproxyError | None:
    """Return the error that says that the limit of the address space is too low; None: it isn't."""
    limit, _hard = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= LEAST:
        return None
    return UproxyError(
        f"the address space is limited to {limit >> 20} MiB: raise ulimit -v (LimitAS) to "
        f"{LEAST >> 20} MiB or more"
    )
