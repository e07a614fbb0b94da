"""The settings of a network namespace that capture changes, and puts back."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from uproxy.errors import NotPermittedError, UproxyError, in_words

_FOLDER: Final = Path("/proc/sys/net")

WANTED: Final[Mapping[str, str]] = {
    # what the proxy accepts is marked as the SYN was, so that
    "ipv4/tcp_fwmark_accept": "1",
    # resets for sockets that have gone take the marked way back to the proxy
    "ipv4/fwmark_reflect": "1",
    "ipv6/fwmark_reflect": "1",
}


def read() -> dict[str, str]:
    """Return this namespace's values of what is wanted, as far as the kernel has it."""
    return {name: path.read_text().strip() for name in WANTED if (path := _FOLDER / name).exists()}


def write(values: Mapping[str, str]) -> None:
    """Set values in this namespace.

    Raises:
        NotPermittedError: we may not.
    """
    for name, value in values.items():
        try:
            (_FOLDER / name).write_text(value)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise NotPermittedError(f"net/{name}: CAP_NET_ADMIN needed") from None
            if error.errno == errno.EROFS:
                raise NotPermittedError(
                    f"net/{name}: /proc/sys is read-only here: a container must be privileged"
                ) from None
            raise UproxyError(f"net/{name}: {in_words(error)}") from None


def restore(previous: Mapping[str, str]) -> None:
    """Put values back, but for those that somebody else has changed meanwhile.

    What isn't in `WANTED` is left alone: capture hasn't changed it, whatever a record says.
    """
    current = read()
    write(
        {
            name: previous[name]
            for name, wanted in WANTED.items()
            if name in previous and current.get(name) == wanted != previous[name]
        }
    )
