"""Connects to one endpoint, trying its addresses in parallel with a delay (RFC 8305)."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial
from typing import Final

from uproxy import originals, sockets
from uproxy.contract import Refusal, RefusedError
from uproxy.errors import in_words
from uproxy.model import Address, Outcome, TcpAddress
from uproxy.transport import failures
from uproxy.transport.poller import Poller

HEAD_START: Final = 0.25
"""Seconds after which the next address is tried too: RFC 8305 §5's connection attempt delay."""

_RETRY_DELAY: Final = 0.01
"""Seconds before connecting again to a unix socket whose accept queue is full."""


class DialError(Exception):
    """All addresses failed; the message says why in one line."""


async def reach(
    poller: Poller,
    addresses: tuple[Address, ...],
    server: str,
    limit: float = 0,
    source: TcpAddress | None = None,
) -> tuple[socket.socket, Address]:
    """As `dial`, for at most `limit` seconds (0: without limit), and with the refusal of a
    connection for which no address could be reached.

    Raises:
        RefusedError: all addresses failed, or the time is over.
    """
    try:
        async with asyncio.timeout(limit or None):
            return await dial(poller, addresses, server, source)
    except DialError as error:
        raise RefusedError(Refusal(Outcome.CONNECT_FAILED, str(error))) from None
    except TimeoutError:
        raise RefusedError(failures.no_answer(addresses, limit)) from None


async def dial(
    poller: Poller,
    addresses: tuple[Address, ...],
    server: str,
    source: TcpAddress | None = None,
) -> tuple[socket.socket, Address]:
    """Return the first connection that is established, and its address.  `server` is what should
    listen there, in words; `source` the address from which it is dialled (`Route.dial_from`).

    Raises:
        DialError: all addresses failed.
    """
    if len(addresses) == 1:
        return await _connect(poller, addresses[0], server, source)
    return await _race(poller, addresses, server, source)


async def _race(
    poller: Poller, addresses: tuple[Address, ...], server: str, source: TcpAddress | None
) -> tuple[socket.socket, Address]:
    """Try the addresses in order, each HEAD_START seconds after the one before, until one
    connects."""
    tasks: list[asyncio.Task[tuple[socket.socket, Address]]] = []
    winner = None
    try:
        running: set[asyncio.Task[tuple[socket.socket, Address]]] = set()
        while running or len(tasks) < len(addresses):
            if len(tasks) < len(addresses):
                attempt = _connect(poller, addresses[len(tasks)], server, source)
                tasks.append(asyncio.create_task(attempt))
                running.add(tasks[-1])
            wait = HEAD_START if len(tasks) < len(addresses) else None
            done, running = await asyncio.wait(
                running, timeout=wait, return_when=asyncio.FIRST_COMPLETED
            )
            winner = next((task for task in done if task.exception() is None), None)
            if winner is not None:
                return winner.result()
        failures = [task.exception() for task in tasks]
        for failure in failures:
            if failure is not None and not isinstance(failure, DialError | OSError):
                raise failure  # a defect, not a failed connection
        raise DialError("; ".join(map(str, failures)))
    finally:
        await _stop(tasks, winner)


async def _stop(
    tasks: list[asyncio.Task[tuple[socket.socket, Address]]],
    winner: asyncio.Task[tuple[socket.socket, Address]] | None,
) -> None:
    """Cancel all tasks and close the connections that others than the winner have made
    meanwhile."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(
        *(task for task in tasks if task is not winner), return_exceptions=True
    ):
        if not isinstance(result, BaseException):
            result[0].close()


async def _connect(
    poller: Poller, address: Address, server: str, source: TcpAddress | None
) -> tuple[socket.socket, Address]:
    """Connect to one address; retry for as long as a unix socket's accept queue is full."""
    while True:
        try:
            connection, error = _start(address, source)
        except OSError as failure:
            if source is not None:
                raise DialError(_no_source(address, source, failure)) from None
            raise DialError(sockets.explain(failure.errno or 0, address, server)) from None
        try:
            if error == errno.EINPROGRESS:
                await poller.writable(connection.fileno())
                error = sockets.connect_error(connection)
            if error == 0:
                return connection, address
        except BaseException:
            connection.close()
            raise
        connection.close()
        if error != errno.EAGAIN:
            raise DialError(sockets.explain(error, address, server))
        await asyncio.sleep(_RETRY_DELAY)


def _start(address: Address, source: TcpAddress | None) -> tuple[socket.socket, int]:
    if source is None:
        return sockets.start_connecting(address)
    return sockets.start_connecting(address, partial(originals.use_source, source=source))


def _no_source(address: Address, source: TcpAddress, failure: OSError) -> str:
    """Return why an address can't be dialled from another host's, and the way out."""
    way_out = ": it takes CAP_NET_ADMIN" if isinstance(failure, PermissionError) else ""
    return (
        f"{address} can't be dialled from {source.host} ({in_words(failure)}){way_out}; without "
        "`preserve_source` it is dialled from uProxy's own"
    )
