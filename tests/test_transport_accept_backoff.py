"""The kernel is short of something: descriptors, memory, buffers.

Mostly a whole `uproxy run` per engine, whose system calls fail as the tests want.  Whatever is
short, accepting goes on when it can, never spins and never dies; who waits in the kernel's queue
is served late, and a failure costs the one connection that it hits.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import engines, traffic
from tests.helpers.background import background
from tests.helpers.endings import metric
from tests.helpers.engines import RecordingDoor
from tests.helpers.faults import Faults
from uproxy import sockets
from uproxy.contract import Engine, Refusal
from uproxy.lab.mesh import WEB, FileWorld
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import eventually, wait_until
from uproxy.model import Direction, Outcome, TcpAddress
from uproxy.transport.accept_backoff import LOG_AGAIN, LOOP_BEHIND, AcceptBackoff

engine = engines.engine

SHORTAGES = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
BUSY = 0.3
"""Seconds of CPU time in one of shortage: far less than a loop that spins, far more than one
that waits."""


class Subject(Uproxy):
    """A uProxy with a door in the clear, `port`, to an application that echoes."""

    def __init__(
        self, engine: str, folder: Path, identity: dict[str, Any], app: int, **settings: Any
    ) -> None:
        self.faults = Faults(folder)
        self.callers: list[socket.socket] = []
        self.port = free_port()
        self.app = f"127.0.0.1:{app}"
        config = {
            "engine": engine,
            "identity": identity,
            "outbound": [{"listen": f"127.0.0.1:{self.port}", "to": "app"}],
            "destinations": {"app": {"addresses": [self.app], "transport": "plaintext"}},
            **settings,
        }
        super().__init__(config, folder / "uproxy", env=self.faults.env)

    def begin(self) -> None:
        """A test begins: what was before isn't its business."""
        self._counted = 0.0
        self._counted = self.refused()
        self._begun = len(self.lines)

    def end(self) -> None:
        """A test ends: its callers go."""
        for caller in self.callers:
            caller.close()
        self.callers.clear()
        wait_until(lambda: not self.open_connections(), "no connection")
        assert self.running
        assert not self.told("a defect"), self.output

    def open_connections(self) -> float:
        opened = metric(self, "istio_tcp_connections_opened_total")
        return opened - metric(self, "istio_tcp_connections_closed_total")

    def dial(self) -> socket.socket:
        caller = socket.socket()
        self.callers.append(caller)
        caller.settimeout(10)
        caller.bind(("127.0.0.1", 0))
        self._last_port = caller.getsockname()[1]  # while it has one
        caller.connect(("127.0.0.1", self.port))
        caller.sendall(b"patient")
        return caller

    def refused(self) -> float:
        """Shortages counted since `begin`."""
        counted = metric(self, "uproxy_limit_refusals_total", limit="descriptors")
        return counted - self._counted

    def told(self, words: str) -> list[str]:
        """Messages since `begin` that have these words."""
        messages = (str(line["message"]) for line in self.lines[self._begun :])
        return [message for message in messages if words in message]

    def cpu_time(self) -> float:
        """Seconds so far, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_time_in_a_second(self) -> float:
        before = self.cpu_time()
        time.sleep(1.0)  # what is measured
        return self.cpu_time() - before

    def ending(self) -> tuple[str, str]:
        """Outcome and reason of the end of whom `dial` made last."""
        source = f"127.0.0.1:{self._last_port}"
        (line,) = wait_until(
            lambda: [line for line in self.accesses if line.get("src.addr") == source],
            "its access line",
        )
        return line["outcome"], line["error"]


@pytest.fixture(scope="module")
def app() -> Iterator[int]:
    with background(traffic.echo) as port:
        yield port


@contextmanager
def running(engine: str, folder: Path, app: int) -> Iterator[Subject]:
    subject = subject_of(engine, folder, app)
    with closing(subject.faults), started(subject):
        yield subject


def subject_of(engine: str, folder: Path, app: int, **settings: Any) -> Subject:
    return Subject(engine, folder, FileWorld(folder / "world").ours(WEB), app, **settings)


@contextmanager
def started(subject: Subject) -> Iterator[None]:
    with subject:
        subject.wait_until_ready()
        yield
    assert "Traceback" not in subject.output, subject.output


@pytest.fixture(scope="module", params=["native", "python"])
def lasting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, app: int
) -> Iterator[Subject]:
    """Outlives every shortage of this module."""
    with running(request.param, tmp_path_factory.mktemp("lasting"), app) as subject:
        yield subject


@pytest.fixture
def subject(lasting: Subject) -> Iterator[Subject]:
    lasting.begin()
    yield lasting
    lasting.end()


def is_served(caller: socket.socket) -> bool:
    """Whether what it said comes back."""
    heard = b""
    while len(heard) < 7 and (more := caller.recv(7 - len(heard))):
        heard += more
    return heard == b"patient"


def is_reset(caller: socket.socket) -> bool:
    try:
        caller.recv(1)
    except ConnectionResetError:
        return True
    return False


def is_refused(subject: Subject) -> bool:
    """Whether a new caller is reset, which may come at any moment."""
    try:
        return is_reset(subject.dial())
    except (ConnectionResetError, BrokenPipeError):
        return True


@pytest.mark.parametrize("error", SHORTAGES, ids=errno.errorcode.get)
def test_a_shortage_is_waited_out_and_then_everybody_is_served(
    subject: Subject, error: int
) -> None:
    with subject.faults.failing("accept", error, port=subject.port):
        waiting = [subject.dial() for _ in range(5)]
        wait_until(lambda: subject.faults.failed("accept") >= 2, "another attempt")
        attempts = subject.faults.failed("accept")
        assert subject.cpu_time_in_a_second() < BUSY
        assert subject.faults.failed("accept") - attempts < 100
        assert subject.status("/readyz") == 200
        assert subject.refused() >= 1
    assert all(is_served(caller) for caller in waiting)
    assert is_served(subject.dial())
    assert len(subject.told(os.strerror(error).lower())) == 1


def test_without_a_descriptor_left_accepting_waits_and_says_what_to_raise(
    subject: Subject,
) -> None:
    soft, hard = resource.prlimit(subject.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(subject.pid, resource.RLIMIT_NOFILE, (3, hard))
    waiting = [subject.dial() for _ in range(5)]
    wait_until(lambda: subject.told("raise LimitNOFILE"), "the way out")
    assert subject.cpu_time_in_a_second() < BUSY
    resource.prlimit(subject.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert all(is_served(caller) for caller in waiting)
    assert subject.refused() >= 1


def test_who_was_gone_before_it_was_accepted_costs_nothing(subject: Subject) -> None:
    with subject.faults.failing("accept", errno.ECONNABORTED, port=subject.port, times=5):
        assert is_served(subject.dial())
    assert subject.faults.failed("accept") == 5
    assert subject.refused() == 0
    assert not subject.told("accepting")


@pytest.mark.parametrize("name", ["native", "python"])
def test_a_shortage_does_not_hold_up_the_end(name: str, tmp_path: Path, app: int) -> None:
    with (
        running(name, tmp_path, app) as subject,
        subject.faults.failing("accept", errno.ENFILE, port=subject.port),
        subject.dial(),
    ):
        wait_until(lambda: subject.faults.failed("accept"), "a shortage")
        subject.send(signal.SIGTERM)
        assert subject.wait() == 0


def test_a_shortage_that_lasts_is_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    shortage, now, pauses = AcceptBackoff(), 100.0, []
    while now < 100.0 + 1.5 * LOG_AGAIN:
        pauses.append(shortage.pause(errno.EMFILE, now))
        now += pauses[-1]
    assert pauses[:6] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert set(pauses[5:]) == {1.0}
    assert len(caplog.records) == 2
    assert "raise LimitNOFILE" in caplog.text
    assert shortage.pause(errno.ENFILE, now) == 1.0
    assert "raise fs.file-max" in caplog.text
    assert shortage.pause(errno.ENFILE, now + 60.0) == 0.05
    assert [shortage.pause(LOOP_BEHIND, now + 60.0 + each) for each in (0.1, 0.2, 0.3)] == [
        0.05
    ] * 3
    assert "a flood of arrivals" in caplog.text


async def test_a_door_can_be_closed_while_accepting_waits(engine: Engine) -> None:
    """Who waits in its queue can't be taken any more, and hears so at once."""
    door = RecordingDoor(Direction.OUTBOUND, Refusal(Outcome.DENIED, "no"))
    listener = sockets.listen(TcpAddress("127.0.0.1", 0))
    opened = engine.open(listener, door)
    with socket.socket() as waiting:
        waiting.settimeout(10)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            waiting.connect(listener.getsockname())
            await eventually(lambda: engine.refused()["descriptors"], "a shortage")
            async with asyncio.timeout(5):
                await opened.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert is_reset(waiting)
    assert not door.endings


@pytest.mark.parametrize("error", SHORTAGES, ids=errno.errorcode.get)
def test_without_a_socket_to_dial_with_one_connection_fails(subject: Subject, error: int) -> None:
    with subject.faults.failing("socket", error):
        assert is_refused(subject)
        outcome, reason = subject.ending()
    assert outcome == "connect_failed"
    assert subject.app in reason
    if error in (errno.EMFILE, errno.ENFILE):
        assert "no descriptor left" in reason
    else:
        assert os.strerror(error).lower() in reason.lower()
    assert is_served(subject.dial())


@pytest.mark.parametrize(
    "error", [errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL], ids=errno.errorcode.get
)
def test_a_connect_that_fails_at_once_costs_one_connection(subject: Subject, error: int) -> None:
    with subject.faults.failing("connect", error):
        assert is_refused(subject)
        outcome, reason = subject.ending()
    assert outcome == "connect_failed"
    assert subject.app in reason
    assert is_served(subject.dial())


@pytest.mark.parametrize(
    "lasting", ["native"], indirect=True
)  # the Python engine calls it a defect
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC], ids=errno.errorcode.get)
def test_who_cannot_be_watched_is_sent_away(subject: Subject, error: int) -> None:
    """fs.epoll.max_user_watches is a limit too."""
    with subject.faults.failing("epoll_ctl", error, port=subject.port):
        assert is_refused(subject)
        assert subject.faults.failed("epoll_ctl") == 1
        subject.ending()
    assert is_served(subject.dial())


def test_whoever_waits_is_served_though_accepting_could_not_go_on_at_first(
    subject: Subject,
) -> None:
    """The listener can't be watched again after a shortage, by any of its threads."""
    with subject.faults.failing("epoll_ctl", errno.ENOSPC, port=subject.port):
        with subject.faults.failing("accept", errno.EMFILE, port=subject.port):
            waiting = [subject.dial() for _ in range(5)]
            wait_until(lambda: subject.faults.failed("epoll_ctl"), "a listener not watched")
        attempts = subject.faults.failed("epoll_ctl")
        wait_until(lambda: subject.faults.failed("epoll_ctl") > attempts + 1, "another attempt")
        wait_until(lambda: subject.told("no space left on device"), "the reason")
        assert subject.status("/readyz") == 200
    assert all(is_served(caller) for caller in waiting)
    assert is_served(subject.dial())


def test_accepting_pauses_while_one_thread_of_two_cannot_watch_the_listener(
    tmp_path: Path, app: int
) -> None:
    """It would never accept, and the other would have everybody."""
    subject = subject_of("native", tmp_path, app, workers=2)
    with (
        closing(subject.faults),
        subject.faults.failing("epoll_ctl", errno.ENOSPC, port=subject.port, times=1),
        started(subject),
    ):
        subject.begin()
        assert is_served(subject.dial())
        assert subject.faults.failed("epoll_ctl") == 1
        wait_until(lambda: "callers wait: no space left on device" in subject.output, "the reason")
        subject.end()


@pytest.mark.parametrize(("call", "error"), [("recv", errno.ENOMEM), ("send", errno.ENOBUFS)])
def test_a_failure_in_mid_relay_costs_that_connection_only(
    subject: Subject, call: str, error: int
) -> None:
    other, hit = subject.dial(), subject.dial()
    for caller in (other, hit):
        assert caller.recv(7) == b"patient"
    with subject.faults.failing(call, error, port=subject.port, times=1):
        hit.sendall(b"unlucky")
        assert is_reset(hit)
    outcome, reason = subject.ending()
    assert outcome == "reset"
    assert os.strerror(error).lower() in reason.lower()
    other.sendall(b"patient")
    assert is_served(other)
