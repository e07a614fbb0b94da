"""`uproxy status` against a running admin server: once, as JSON, and as a live view."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.admin import RunningAdmin, connection_row, orders_facts
from uproxy import __version__
from uproxy.cli import main
from uproxy.cli.status import NOT_READY
from uproxy.cli.status_answer import configured_address, parse_address
from uproxy.errors import UsageError
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import wait_until
from uproxy.model import TcpAddress, UnixAddress
from uproxy.proxy.admin.vitals import Readiness

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture
def admin() -> Iterator[RunningAdmin]:
    with RunningAdmin(orders_facts()) as running:
        yield running


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:15000", TcpAddress("127.0.0.1", 15000)), ("[::1]:80", TcpAddress("::1", 80)),
     ("localhost:1", TcpAddress("localhost", 1)), ("unix:///run/x", UnixAddress("/run/x")),
     ("unix:/run/x", UnixAddress("/run/x"))],
)  # fmt: skip
def test_an_address_is_of_either_kind(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "15000", "localhost", ":15000", "::1:80", "x:y", "x:70000", "unix://x", "x:-1"]
)
def test_what_is_no_address_is_a_wrong_usage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="--admin"):
        parse_address(text)
    assert main(["status", f"--admin={text}"]) == 2
    assert capsys.readouterr().err.startswith("uproxy: error: --admin")


def test_it_shows_a_running_proxy(admin: RunningAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--admin", str(admin.listen().address)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("orders: ready")
    assert "spiffe://example.org/ns/web/sa/frontend" in shown
    assert "\x1b" not in shown


def test_it_shows_a_proxy_behind_a_unix_socket(
    admin: RunningAdmin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = UnixAddress(str(tmp_path / "admin.sock"))
    admin.listen(address)
    assert main(["status", "--admin", str(address), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["process"]["name"] == "orders"


def test_it_tells_where_it_asked(admin: RunningAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    address = admin.listen().address
    main(["status", "--admin", str(address)])
    assert f"asked at {address}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_only_a_ready_one_exits_0(
    admin: RunningAdmin, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    command = ["status", "--admin", str(admin.listen().address), *words]
    assert main(command) == 0
    admin.facts.ready = Readiness((), ("config_stale: x",))
    assert main(command) == 0
    admin.facts.ready = Readiness(("no identity yet: agent refused",))
    assert main(command) == NOT_READY
    assert "agent refused" in capsys.readouterr().out
    admin.facts.ready, admin.facts.silent = Readiness(), ("an engine thread doesn't answer",)
    assert main(command) == NOT_READY


def test_it_finds_the_uproxy_that_runs_a_file(
    admin: RunningAdmin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = admin.listen().address
    file, link = tmp_path / "orders.yaml", tmp_path / "link.yaml"
    # neither complete nor without mistakes: it was changed since
    file.write_text(f"admin: {{listen: '{address}'}}\nidentity: ${{NOBODY}}\nnaem: orders\n")
    link.symlink_to(file)
    admin.facts.config = str(file)
    for path in (file, link):
        assert main(["status", "--config", str(path)]) == 0
        assert f"asked at {address}" in capsys.readouterr().out


def test_a_uproxy_that_runs_another_file_is_not_taken_for_it(
    admin: RunningAdmin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, address = tmp_path / "orders.yaml", admin.listen().address
    file.write_text(f"admin: {{listen: '{address}'}}\n")
    assert main(["status", "--config", str(file)]) == 1
    assert capsys.readouterr().err == (
        f"uproxy: error: the uProxy at {address} runs /etc/uproxy/orders.yaml, not {file}: "
        "--admin ADDR asks whichever is there\n"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("admin: {listen: null}", "admin.listen is off"),
        ("admin: {listen: 'systemd:admin'}", "stands in its socket unit: give it by --admin"),
        ("admin: {listen: nowhere}", "{file}:1:17: error: admin.listen = 'nowhere': "),
        ("a: [", "{file}:1:5: error: is not YAML"),
    ],
)
def test_a_file_that_does_not_say_where_is_a_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file = tmp_path / "orders.yaml"
    file.write_text(text)
    assert main(["status", "--config", str(file)]) == 2
    told = capsys.readouterr().err
    assert words.format(file=file) in told
    assert "--admin ADDR" in told or "is off" in told
    assert told.count("\n") == 1


def test_every_address_of_the_machine_is_asked_on_loopback(tmp_path: Path) -> None:
    file = tmp_path / "orders.yaml"
    for listen, asked in (("0.0.0.0:9", "127.0.0.1:9"), ("[::]:9", "[::1]:9")):
        file.write_text(f"admin: {{listen: '{listen}'}}")
        assert str(configured_address(file, {})) == asked


def test_what_peers_say_does_not_reach_the_terminal(
    admin: RunningAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.facts.rows = (connection_row(identity="spiffe://x/\x1b]0;owned\x07\u202e\r\n"),)
    for words in ((), ("--json",)):
        assert main(["status", "--admin", str(admin.listen().address), *words]) == 0
        shown = capsys.readouterr().out
        assert "owned" in shown
        assert not set("\x1b\x07\u202e\r") & set(shown)
        assert "\\u001b" not in shown


def failure(address: object, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    assert main(["status", "--admin", str(address)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def test_nobody_there_is_one_line_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for address in (TcpAddress("127.0.0.1", free_port()), UnixAddress(str(tmp_path / "none"))):
        assert failure(address, capsys) == (
            f"uproxy: error: nothing answers at {address}: "
            "is uProxy running, and is admin.listen set?\n"
        )


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
     b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"",
     b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"now": 1}',
     b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n\x1b[2Jx\ny\n\n"],
)  # fmt: skip
def test_a_stranger_that_answers_is_not_taken_for_uproxy(
    answer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    told = failure_of(answer, capsys)
    assert "\x1b" not in told
    assert "answer" in told


def test_an_answer_of_another_version_that_cannot_be_shown_is_no_strangers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    body = b'{"now": 1, "process": {"versions": {"uproxy": "9.8.7"}}}'
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    told = failure_of(head + body, capsys)
    assert "the uProxy 9.8.7 at 127.0.0.1:" in told
    assert f"answers what uProxy {__version__} can't show (" in told


def failure_of(answer: bytes, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error where this is the answer."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def serve() -> None:
            client, _ = stranger.accept()
            with client:
                client.recv(4096)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        told = failure(TcpAddress("127.0.0.1", stranger.getsockname()[1]), capsys)
        thread.join()
    return told


def test_watching_into_a_pipe_repeats_the_plain_output(admin: RunningAdmin) -> None:
    command = [sys.executable, "-m", "uproxy", "status", "--watch"]
    address = str(admin.listen().address)
    with subprocess.Popen(
        [*command, "--admin", address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        titles = 0
        while titles < 2:
            line = watching.stdout.readline()
            assert "\x1b" not in line
            titles += line.startswith("orders: ready")
        watching.stdout.close()  # like `| head`
        assert watching.wait(20) == 0
        assert watching.stderr.read() == ""


class Screen:
    """A terminal with `uproxy status --watch` on it."""

    def __init__(self, address: object) -> None:
        self._ours, self._theirs = pty.openpty()
        self.resize(160, 50)
        self.before = termios.tcgetattr(self._theirs)
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        command = [sys.executable, "-m", "uproxy", "status", "--watch", "--admin", str(address)]
        self.process = subprocess.Popen(
            command, stdin=self._theirs, stdout=self._theirs, stderr=self._theirs,
            start_new_session=True,
        )  # fmt: skip

    def resize(self, columns: int, rows: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, size)

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def shows(self, pattern: str) -> str:
        """Wait until `pattern` is written, then forget all that was; return its first group."""
        found = wait_until(lambda: re.search(pattern, self._read()), f"{pattern!r} on the terminal")
        self.seen = ""
        return "" if found is None or not found.re.groups else found[1]

    def _read(self) -> str:
        while select.select([self._ours], [], [], 0)[0]:
            self.seen += self._decoder.decode(os.read(self._ours, 65536))
        return self.seen

    def ends_well(self) -> None:
        """It exits 0 and leaves the terminal as it was."""
        wait_until(lambda: self._read() and self.process.poll() is not None, "the view to end")
        assert self.process.returncode == 0
        assert self._read().endswith(LEAVE)
        assert termios.tcgetattr(self._theirs) == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def screen(admin: RunningAdmin) -> Iterator[Screen]:
    view = Screen(admin.listen().address)
    yield view
    view.close()


def test_the_live_view_moves_and_q_gives_the_terminal_back(
    admin: RunningAdmin, screen: Screen
) -> None:
    screen.shows("q quits")
    admin.facts.rows = (connection_row(1, identity="spiffe://a.b/new"),)
    screen.shows("spiffe://a.b/new")
    screen.press(b"q")
    screen.ends_well()


def test_a_resize_is_drawn_at_once_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("LINES", "99")
    monkeypatch.setenv("COLUMNS", "20")
    screen: Screen = request.getfixturevalue("screen")
    screen.shows("q quits")
    screen.resize(60, 10)
    screen.process.send_signal(signal.SIGWINCH)
    screen.shows(" more lines")
    screen.press(b"q")
    screen.ends_well()


def test_what_does_not_fit_is_reached_by_scrolling(admin: RunningAdmin, screen: Screen) -> None:
    admin.facts.rows = tuple(connection_row(n, identity=f"spiffe://a.b/n{n}") for n in range(80))
    screen.shows("spiffe://a.b/n0")
    screen.resize(100, 12)
    screen.process.send_signal(signal.SIGWINCH)
    first = screen.shows(r"↓ (\d+) more lines\x1b")
    screen.press(b"j")
    assert int(screen.shows(r"↓ (\d+) more lines   ↑ 1 above\x1b")) == int(first) - 1
    screen.press(b"\x1b[6~\x1b[A")  # Page Down, then Up
    assert int(screen.shows(r"↓ (\d+) more lines   ↑ 10 above\x1b")) == int(first) - 10
    screen.press(b"G")
    assert screen.shows(r"q quits   ↑ (\d+) above\x1b") == first
    screen.press(b"\x1b[H")
    screen.shows(rf"q quits   ↓ {first} more lines\x1b")
    screen.press(b"q")
    screen.ends_well()


def test_where_everything_fits_nothing_is_said_to_be_elsewhere(
    admin: RunningAdmin, screen: Screen
) -> None:
    admin.facts.rows = ()
    screen.resize(200, 100)
    screen.process.send_signal(signal.SIGWINCH)
    screen.shows(r"CONNECTIONS  0 open[^↓↑]*q quits(\x1b\[0m)?\x1b\[K\x1b\[J")
    screen.press(b"q")
    screen.ends_well()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_the_terminal_back_too(screen: Screen, number: signal.Signals) -> None:
    screen.shows("q quits")
    screen.process.send_signal(number)
    screen.ends_well()


@pytest.mark.parametrize(("no_color", "style"), [("", r"\x1b\[33m"), ("1", "")])
def test_a_proxy_that_goes_away_is_awaited(
    admin: RunningAdmin, monkeypatch: pytest.MonkeyPatch, no_color: str, style: str
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    port = free_port()
    listener = admin.listen(TcpAddress("127.0.0.1", port))
    screen = Screen(listener.address)
    try:
        screen.shows("q quits")
        admin.call(listener.close())
        screen.shows("nothing answers at")
        admin.listen(TcpAddress("127.0.0.1", port))
        screen.shows(rf"\x1b\[H{style}orders: ready: ")
        screen.press(b"q")
        screen.ends_well()
    finally:
        screen.close()
