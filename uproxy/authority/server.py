"""One trust domain's endpoint: a unix socket on which every caller is asked of the kernel.

It answers the Workload API's X.509 methods for as long as the authority runs and pushes
every change to the streams that see it.  It decides nothing about identities: `World` does.
Rules: the security header exactly once and exactly `true` (WE-3); no entry is status 7,
first thing or in mid-stream; methods without X.509 are status 12.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import cast

import h2.exceptions

from uproxy.authority.definition import Caller
from uproxy.authority.handout import World
from uproxy.authority.rpc import Called, Connection
from uproxy.errors import UproxyError
from uproxy.identity.workload_api.framing import SERVICE, Status

SOCKET_MODE = 0o777
"""As SPIRE's: who may have what is decided by asking the kernel who called, not by the file."""

_LOG = logging.getLogger(__name__)
_NO_IDENTITY = "no identity issued"
_CREDENTIALS = struct.Struct("3i")

Handout = Callable[[str, Caller], bytes | None]


class Endpoint:
    """The Workload API of one trust domain."""

    def __init__(self, world: World, trust_domain: str, path: Path) -> None:
        self.path = path
        self.trust_domain = trust_domain
        self._methods: dict[str, Handout] = {
            SERVICE + "FetchX509SVID": world.svids,
            SERVICE + "FetchX509Bundles": world.bundles,
        }
        self._clients: set[_Client] = set()
        self._server: asyncio.AbstractServer | None = None  # set by start

    async def start(self) -> None:
        """Listen.

        Raises:
            UproxyError: the socket can't be made, or another authority serves it.
        """
        try:
            _remove_stale(self.path)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: _Client(self), str(self.path))
            self.path.chmod(SOCKET_MODE)
        except OSError as error:
            reason = error.strerror or error
            raise UproxyError(f"the socket {self.path} can't be made: {reason}") from error

    async def stop(self) -> None:
        """Stop listening, hang up, remove the socket."""
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.hang_up()
        if self._server is not None:
            await self._server.wait_closed()
            self.path.unlink(missing_ok=True)

    def push(self) -> None:
        """Tell every stream what has changed for it."""
        for client in list(self._clients):
            client.push()

    def method(self, path: str) -> Handout | None:
        """What answers this path; None: not implemented."""
        return self._methods.get(path)

    def joined(self, client: _Client) -> None:
        """A client has connected."""
        self._clients.add(client)
        if self._server is not None and not self._server.is_serving():
            # accepted in the moment of stopping, which waits for every client
            client.hang_up()

    def left(self, client: _Client) -> None:
        """A client is gone."""
        self._clients.discard(client)


class _Client(asyncio.Protocol):
    """One connection: the shell around `rpc.Connection`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._rpc = Connection()
        self._streams: dict[int, tuple[Handout, bytes]] = {}  # call to what it saw last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, because uvloop's transports don't inherit from asyncio's
        self._transport = cast("asyncio.WriteTransport", transport)
        self._caller = _ask_kernel(transport)
        self._endpoint.joined(self)
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._rpc.receive(data)
        except h2.exceptions.ProtocolError as error:
            _LOG.warning("%s speaks no HTTP/2: %s", self._caller, error)
            self._flush()
            self._transport.close()
            return
        for event in events:
            if isinstance(event, Called):
                self._answer(event)
            else:
                self._streams.pop(event.id, None)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._streams.clear()
        self._endpoint.left(self)

    def hang_up(self) -> None:
        """Close as an agent that stops does: without a word."""
        self._transport.abort()

    def push(self) -> None:
        """Send to each stream what is new for it; end those whose identity is gone."""
        for call_id, (handout, seen) in list(self._streams.items()):
            message = handout(self._endpoint.trust_domain, self._caller)
            if message is None:
                del self._streams[call_id]
                self._rpc.finish(call_id, Status.PERMISSION_DENIED, _NO_IDENTITY)
            elif message != seen:
                self._streams[call_id] = (handout, message)
                self._rpc.send(call_id, message)
        self._flush()

    def _answer(self, call: Called) -> None:
        handout = self._endpoint.method(call.path)
        if call.security_values != ("true",):
            text = "security header missing from request"
            self._rpc.finish(call.id, Status.INVALID_ARGUMENT, text)
        elif handout is None:
            self._rpc.finish(call.id, Status.UNIMPLEMENTED, f"{call.path} is not served here")
        elif (message := handout(self._endpoint.trust_domain, self._caller)) is None:
            _LOG.info("no identity for %s in %s", self._caller, self._endpoint.trust_domain)
            self._rpc.finish(call.id, Status.PERMISSION_DENIED, _NO_IDENTITY)
        else:
            self._streams[call.id] = (handout, message)
            self._rpc.send(call.id, message)

    def _flush(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._rpc.data_to_send())


def _ask_kernel(transport: asyncio.BaseTransport) -> Caller:
    """Who connected (unix(7), SO_PEERCRED: as of connect, not to be forged)."""
    sock = transport.get_extra_info("socket")
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(packed)
    path = None
    # another user's program is not ours to see, and the process may be gone already
    with contextlib.suppress(OSError):
        path = os.readlink(f"/proc/{pid}/exe")
    return Caller(pid, uid, gid, path)


def _remove_stale(path: Path) -> None:
    """Remove a socket whose server was killed; refuse to steal one that is served."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise UproxyError(f"the socket {path} is served already: is another authority running?")
