"""The socket under one Workload API call: connects, feeds `grpc.Call`, yields its events.

Not a retry loop: every way to fail becomes one last `Ended` whose text names the likely
cause, and the supervisor decides what follows.  Until the first message there are deadlines;
an idle stream has no timer and costs no wakeup.  Over TCP the kernel looks whether the other host
is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

from uproxy.errors import in_words
from uproxy.identity.workload_api.framing import SERVICE
from uproxy.identity.workload_api.grpc import Call, Ended, Event
from uproxy.model import Address, UnixAddress
from uproxy.spiffe.workload_messages import MAX_MESSAGE_BYTES

CONNECT_TIMEOUT_S = 5.0
"""A stopped agent with a full backlog neither accepts nor refuses."""
FIRST_BYTES_S = 5.0
"""From the connection to the first bytes of HTTP/2: a stopped agent doesn't send them."""
FIRST_MESSAGE_S = 30.0
"""From the connection to the first message or status, which may take the agent an attestation."""
KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""A host that is gone is missed after a minute (30 s of silence, 3 probes 10 s apart)."""
MAX_REQUEST_BYTES = 15 << 10
"""What fits in one frame of HTTP/2, whatever the agent's settings."""
_READ_BYTES = 64 << 10


async def watch(
    address: Address, method: str = "FetchX509SVID", request: bytes = b""
) -> AsyncGenerator[Event, None]:
    """Make one call and yield what comes of it; the last event is always `Ended`.  `request` is the
    encoded message, of at most MAX_REQUEST_BYTES."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await _connect(address)
    except OSError as error:  # TimeoutError is one
        yield Ended(explain(address, error))
        return
    try:
        call = Call(SERVICE + method, _authority(address), MAX_MESSAGE_BYTES, request)
        async for event in _converse(call, reader, writer):
            yield event
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def explain(address: Address, error: OSError) -> str:
    """Say why the endpoint can't be reached, and what to look at."""
    where = f"agent socket {address.path}" if isinstance(address, UnixAddress) else str(address)
    match error:
        case FileNotFoundError():
            return f"{where} does not exist: is the SPIRE agent running?"
        case ConnectionRefusedError():
            return f"{where} refused the connection: the agent that made it is gone"
        case PermissionError():
            return f"{where} may not be opened by this user: {in_words(error)}"
        case TimeoutError():
            return f"{where} does not answer: is the agent stopped or overloaded?"
    return f"{where} can't be reached: {in_words(error)}"


async def _converse(
    call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> AsyncGenerator[Event, None]:
    begun = asyncio.get_running_loop().time()
    deadline: float | None = begun + FIRST_BYTES_S
    while True:
        writer.write(call.data_to_send())
        try:
            async with asyncio.timeout_at(deadline) as limit:
                data = await reader.read(_READ_BYTES)
        except OSError as error:  # TimeoutError is one, also where the kernel's probes found nobody
            late = _late(deadline - begun) if deadline and limit.expired() else ""
            yield Ended(late or f"the connection broke: {in_words(error)}")
            return
        if deadline is not None:
            deadline = begun + FIRST_MESSAGE_S
        for event in call.receive(data):
            deadline = None
            yield event
            if isinstance(event, Ended):
                return


def _late(seconds: float) -> str:
    return f"no answer within {seconds:g} s: is the agent stopped or overloaded?"


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, UnixAddress):
        return await asyncio.open_unix_connection(address.path)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return reader, writer


def _authority(address: Address) -> str:
    return "localhost" if isinstance(address, UnixAddress) else str(address)
