"""Opens and closes the admin server's listeners that the configuration asks for."""

from __future__ import annotations

import logging
import socket

from uproxy import sockets
from uproxy.app.doors import inherit
from uproxy.config.settings import AdminSettings
from uproxy.errors import InUseError, UproxyError
from uproxy.model import ListenAddress, SystemdAddress, TcpAddress, UnixAddress
from uproxy.proxy.admin.bounds import DEFAULT_BOUNDS
from uproxy.proxy.admin.messages import Surface
from uproxy.proxy.admin.server import AdminListener
from uproxy.proxy.admin.sources import Sources
from uproxy.systemd import PassedSockets

_log = logging.getLogger(__name__)


class Administration:
    """Up to three admin listeners, one for each surface."""

    def __init__(self, sources: Sources, listeners: PassedSockets) -> None:
        self._sources = sources
        self._inherited = listeners
        self._listeners: list[AdminListener] = []

    def open(self, settings: AdminSettings) -> None:
        """Listen, without accepting connections yet.

        Raises:
            UproxyError: one can't listen; `close` then closes the others.
        """
        surfaces = {
            Surface.ADMIN: settings.listen,
            Surface.METRICS: settings.metrics,
            Surface.READY: settings.ready,
        }
        for surface, address in surfaces.items():
            if address is not None:
                listener = self._listen(surface, address, settings)
                self._listeners.append(AdminListener(self._sources, surface, listener))

    @staticmethod
    def descriptors(settings: AdminSettings) -> int:
        """Return the most descriptors that these listeners and their clients have open."""
        addresses = (settings.listen, settings.metrics, settings.ready)
        return sum(DEFAULT_BOUNDS.descriptors for each in addresses if each is not None)

    async def start(self) -> None:
        """Start to accept connections."""
        for listener in self._listeners:
            await listener.start()

    async def close(self) -> None:
        """Stop accepting, cut open connections and close the sockets."""
        for listener in self._listeners:
            await listener.close()

    def _listen(
        self, surface: Surface, address: ListenAddress, settings: AdminSettings
    ) -> socket.socket:
        """Return the listening socket; errors name the surface."""
        try:
            if isinstance(address, SystemdAddress):
                return inherit(address, self._inherited, exposed=surface is not Surface.ADMIN)
            if surface is Surface.READY:
                address = _for_probes(address)
            return sockets.listen(address, settings.mode, settings.owner)
        except UproxyError as error:
            other = "each uProxy of a machine needs its own; null does without"
            way_out = f"; {other}" if isinstance(error, InUseError) else ""
            raise type(error)(f"admin ({surface.value}): {error}{way_out}") from None


def _for_probes(address: TcpAddress | UnixAddress) -> TcpAddress | UnixAddress:
    """Where to answer probes: as configured, but `[::]`, which is the default and means every
    address of this machine, becomes `0.0.0.0` where the kernel has no IPv6."""
    if isinstance(address, UnixAddress) or address.host != "::" or sockets.has_ipv6():
        return address
    instead = TcpAddress("0.0.0.0", address.port)  # noqa: S104  as wide as what it stands for
    _log.warning("admin (ready): %s: this kernel has no IPv6; listening at %s", address, instead)
    return instead
