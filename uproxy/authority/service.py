"""The authority as a whole: its sockets, and the timer that makes it renew and rotate.

    async with DevelopmentAuthority(definition) as authority:
        authority.endpoints["example.org"]   # unix:///…

Rules: a change is sent to the open streams before the method that made it returns; only
sockets are written to disk, and they are removed at exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Self

from uproxy.authority.definition import Definition
from uproxy.authority.folders import temporary_folder
from uproxy.authority.handout import DomainSet
from uproxy.authority.server import WorkloadApiServer
from uproxy.errors import UproxyError, in_words
from uproxy.model import UnixAddress

_MAX_TIMER_S = 60.0
"""Seconds between two looks at the clock: the loop's timers stop while the machine is
suspended."""
_MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un, without the closing NUL


class DevelopmentAuthority:
    """A development identity authority that runs in the current event loop."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._domains = DomainSet(definition, _now())
        self._endpoints: list[WorkloadApiServer] = []
        self._timer: asyncio.TimerHandle | None = None  # set while it runs
        self._cleanup = contextlib.ExitStack()

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Trust domain to the address of its Workload API, as `identity.workload_api` takes it."""
        return MappingProxyType(
            {one.trust_domain: str(UnixAddress(str(one.path))) for one in self._endpoints}
        )

    async def __aenter__(self) -> Self:
        """Listen on every endpoint.

        Raises:
            UproxyError: a socket or the folder can't be made.
        """
        try:
            folder = self._make_folder()
            for name, domain in self._definition.trust_domains.items():
                path = Path(domain.socket or folder / f"{name}.sock")
                endpoint = WorkloadApiServer(self._domains, name, _checked(path))
                await endpoint.start()
                self._endpoints.append(endpoint)
        except BaseException:
            await self.__aexit__()
            raise
        self._set_timer()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close all connections and remove the sockets."""
        if self._timer is not None:
            self._timer.cancel()
        for endpoint in self._endpoints:
            await endpoint.stop()
        self._cleanup.close()

    def apply(self, definition: Definition) -> None:
        """Use a changed definition and send the changes to open streams.

        Raises:
            UproxyError: trust domains or sockets differ, which needs a restart.
        """
        if _restart_only(definition) != _restart_only(self._definition):
            raise UproxyError(
                "trust domains and sockets can't change while the authority runs: restart it"
            )
        self._definition = definition
        self._domains.apply(definition, _now())
        self._update()

    def rotate_ca(self, *trust_domains: str) -> None:
        """Start a CA rotation in these trust domains; without arguments, in all."""
        for name in trust_domains or self._domains.domains:
            self._domains.domains[name].rotate_ca(_now())
        self._update()

    def renew(self, *trust_domains: str) -> None:
        """Issue new SVIDs in these trust domains now; without arguments, in all."""
        for name in trust_domains or self._domains.domains:
            self._domains.domains[name].renew(_now())
        self._update()

    def _update(self) -> None:
        """Do what is due, send the changes and set the timer again."""
        self._domains.tick(_now())
        for endpoint in self._endpoints:
            endpoint.push()
        self._set_timer()

    def _set_timer(self) -> None:
        """Set the timer to the next time something is due."""
        if self._timer is not None:
            self._timer.cancel()
        left_s = (self._domains.due() - _now()).total_seconds()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(max(left_s, 0.0), _MAX_TIMER_S), self._update)

    def _make_folder(self) -> Path:
        """Return the folder of the sockets, creating it if needed; it is then removed at exit."""
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if self._definition.sockets is None and not runtime:
            folder = temporary_folder("uproxy-authority-")
            self._cleanup.callback(shutil.rmtree, folder)
            folder.chmod(0o755)
            return folder
        folder = Path(self._definition.sockets or f"{runtime}/uproxy-authority")
        try:
            if not folder.exists():
                folder.mkdir(mode=0o755, parents=True)
                self._cleanup.callback(_remove_if_empty, folder)
        except OSError as error:
            raise UproxyError(f"the folder {folder} can't be made: {in_words(error)}") from error
        return folder.absolute()


def _now() -> datetime:
    return datetime.now(UTC)


def _checked(path: Path) -> Path:
    """Return `path` unless it is too long for a unix socket, which raises UproxyError."""
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise UproxyError(
            f"the socket path {path} is longer than {_MAX_SOCKET_PATH_BYTES} bytes: "
            "set `sockets` to a shorter folder"
        )
    return path


def _restart_only(definition: Definition) -> object:
    """Return the parts of a definition that can't change while the authority runs."""
    sockets = {name: domain.socket for name, domain in definition.trust_domains.items()}
    return definition.sockets, sockets


def _remove_if_empty(folder: Path) -> None:
    # another authority may have put its sockets there meanwhile
    with contextlib.suppress(OSError):
        folder.rmdir()
