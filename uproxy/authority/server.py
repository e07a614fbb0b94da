"""Serves the Workload API of one trust domain on a unix socket, and Envoy's SDS beside it.

Each stream gets a new message whenever its contents change.  `handout`, `jwt_handout` and
`secrets_handout` decide who gets what; the caller's pid, uid and gid come from the kernel.  Rules:
a call of the Workload API must have the security header exactly once, with the value `true` (WE-3),
which Envoy doesn't send; a caller without an entry gets status 7, at once or on an open stream;
other methods get status 12.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast

import h2.exceptions

from uproxy.authority.calls import Answering, Once, Reply, Watch
from uproxy.authority.definition import CallingProcess
from uproxy.authority.handout import DomainSet
from uproxy.authority.jwt_handout import fetch_jwt_svid, jwt_bundles, validate_jwt_svid
from uproxy.authority.rpc import CallStarted, Event, RequestReceived, ServerConnection
from uproxy.authority.secrets_handout import (
    SECRET_SERVICE,
    SecretStream,
    fetch_secrets,
    secrets_for,
)
from uproxy.errors import UproxyError, in_words
from uproxy.identity.workload_api.framing import SERVICE, Status

SOCKET_MODE = 0o777
"""As SPIRE's: access is decided by the caller's uid and pid, not by the socket's permissions."""

_LOG = logging.getLogger(__name__)
_CREDENTIALS = struct.Struct("3i")

Method = Callable[[CallingProcess], Answering]
"""Begins to answer a call."""
Handout = Callable[[str, CallingProcess], bytes | None]
"""Returns the encoded message for a caller in a trust domain; None: it has no identity."""
Answer = Callable[[DomainSet, str, CallingProcess, bytes, datetime], bytes]
"""Returns the encoded answer to a request that a caller in a trust domain makes now."""


class WorkloadApiServer:
    """The Workload API of one trust domain."""

    def __init__(self, world: DomainSet, trust_domain: str, path: Path) -> None:
        self.path = path
        self.trust_domain = trust_domain
        self._methods = _methods(world, trust_domain)
        self._clients: set[_Client] = set()
        self._server: asyncio.AbstractServer | None = None  # set by start

    async def start(self) -> None:
        """Make the socket and listen.

        Raises:
            UproxyError: the socket can't be made, or another authority serves it.
        """
        try:
            _remove_stale(self.path)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: _Client(self), str(self.path))
            self.path.chmod(SOCKET_MODE)
        except OSError as error:
            raise UproxyError(f"the socket {self.path} can't be made: {in_words(error)}") from error

    async def stop(self) -> None:
        """Stop listening, close all connections and remove the socket."""
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.hang_up()
        if self._server is not None:
            await self._server.wait_closed()
            self.path.unlink(missing_ok=True)

    def push(self) -> None:
        """Send a new message to each stream whose contents have changed."""
        for client in list(self._clients):
            client.push()

    def method(self, path: str) -> Method | None:
        """Return the function that answers calls of this path; None: there is no such method."""
        return self._methods.get(path)

    def add_client(self, client: _Client) -> None:
        """Register a new client."""
        self._clients.add(client)
        if self._server is not None and not self._server.is_serving():
            # accepted while stopping: `stop` waits until every client has gone
            client.hang_up()

    def remove_client(self, client: _Client) -> None:
        """Forget a client whose connection has ended."""
        self._clients.discard(client)


class _Client(asyncio.Protocol):
    """One client's connection: the I/O around `rpc.ServerConnection`."""

    def __init__(self, endpoint: WorkloadApiServer) -> None:
        self._endpoint = endpoint
        self._rpc = ServerConnection()
        self._calls: dict[int, Answering] = {}  # by call id; those that haven't ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, because uvloop's transports don't inherit from asyncio's
        self._transport = cast("asyncio.WriteTransport", transport)
        self._caller = _calling_process(transport)
        self._endpoint.add_client(self)
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
            self._react(event)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._calls.clear()
        self._endpoint.remove_client(self)

    def hang_up(self) -> None:
        """Close the connection at once, as an agent does that stops."""
        self._transport.abort()

    def push(self) -> None:
        """Send changed messages; end the streams whose caller no longer has an identity."""
        for call_id, call in list(self._calls.items()):
            self._reply(call_id, call.changed())
        self._flush()

    def _react(self, event: Event) -> None:
        match event:
            case CallStarted():
                self._begin(event)
            case RequestReceived() if event.id in self._calls:
                self._reply(event.id, self._calls[event.id].received(event.message))
            case _:
                self._calls.pop(event.id, None)

    def _begin(self, call: CallStarted) -> None:
        """Begin to answer a call, or refuse it."""
        method = self._endpoint.method(call.path)
        if call.security_values != ("true",) and not call.path.startswith(SECRET_SERVICE):
            text = "security header missing from request"
            self._rpc.finish(call.id, Status.INVALID_ARGUMENT, text)
        elif method is None:
            self._rpc.finish(call.id, Status.UNIMPLEMENTED, f"{call.path} is not served here")
        else:
            self._calls[call.id] = method(self._caller)
            self._reply(call.id, self._calls[call.id].started())

    def _reply(self, call_id: int, reply: Reply) -> None:
        if reply.message is not None:
            self._rpc.send(call_id, reply.message)
        if reply.end is not None:
            self._calls.pop(call_id, None)
            self._rpc.finish(call_id, *reply.end)
            if reply.end[0] is not Status.OK:
                where = self._endpoint.trust_domain
                _LOG.info("%s in %s: %s", self._caller, where, reply.end[1])

    def _flush(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._rpc.data_to_send())


def _methods(world: DomainSet, trust_domain: str) -> dict[str, Method]:
    """Return the methods by their paths."""

    def watch(handout: Handout) -> Method:
        return lambda caller: Watch(lambda: handout(trust_domain, caller))

    def once(answer: Answer) -> Method:
        return lambda caller: Once(
            lambda request: answer(world, trust_domain, caller, request, datetime.now(UTC))
        )

    def secrets(caller: CallingProcess) -> Answering:
        return SecretStream(partial(secrets_for, world, trust_domain, caller), str(caller))

    return {
        SERVICE + "FetchX509SVID": watch(world.svids),
        SERVICE + "FetchX509Bundles": watch(world.bundles),
        SERVICE + "FetchJWTBundles": watch(partial(jwt_bundles, world)),
        SERVICE + "FetchJWTSVID": once(fetch_jwt_svid),
        SERVICE + "ValidateJWTSVID": once(validate_jwt_svid),
        SECRET_SERVICE + "StreamSecrets": secrets,
        SECRET_SERVICE + "FetchSecrets": lambda caller: Once(
            partial(fetch_secrets, world, trust_domain, caller)
        ),
    }


def _calling_process(transport: asyncio.BaseTransport) -> CallingProcess:
    """Return the process that connected (SO_PEERCRED of unix(7): as of connect, not forgeable)."""
    sock = transport.get_extra_info("socket")
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(packed)
    path = None
    # fails for another user's process, and for one that has exited
    with contextlib.suppress(OSError):
        path = os.readlink(f"/proc/{pid}/exe")
    return CallingProcess(pid, uid, gid, path)


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more.

    Raises:
        UproxyError: another process listens on it.
    """
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
