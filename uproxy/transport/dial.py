"""Reaching one endpoint: its addresses race, the preferred one with a head start (RFC 8305)."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Final

from uproxy import sockets
from uproxy.contract import Refusal, RefusedError
from uproxy.model import Address, Outcome
from uproxy.transport import failures
from uproxy.transport.poller import Poller

HEAD_START: Final = 0.25
"""Seconds before the next address joins: RFC 8305 §5's recommended connection attempt delay."""

_QUEUE_FULL: Final = 0.01
"""Seconds until a unix socket with a full queue is asked again."""


class DialError(Exception):
    """No address could be reached; one line saying why."""


async def reach(
    poller: Poller, addresses: tuple[Address, ...], limit: float
) -> tuple[socket.socket, Address]:
    """As `dial`, for `limit` seconds at most; 0 is no limit.

    Raises:
        RefusedError: saying how a connection ends that has no other candidate.
    """
    try:
        async with asyncio.timeout(limit or None):
            return await dial(poller, addresses)
    except DialError as error:
        raise RefusedError(Refusal(Outcome.CONNECT_FAILED, str(error))) from None
    except TimeoutError:
        raise RefusedError(failures.no_answer(addresses, limit)) from None


async def dial(poller: Poller, addresses: tuple[Address, ...]) -> tuple[socket.socket, Address]:
    """The first connection that stands, and the address it goes to.

    Raises:
        DialError: each address failed.
    """
    if len(addresses) == 1:
        return await _connect(poller, addresses[0])
    return await _race(poller, addresses)


async def _race(poller: Poller, addresses: tuple[Address, ...]) -> tuple[socket.socket, Address]:
    tasks: list[asyncio.Task[tuple[socket.socket, Address]]] = []
    winner = None
    try:
        running: set[asyncio.Task[tuple[socket.socket, Address]]] = set()
        while running or len(tasks) < len(addresses):
            if len(tasks) < len(addresses):
                tasks.append(asyncio.create_task(_connect(poller, addresses[len(tasks)])))
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
                raise failure  # a defect: nothing that was asked has said no
        raise DialError("; ".join(map(str, failures)))
    finally:
        await _stop(tasks, winner)


async def _stop(
    tasks: list[asyncio.Task[tuple[socket.socket, Address]]],
    winner: asyncio.Task[tuple[socket.socket, Address]] | None,
) -> None:
    """End the losers, and close what they may have reached in the same moment."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(
        *(task for task in tasks if task is not winner), return_exceptions=True
    ):
        if not isinstance(result, BaseException):
            result[0].close()


async def _connect(poller: Poller, address: Address) -> tuple[socket.socket, Address]:
    while True:
        try:
            connection, error = sockets.start_connecting(address)
        except OSError as failure:
            raise DialError(sockets.explain(failure.errno or 0, address)) from None
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
            raise DialError(sockets.explain(error, address))
        await asyncio.sleep(_QUEUE_FULL)
