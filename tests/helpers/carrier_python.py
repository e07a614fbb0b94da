"""A carrier for the Python engine's relay: two sides over one channel.

It shows that a relay needs no more of a side than `side.Side` says: nothing of the relay knows
that the side has no socket of its own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from tests.helpers.carrier_peer import (
    CREDIT,
    DATA,
    END,
    MAX_PAYLOAD,
    RESET,
    STREAMS,
    WINDOW,
    credit,
    frame,
    take_frames,
)
from uproxy.contract import RefusedError
from uproxy.libssl import Buffer
from uproxy.transport.poller import BROKEN, HUNG_UP, READ, WRITE, Poller
from uproxy.transport.python.channel import Channel
from uproxy.transport.python.relay import Relay
from uproxy.transport.python.side import ChannelSide, OnReady


class CarriedSide:
    """One stream, as the relay sees it (`side.Side`)."""

    who = "the peer"
    must_read_first = False
    shown = None

    def __init__(self, carrier: Carrier, number: int) -> None:
        self.failure: OSError | None = None
        self._carrier = carrier
        self._number = number
        self._received = bytearray()
        self._ended = False
        self._output = bytearray()  # waits for credit
        self._credit = WINDOW
        self._finishing = False
        self._on_ready: OnReady | None = None
        self._reading = False

    @property
    def unsent(self) -> int:
        return len(self._output) + self._carrier.channel.unsent

    @property
    def undelivered(self) -> int:
        return 0 if self.failure else WINDOW - self._credit

    @property
    def pending(self) -> bool:
        return bool(self._received) or self._ended or self.failure is not None

    def read(self) -> Buffer | None:
        data = bytes(self._received)
        self._received.clear()
        if data:
            if self.failure is None:
                self._carrier.send(credit(self._number, len(data)))
            return data
        if self.failure is not None:
            raise self.failure
        return b"" if self._ended else None

    def write(self, data: Buffer) -> None:
        if self.failure is not None:
            raise self.failure
        self._output += data
        self._send()

    def finish(self, *, in_order: bool = True) -> None:
        if in_order:
            self._finishing = True
            self._send()
        elif self.failure is None:
            self._carrier.send(frame(self._number, RESET))
            self.lose(ConnectionResetError("we have reset it"))

    def want(self, reading: bool, _writing: bool, on_ready: OnReady) -> None:
        self._reading, self._on_ready = reading, on_ready

    def lose(self, error: OSError) -> None:
        self.failure = self.failure or error
        self._output.clear()

    def on_frame(self, kind: int, payload: bytes) -> None:
        if kind == DATA:
            self._received += payload
            assert len(self._received) <= WINDOW, "more came than there was credit for"
        elif kind == END:
            self._ended = True
        elif kind == RESET:
            self.lose(ConnectionResetError(104, ""))
        elif kind == CREDIT:
            self._credit += int.from_bytes(payload, "big")
            self._send()
        self.report(kind == CREDIT)

    def report(self, sent: bool) -> None:
        if self._on_ready is not None:
            self._on_ready(self._reading and self.pending, sent)

    def _send(self) -> None:
        while self._output and self._credit:
            size = min(len(self._output), self._credit, MAX_PAYLOAD)
            self._carrier.send(frame(self._number, DATA, bytes(self._output[:size])))
            del self._output[:size]
            self._credit -= size
        if self._finishing and not self._output:
            self._finishing = False
            self._carrier.send(frame(self._number, END))


class Carrier:
    """The channel, and the streams on it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.sides = {number: CarriedSide(self, number) for number in STREAMS}
        self._received = bytearray()
        self._watch()

    def send(self, data: bytes) -> None:
        try:
            self.channel.send(data)
        except OSError as error:
            self._lose(error)
        else:
            self._watch()

    def _watch(self) -> None:
        if self.channel.gone is None:
            writing = WRITE if self.channel.unsent else 0
            self.channel.watch(READ | writing, self._on_events)

    def _on_events(self, events: int) -> None:
        try:
            if events & WRITE and self.channel.unsent:
                self.channel.flush()
                for side in self.sides.values():
                    side.report(sent=True)
            if events & (READ | BROKEN | HUNG_UP):
                self._receive()
        except OSError as error:
            self._lose(error)
        self._watch()

    def _receive(self) -> None:
        received = self.channel.receive()
        if received is None:
            return
        if not received:
            raise ConnectionResetError(104, "")  # it has ended, and the streams haven't
        self._received += received
        for number, kind, payload in take_frames(self._received):
            self.sides[number].on_frame(kind, payload)

    def _lose(self, error: OSError) -> None:
        self.channel.lose(error)
        self.channel.mute()
        for side in self.sides.values():
            side.lose(error)
            side.report(sent=False)


class PythonRelays:
    """A relay between each application and its stream."""

    def __init__(self, applications: Sequence[socket.socket], carrier: socket.socket) -> None:
        self._poller = Poller()
        self._carrier = Carrier(Channel(self._poller, carrier, "the carrier"))
        self._sides = [
            ChannelSide(Channel(self._poller, each, "the application")) for each in applications
        ]
        self._tasks = [
            asyncio.create_task(self._run(side, self._carrier.sides[number]))
            for side, number in zip(self._sides, STREAMS, strict=True)
        ]

    async def ending(self, at: int) -> str | None:
        """Wait for the end of the relay of one application; return why it failed, None if both
        directions have ended in order."""
        return await asyncio.wait_for(asyncio.shield(self._tasks[at]), 20)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for side in self._sides:
            side.channel.close()
        self._carrier.channel.reset()
        self._poller.close()

    async def _run(self, application: ChannelSide, stream: CarriedSide) -> str | None:
        relay = Relay(application, stream)
        try:
            await relay.until_half_closed()
            await relay.until_closed()
        except RefusedError as no:
            # as a connection does it
            application.channel.reset()
            stream.finish(in_order=False)
            return no.refusal.reason
        application.channel.close()
        return None
