"""The self-test of short-circuiting: a connection to ourselves, its ends put into the maps.

Kernels differ in what they get wrong about sockets in a map.  Everything that a workload could
notice is tried: it takes some milliseconds, and nothing outside is changed.
"""

from __future__ import annotations

import array
import contextlib
import enum
import fcntl
import select
import signal
import socket
import struct
import termios
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from uproxy.capture import bpf, contents
from uproxy.capture.layout import Stat, pair_key
from uproxy.errors import UproxyError

_ENOUGH: Final = 4 << 20
"""Bytes that a writer may get rid of while nobody reads: with the buffers of the pair far less."""
_BUFFER: Final = 1 << 16
_CHUNK: Final = 1 << 12
_EARLY: Final = b"early"
"""What is sent before the ends are in the maps."""
_PATIENCE_S: Final = 2.0
_SOON_S: Final = 0.05


class RehearsalError(UproxyError):
    """This kernel doesn't short-circuit as it should; the message says what went wrong."""


class Flaw(enum.StrEnum):
    """What a kernel may get wrong, and a workload may never notice, by the word for it."""

    FIONREAD = "fionread"
    BLOCKING = "blocking"

    @property
    def words(self) -> str:
        """What is wrong."""
        return {
            Flaw.FIONREAD: "FIONREAD tells the workload 0 where bytes wait",
            Flaw.BLOCKING: "recv() of a socket that blocks ends with EAGAIN when a signal comes",
        }[self]


@dataclass(frozen=True, slots=True)
class _Pair:
    workload: socket.socket
    proxy: socket.socket


def rehearse(maps: Mapping[str, int]) -> list[Flaw]:
    """Try everything on connections that are put into the maps; return what can be borne.

    Raises:
        RehearsalError: something else isn't as it is with TCP alone.
    """
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        if family == socket.AF_INET6 and not _has_loopback(address):
            continue
        with _paired(maps, family, address, _EARLY) as pair:
            _try_order(pair)
            _try_bytes(pair, maps)
            _try_halves(pair)
        with _paired(maps, family, address) as pair:
            _try_slow_reader(pair)
    with _paired(maps, socket.AF_INET, "127.0.0.1") as pair:
        tried = ((Flaw.FIONREAD, _counts_unread(pair)), (Flaw.BLOCKING, _outwaits_signal(pair)))
        _try_reset(pair)
    return [flaw for flaw, is_right in tried if not is_right]


def _has_loopback(address: str) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind((address, 0))
        return True
    return False


@contextlib.contextmanager
def _paired(
    maps: Mapping[str, int], family: int, address: str, early: bytes = b""
) -> Iterator[_Pair]:
    """Connect two sockets, as a workload and a proxy have them, and put them into the maps."""
    with socket.socket(family) as listener, socket.socket(family) as workload:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        workload.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        listener.bind((address, 0))
        listener.listen()
        workload.settimeout(_PATIENCE_S)
        try:
            workload.connect(listener.getsockname())
        except OSError as error:
            raise RehearsalError(f"no connection over loopback ({error})") from None
        proxy, _ = listener.accept()
        with proxy:
            proxy.settimeout(_PATIENCE_S)
            workload.sendall(early)
            for name, end in (("senders", workload), ("receivers", proxy)):
                local, remote = end.getsockname()[:2], end.getpeername()[:2]
                bpf.update(maps[name], pair_key(local, remote), struct.pack("=Q", end.fileno()))
            yield _Pair(workload, proxy)


def _try_order(pair: _Pair) -> None:
    """What came through TCP and wasn't read yet stays before what is written later."""
    late = bytes(_CHUNK)
    pair.workload.sendall(late)
    _expect(_read(pair.proxy, len(_EARLY + late)), _EARLY + late, "what TCP still has")


def _try_bytes(pair: _Pair, maps: Mapping[str, int]) -> None:
    """Bytes arrive both ways, in order, and are announced."""
    before = contents.read_stats(maps["stats"])[Stat.HANDED_OVER]
    for number in range(8):
        pair.workload.sendall(b"%d" % number * 9)
    if contents.read_stats(maps["stats"])[Stat.HANDED_OVER] == before:
        raise RehearsalError("nothing is short-circuited")
    _await(pair.proxy, "what the workload writes")
    _expect(_read(pair.proxy, 72), b"".join(b"%d" % n * 9 for n in range(8)), "what it writes")
    pair.proxy.sendall(b"answer")
    _await(pair.workload, "what the workload is sent")
    _expect(_read(pair.workload, 6), b"answer", "what it is sent")


def _try_halves(pair: _Pair) -> None:
    """The end comes after the bytes, and the other direction stays open."""
    pair.workload.sendall(b"last")
    pair.workload.shutdown(socket.SHUT_WR)
    _expect(_read(pair.proxy, 5), b"last", "the last bytes before shutdown()")
    try:
        pair.workload.send(b"too late")
    except BrokenPipeError:
        pass
    else:
        raise RehearsalError("the workload may write after shutdown()")
    pair.proxy.sendall(b"answer")
    pair.proxy.shutdown(socket.SHUT_WR)
    _expect(_read(pair.workload, 7), b"answer", "the answer after shutdown()")


def _try_slow_reader(pair: _Pair) -> None:
    """A writer is stopped while nobody reads; then everything is there, in order."""
    sent = bytearray()
    pair.workload.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while len(sent) < _ENOUGH:
            number = len(sent) // _CHUNK
            chunk = struct.pack("=I", number) * (_CHUNK // 4)
            sent += chunk[: pair.workload.send(chunk)]
    if len(sent) >= _ENOUGH:
        raise RehearsalError(f"a writer gets rid of {_ENOUGH} bytes that nobody reads")
    _expect(_read(pair.proxy, len(sent)), bytes(sent), "what waited for its reader")


def _counts_unread(pair: _Pair) -> bool:
    """Whether FIONREAD tells the workload how many bytes wait."""
    pair.proxy.sendall(b"answer")
    _await(pair.workload, "what the workload is sent")
    found = array.array("i", [0])
    fcntl.ioctl(pair.workload, termios.FIONREAD, found)
    return found[0] == len(_read(pair.workload, 6))


def _outwaits_signal(pair: _Pair) -> bool:
    """Whether the workload waits on for bytes when a signal comes."""
    before = signal.signal(signal.SIGALRM, lambda *_: pair.proxy.sendall(b"after"))
    pair.workload.settimeout(None)
    try:
        signal.setitimer(signal.ITIMER_REAL, _SOON_S)
        _expect(pair.workload.recv(5), b"after", "what it is sent after a signal")
    except BlockingIOError:
        _read(pair.workload, 5)
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return True


def _try_reset(pair: _Pair) -> None:
    pair.proxy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.proxy.close()
    pair.workload.settimeout(_PATIENCE_S)
    try:
        pair.workload.recv(1)
    except ConnectionResetError:
        return
    except TimeoutError:
        pass
    raise RehearsalError("the workload doesn't notice a reset")


def _await(end: socket.socket, what: str) -> None:
    """Wait for epoll to announce bytes."""
    with select.epoll() as poll:
        poll.register(end, select.EPOLLIN)
        if not poll.poll(_PATIENCE_S):
            raise RehearsalError(f"epoll doesn't announce {what}")


def _read(end: socket.socket, size: int) -> bytes:
    """Read so many bytes, or to the end."""
    found = bytearray()
    try:
        while len(found) < size and (data := end.recv(size - len(found))):
            found += data
    except TimeoutError:
        raise RehearsalError(f"after {len(found)} bytes no more arrive") from None
    return bytes(found)


def _expect(found: bytes, wanted: bytes, what: str) -> None:
    if found != wanted:
        raise RehearsalError(f"{what} arrives as something else")
