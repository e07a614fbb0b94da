"""The authority as a whole: its endpoints, the clock that makes it act, its folder of sockets.

    async with Authority(definition) as authority:
        authority.endpoints["example.org"]   # unix:///…

Rules: whatever changes is pushed to the open streams before the call that changed it
returns; nothing but sockets touches the disk, and they are gone at exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Self

from uproxy.authority.definition import Definition
from uproxy.authority.handout import World
from uproxy.authority.server import Endpoint
from uproxy.errors import UproxyError
from uproxy.model import UnixAddress

_LONGEST_NAP_S = 60.0  # the loop's clock stands still in a suspended machine, SVIDs don't
_MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un, without the closing NUL


class Authority:
    """A development identity authority that runs in this event loop."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._world = World(definition, _now())
        self._endpoints: list[Endpoint] = []
        self._timer: asyncio.TimerHandle | None = None  # set while it runs
        self._cleanup = contextlib.ExitStack()

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Trust domain to the address of its Workload API, ready for `identity.workload_api`."""
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
                endpoint = Endpoint(self._world, name, _checked(path))
                await endpoint.start()
                self._endpoints.append(endpoint)
        except BaseException:
            await self.__aexit__()
            raise
        self._arm()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Hang up and remove the sockets."""
        if self._timer is not None:
            self._timer.cancel()
        for endpoint in self._endpoints:
            await endpoint.stop()
        self._cleanup.close()

    def apply(self, definition: Definition) -> None:
        """Take over a changed definition; open streams see it at once.

        Raises:
            UproxyError: it changes what only a restart can change; nothing has changed.
        """
        if _fixed(definition) != _fixed(self._definition):
            raise UproxyError(
                "trust domains and sockets can't change while the authority runs: restart it"
            )
        self._definition = definition
        self._world.apply(definition, _now())
        self._act()

    def rotate_ca(self, *trust_domains: str) -> None:
        """Begin a CA rotation in these trust domains, or in all."""
        for name in trust_domains or self._world.domains:
            self._world.domains[name].rotate_ca(_now())
        self._act()

    def renew(self, *trust_domains: str) -> None:
        """Issue every SVID of these trust domains anew now, or of all."""
        for name in trust_domains or self._world.domains:
            self._world.domains[name].renew(_now())
        self._act()

    def _act(self) -> None:
        self._world.tick(_now())
        for endpoint in self._endpoints:
            endpoint.push()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left_s = (self._world.due() - _now()).total_seconds()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(max(left_s, 0.0), _LONGEST_NAP_S), self._act)

    def _make_folder(self) -> Path:
        """The folder of the sockets; made ones are removed at exit."""
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if self._definition.sockets is None and not runtime:
            folder = Path(tempfile.mkdtemp(prefix="uproxy-authority-"))
            self._cleanup.callback(shutil.rmtree, folder)
            folder.chmod(0o755)
            return folder
        folder = Path(self._definition.sockets or f"{runtime}/uproxy-authority")
        try:
            if not folder.exists():
                folder.mkdir(mode=0o755, parents=True)
                self._cleanup.callback(_remove_if_empty, folder)
        except OSError as error:
            raise UproxyError(f"the folder {folder} can't be made: {error.strerror}") from error
        return folder.absolute()


def _now() -> datetime:
    return datetime.now(UTC)


def _checked(path: Path) -> Path:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise UproxyError(
            f"the socket path {path} is longer than {_MAX_SOCKET_PATH_BYTES} bytes: "
            "set `sockets` to a shorter folder"
        )
    return path


def _fixed(definition: Definition) -> object:
    sockets = {name: domain.socket for name, domain in definition.trust_domains.items()}
    return definition.sockets, sockets


def _remove_if_empty(folder: Path) -> None:
    # another authority may have put its sockets there meanwhile
    with contextlib.suppress(OSError):
        folder.rmdir()
