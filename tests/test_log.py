from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.helpers.connections import FakeConnection, arrival, ending, known
from uproxy.accesslog import AccessRecord, access_record
from uproxy.config.settings import LogSettings
from uproxy.errors import UproxyError
from uproxy.lab.waiting import wait_until
from uproxy.lifecycle import State
from uproxy.log import Log, alike, pipe
from uproxy.log.lines import Event, json_line, text_line
from uproxy.log.pipe import QUEUE_LINES
from uproxy.log.ratelimit import MAX_KINDS, MAX_LOGGED, WINDOW_S, RateLimit
from uproxy.model import Outcome, TcpAddress

_log = logging.getLogger("uproxy.test")


def record(outcome: Outcome = Outcome.CLOSED, host: str = "10.0.0.1") -> AccessRecord:
    connection = FakeConnection(arrival(source=TcpAddress(host, 1)))
    end = ending(outcome, State.RELAYING)
    return access_record(known(), connection, end)


class Reader:
    """The other end of standard output: reads only when told to."""

    def __init__(self) -> None:
        self.read_fd, self.fd = os.pipe()

    def lines(self) -> list[str]:
        """Everything until the writing end is closed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        with os.fdopen(self.read_fd, closefd=False) as file:
            return file.read().splitlines()

    def fill(self) -> None:
        """Leave no room in the pipe."""
        os.set_blocking(self.fd, False)
        try:
            while True:
                os.write(self.fd, b"\n" * 4096)
        except BlockingIOError:
            os.set_blocking(self.fd, True)

    def close(self) -> None:
        os.close(self.read_fd)
        if self.fd >= 0:
            os.close(self.fd)


@contextmanager
def logging_to(
    reader: Reader, settings: LogSettings = LogSettings(), lines: int = QUEUE_LINES
) -> Iterator[Log]:
    log = Log(settings, "orders", fd=reader.fd, lines=lines)
    log.start()
    try:
        yield log
    finally:
        log.finish()


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.close()


def test_a_json_line_has_time_level_scope_message_and_name(reader: Reader) -> None:
    with logging_to(reader):
        _log.info("hello %s", "world")
    [line] = map(json.loads, reader.lines())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info", "scope": "uproxy.test", "message": "hello world", "name": "orders",
    }  # fmt: skip


def test_a_text_line_reads_from_left_to_right(reader: Reader) -> None:
    with logging_to(reader, LogSettings(format="text")):
        _log.warning("watch out")
    [line] = reader.lines()
    assert line.split(" ", 1)[1] == "warning uproxy.test: watch out name=orders"


def test_an_access_line_has_the_records_fields_in_order(reader: Reader) -> None:
    with logging_to(reader) as log:
        log.access(record())
    [line] = map(json.loads, reader.lines())
    fields = [name for name, _ in record().fields]
    assert [name for name in line if name in fields] == fields
    assert line["scope"] == "access"
    assert line["outcome"] == "closed"
    assert line["error"] is None


def test_the_access_setting_chooses_and_the_level_does_not_matter(reader: Reader) -> None:
    with logging_to(reader, LogSettings(access="denied", level="error")) as log:
        log.access(record())
        log.access(record(Outcome.DENIED))
        assert (log.wants(Outcome.DENIED), log.wants(Outcome.CLOSED)) == (True, False)
        log.configure(LogSettings(access="none"))
        assert not log.wants(Outcome.DENIED)
        log.access(record(Outcome.DENIED))
    assert [json.loads(line)["outcome"] for line in reader.lines()] == ["denied"]


def test_the_level_can_be_changed_while_running(reader: Reader) -> None:
    with logging_to(reader) as log:
        _log.debug("not this")
        log.set_level("debug")
        assert log.level_word == "debug"
        _log.debug("but this")
        log.set_level("error")
        _log.warning("nor that")
        with pytest.raises(KeyError):
            log.set_level("loud")
    assert [json.loads(line)["message"] for line in reader.lines()] == ["but this"]


def test_a_library_is_heard_from_warnings_up_only(reader: Reader) -> None:
    with logging_to(reader, LogSettings(level="debug")):
        logging.getLogger("hpack").info("table size")
        logging.getLogger("asyncio").warning("slow callback")
    assert [json.loads(line)["scope"] for line in reader.lines()] == ["asyncio"]


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", False)])
def test_a_traceback_is_for_debugging_only(reader: Reader, level: str, shown: bool) -> None:
    with logging_to(reader, LogSettings(level=level)):
        try:
            raise ValueError("wrong\nvalue")
        except ValueError:
            _log.exception("it failed")
    [line] = map(json.loads, reader.lines())
    assert ("Traceback" in line["error"]) == shown
    assert "ValueError: wrong\nvalue" in line["error"]


def test_a_blocked_standard_output_blocks_nobody_and_drops_are_counted_and_said(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, real = threading.Event(), os.write

    def write(fd: int, data: memoryview) -> int:
        if fd == reader.fd:
            begun.set()
        return real(fd, data)

    with logging_to(reader, lines=5) as log:
        reader.fill()
        monkeypatch.setattr(os, "write", write)
        _log.info("line 0")
        assert begun.wait(10), "the writer has taken the first line"
        for number in range(1, 200):
            _log.info("line %d", number)
        before = log.dropped
        assert before == 199 - 5
        log.access(record())
        assert log.dropped == before + 1
        told: list[str] = []
        drain = threading.Thread(target=lambda: told.extend(iter_lines(reader.read_fd)))
        drain.start()
        log.finish(timeout=10)
        os.close(reader.fd)
        reader.fd = -1
        drain.join()
    messages = [json.loads(line)["message"] for line in told if line]
    assert f"{before + 1} log lines were dropped: standard output is blocked" in messages
    assert len([message for message in messages if message.startswith("line ")]) == 200 - before


def test_lines_that_wait_are_written_together_but_no_more_than_a_pipe_takes_whole(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    begun, may_go_on = threading.Event(), threading.Event()
    real = os.write

    def write(fd: int, data: memoryview) -> int:
        if fd != reader.fd:
            return real(fd, data)
        written.append(bytes(data))
        begun.set()
        may_go_on.wait(10)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    with logging_to(reader):
        _log.info("first")
        assert begun.wait(10)
        for number in range(100):
            _log.info("line %d", number)
        _log.info("x" * 2 * pipe.BATCH_BYTES)
        may_go_on.set()
    first, *batches, long = written
    assert first.count(b"\n") == long.count(b"\n") == 1
    assert all(batch.endswith(b"\n") and len(batch) <= pipe.BATCH_BYTES for batch in batches)
    assert len(batches) < 10
    lines = b"".join(batches).splitlines()
    assert [json.loads(line)["message"] for line in lines] == [f"line {n}" for n in range(100)]


def test_drops_are_said_though_there_is_always_another_line(tmp_path: Path) -> None:
    file = tmp_path / "log"
    ahead = list(range(400))

    def line() -> str:
        if ahead:
            ahead.pop()
            written.put(line)
        return 99 * "x"

    with file.open("wb") as output:
        written = pipe.Pipe(output.fileno(), drop_line=str, on_idle=lambda: None, lines=2)
        for _ in range(5):
            written.put(line)
        written.start()
        wait_until(lambda: not ahead, "the last line")
        written.close(10)
    lines = file.read_text().splitlines()
    assert lines.count("3") == 1
    assert lines.index("3") <= pipe.BATCH_BYTES // 100


def iter_lines(fd: int) -> Iterator[str]:
    with os.fdopen(fd, closefd=False) as file:
        yield from map(str.rstrip, file)


def test_finishing_waits_no_longer_than_told_for_a_blocked_output(reader: Reader) -> None:
    log = Log(LogSettings(), "orders", fd=reader.fd)
    log.start()
    reader.fill()
    _log.info("stuck")
    log.finish(timeout=0.05)
    logging.getLogger().removeHandler(log)
    assert "stuck" in "".join(iter_lines_until(reader, "stuck"))


def iter_lines_until(reader: Reader, word: str) -> Iterator[str]:
    with os.fdopen(reader.read_fd, closefd=False) as file:
        for line in file:
            yield line
            if word in line:
                return


def test_a_closed_standard_output_loses_lines_and_nothing_else(reader: Reader) -> None:
    other, reader.read_fd = reader.read_fd, os.open(os.devnull, os.O_RDONLY)
    os.close(other)
    with logging_to(reader) as log:
        _log.info("nobody reads this")
        _log.info("nor this")
        wait_until(lambda: log.dropped == 2, "both lines to be counted as lost")


def test_repeated_failures_are_summed_up_by_kind(reader: Reader) -> None:
    with logging_to(reader) as log:
        for _ in range(MAX_LOGGED + 30):
            log.access(record(Outcome.DENIED))
        log.access(record(Outcome.DENIED, host="10.0.0.9"))
        for _ in range(50):
            log.access(record())
    lines = [json.loads(line) for line in reader.lines()]
    denied = [line for line in lines if line.get("outcome") == "denied"]
    assert len(denied) == MAX_LOGGED + 1
    assert len([line for line in lines if line.get("outcome") == "closed"]) == 50
    [summary] = [line for line in lines if "count" in line]
    assert summary["count"] == 30
    assert summary["message"] == "30 more connections failed alike"
    assert summary["kind"] == "denied relaying 10.0.0.1"


def test_lines_that_strangers_can_repeat_are_summed_up_by_what_their_writer_says(
    reader: Reader,
) -> None:
    with logging_to(reader):
        for number in range(MAX_LOGGED + 30):
            _log.info("shadow rule %s: %d", "one", number, extra=alike("shadow rule", "one"))
        _log.info("shadow rule %s: %d", "two", 0, extra=alike("shadow rule", "two"))
        for number in range(MAX_LOGGED + 5):
            _log.info("a mistake: %d", number)
    lines = [json.loads(line) for line in reader.lines()]
    said = [line["message"] for line in lines]
    assert len([each for each in said if each.startswith("shadow rule one")]) == MAX_LOGGED
    assert len([each for each in said if each.startswith("a mistake")]) == MAX_LOGGED + 5
    assert "shadow rule two: 0" in said
    [summary] = [line for line in lines if "count" in line]
    assert summary["message"] == "30 more lines were alike"
    assert (summary["scope"], summary["kind"]) == ("uproxy.log", "lines shadow rule one")


@pytest.mark.parametrize("name", ["uproxy.test", "asyncio"])
def test_what_fails_for_each_stranger_and_what_libraries_repeat_is_summed_up(
    reader: Reader, name: str
) -> None:
    with logging_to(reader):
        for number in range(MAX_LOGGED + 30):
            try:
                raise ValueError(number)
            except ValueError:
                logging.getLogger(name).exception("a defect ended connection %d", number)
    lines = [json.loads(line) for line in reader.lines()]
    assert len(lines) == MAX_LOGGED + 1
    assert lines[-1]["count"] == 30


def test_a_library_is_summed_up_whatever_it_says(reader: Reader) -> None:
    with logging_to(reader):
        for number in range(MAX_LOGGED + 30):
            logging.getLogger("asyncio").error(f"accepting {number} failed")
    assert len(reader.lines()) == MAX_LOGGED + 1


@pytest.mark.parametrize(
    ("level", "access", "shown"),
    [("info", "all", False), ("debug", "all", True), ("debug", "denied", False)],
)
def test_a_probe_is_for_debugging_only(
    reader: Reader, level: str, access: str, shown: bool
) -> None:
    with logging_to(reader, LogSettings(level=level, access=access)) as log:
        assert log.wants(Outcome.PROBED) == shown
        log.access(record(Outcome.PROBED))
    levels = [json.loads(line)["level"] for line in reader.lines()]
    assert levels == (["debug"] if shown else [])


def test_a_summary_comes_when_its_window_is_over_without_another_event(reader: Reader) -> None:
    now = [0.0]
    log = Log(LogSettings(), "orders", fd=reader.fd, clock=lambda: now[0])
    log.start()
    for _ in range(MAX_LOGGED + 1):
        log.access(record(Outcome.DENIED))
    now[0] = WINDOW_S
    assert "1 more connections" in "".join(iter_lines_until(reader, "failed alike"))
    log.finish()


def test_the_first_few_of_a_window_pass_and_the_next_window_begins_anew() -> None:
    limit = RateLimit()
    kind = ("denied", "r", "p")
    assert [limit.allows(kind, 0.0) for _ in range(MAX_LOGGED + 2)].count(True) == MAX_LOGGED
    assert limit.close_windows(WINDOW_S - 0.1) == []
    assert limit.close_windows(WINDOW_S) == [(kind, 2)]
    assert limit.allows(kind, WINDOW_S)
    assert limit.close_windows(3 * WINDOW_S) == []


def test_a_peer_with_ever_new_names_fills_no_memory_and_no_log() -> None:
    limit = RateLimit()
    passed = [limit.allows(("denied", "r", str(number)), 0.0) for number in range(5 * MAX_KINDS)]
    assert passed.count(True) == MAX_KINDS + MAX_LOGGED
    assert limit.close_windows(WINDOW_S) == [
        (("many different failures",), 4 * MAX_KINDS - MAX_LOGGED)
    ]


@given(st.text(), st.text(), st.sampled_from((json_line, text_line)))
@example("del \x7f", "\x9b2J \u2028 \u202e \ud800", json_line)
@example("del \x7f", "\x9b2J \u2028 \u202e \ud800", text_line)
def test_no_value_breaks_its_line(message: str, value: str, render: object) -> None:
    assert render in (json_line, text_line)
    event = Event(0.0, "info", "x", message, (("key", value), ("none", None)))
    line = json_line(event) if render is json_line else text_line(event)
    assert line.isprintable()
    if render is json_line:
        assert json.loads(line)["message"] == message
        assert json.loads(line)["key"] == value


@given(st.text())
def test_a_text_value_cannot_pretend_to_be_another_field(value: str) -> None:
    line = text_line(Event(0.0, "info", "x", "m", (("key", value), ("last", "z"))))
    rest = line.partition(" key=")[2]
    assert rest.endswith(" last=z")
    shown = rest.removesuffix(" last=z")
    if shown.startswith('"'):
        inside = shown[1:-1].replace("\\\\", "").replace('\\"', "")
        assert '"' not in inside
    else:
        assert " " not in shown


def test_without_a_thread_for_the_log_it_says_which_limit(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    log = Log(LogSettings(), "orders", fd=reader.fd)
    with pytest.raises(UproxyError, match=r"no thread for the log .*ulimit -u"):
        log.start()
