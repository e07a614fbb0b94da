"""What is wrong at start is told in one line on standard error, with the way out and the exit
code: 1 failed, 2 wrong usage or configuration, 3 not permitted, 4 no identity in time.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.endings import ended
from tests.helpers.pair import Config, identity_of, inbound
from tests.helpers.privileges import unprivileged
from uproxy.lab.identities import IdentityFiles, write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

FIRST_FREE_PORT = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


@dataclass(frozen=True, slots=True)
class Ended:
    """What a uProxy that couldn't start left behind."""

    code: int
    out: str
    errors: list[str]

    @property
    def only_line(self) -> str:
        """All of standard error, which is one line."""
        (line,) = self.errors
        where, _, what = line.partition(": error: ")
        assert what, line
        return what if where == "uproxy" else f"{where} {what}"


def uproxy(*words: str | Path, prefix: Sequence[str] = (), **env: str) -> Ended:
    """Run a command to its end."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "uproxy", *map(str, words)],
        capture_output=True, text=True, timeout=30, check=False,
        env={**os.environ, **env},
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr.splitlines())


class Files:
    """A good configuration and all it names, for a test to spoil."""

    def __init__(self, folder: Path) -> None:
        self.ca = Authority("example.org")
        self.folder = folder
        self.identity: IdentityFiles = write_identity(folder, self.ca.issue("/orders"), self.ca.pem)
        self.port = free_port()
        self.admin = free_port()
        self.config: Config = {
            "identity": identity_of(self.identity),
            "inbound": [inbound("api", self.port, 1)],
            "authorization": [{"name": "all", "action": "allow", "from": "any"}],
            "timeouts": {"drain_delay": "0"},
            # few enough for every machine's descriptor limit
            "limits": {"connections": 1000},
            "admin": {"listen": f"127.0.0.1:{self.admin}", "metrics": None, "ready": None},
        }

    def write(self, **changes: Any) -> Path:
        file = self.folder / "uproxy.yaml"
        file.write_text(yaml.safe_dump({**self.config, **changes}))
        return file

    def issue_anew(self, **quirks: Any) -> None:
        self.identity = write_identity(self.folder, self.ca.issue("/orders", **quirks), self.ca.pem)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


COMMANDS = pytest.mark.parametrize("command", ["run", "check"])


def test_a_good_configuration_is_good(files: Files) -> None:
    done = uproxy("check", "--config", files.write())
    assert (done.code, done.errors) == (0, [])
    assert "good: 1 inbound" in done.out


@COMMANDS
def test_a_wrong_key_is_told_with_its_place_and_the_right_one(files: Files, command: str) -> None:
    done = uproxy(command, "--config", files.write(authorisation=[]))
    assert done.code == 2
    assert "authorisation" in done.only_line
    assert re.match(r"\S+/uproxy\.yaml:[0-9]+:1 authorisation: ", done.only_line)
    assert "did you mean 'authorization'?" in done.only_line


@COMMANDS
def test_every_mistake_has_a_line_of_its_own(files: Files, command: str) -> None:
    file = files.write(timeouts={"idle": "soon"}, limits={"connections": 0}, on_policy_change="no")
    done = uproxy(command, "--config", file)
    assert done.code == 2
    told = sorted(line.split()[2] for line in done.errors)
    assert told == ["limits.connections", "on_policy_change", "timeouts.idle"]
    assert all(re.match(r"\S+/uproxy\.yaml:[0-9]+:[0-9]+: error: ", line) for line in done.errors)


@COMMANDS
def test_a_file_that_is_not_there(files: Files, command: str) -> None:
    done = uproxy(command, "--config", files.folder / "nowhere.yaml")
    assert done.code == 2
    assert "nowhere.yaml can't be read: no such file" in done.only_line


@COMMANDS
def test_a_configuration_that_may_not_be_read(files: Files, command: str) -> None:
    file = files.write()
    file.chmod(0)
    done = uproxy(command, "--config", file, prefix=unprivileged())
    assert done.code == 3
    assert "give this user read permission" in done.only_line


@COMMANDS
def test_a_key_that_may_not_be_read(files: Files, command: str) -> None:
    files.identity.key.chmod(0)
    done = uproxy(command, "--config", files.write(), prefix=unprivileged())
    assert done.code == 3
    assert f"{files.identity.key}: not readable by user" in done.only_line
    assert "read permission" in done.only_line


def test_a_key_that_does_not_match(files: Files) -> None:
    key = files.identity.key.read_bytes()
    files.issue_anew()
    files.identity.key.write_bytes(key)
    done = uproxy("check", "--config", files.write())
    assert done.code == 2
    assert "this key is not the one of the certificate" in done.only_line
    assert str(files.identity.key) in done.only_line


def test_an_expired_svid(files: Files) -> None:
    past = datetime.now(UTC) - timedelta(minutes=5)
    files.issue_anew(not_before=past - timedelta(hours=1), not_after=past)
    done = uproxy("check", "--config", files.write())
    assert done.code == 2
    assert "expired" in done.only_line
    assert "have it renewed" in done.only_line
    assert str(files.identity.svid) in done.only_line


@pytest.mark.parametrize(
    ("which", "data", "words"),
    [
        ("svid", b"", "the file is empty"),
        ("svid", b"nonsense", "not a certificate chain in PEM or DER"),
        ("key", b"nonsense", "key"),
        ("bundle", b"nonsense", "not a bundle of example.org"),
        ("bundle", None, "no such file"),
    ],
)
def test_identity_files_that_are_no_such_thing(
    files: Files, which: str, data: bytes | None, words: str
) -> None:
    path: Path = getattr(files.identity, which)
    path.unlink() if data is None else path.write_bytes(data)
    done = uproxy("check", "--config", files.write())
    assert done.code == 2
    assert str(path) in done.only_line
    assert words in done.only_line


@COMMANDS
def test_a_descriptor_limit_too_low_for_one_connection(files: Files, command: str) -> None:
    few = ["prlimit", "--nofile=60:60"]
    done = uproxy(command, "--config", files.write(), prefix=few)
    assert done.code == 1
    assert "the descriptor limit of 60 is too low: raise LimitNOFILE" in done.only_line


def test_a_descriptor_limit_that_is_merely_low_is_a_warning(files: Files) -> None:
    few = ["prlimit", "--nofile=200:200"]
    done = uproxy("check", "--config", files.write(), prefix=few)
    assert done.code == 0
    (line,) = done.errors
    assert line.startswith("uproxy: warning: limits.connections = 1000 is clamped to 37 ")


def test_a_port_in_use_is_told_with_who_has_it(files: Files) -> None:
    with socket.create_server(("127.0.0.1", files.port)):
        done = uproxy("run", "--config", files.write())
    assert done.code == 1
    assert f"127.0.0.1:{files.port} is in use by " in done.only_line
    assert f"(pid {os.getpid()})" in done.only_line


def test_an_admin_port_in_use(files: Files) -> None:
    with socket.create_server(("127.0.0.1", files.admin)):
        done = uproxy("run", "--config", files.write())
    assert done.code == 1
    assert done.only_line.startswith("admin")
    assert f": 127.0.0.1:{files.admin} is in use by " in done.only_line


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="uproxy-"))
    yield folder
    shutil.rmtree(folder)


def test_a_unix_socket_in_use(files: Files, short: Path) -> None:
    door = {**inbound("api", 1, 1), "listen": f"unix://{short}/s"}
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(short / "s"))
        other.listen()
        done = uproxy("run", "--config", files.write(inbound=[door]))
    assert done.code == 1
    assert f"unix://{short}/s is in use: another process answers there" in done.only_line


@pytest.mark.skipif(FIRST_FREE_PORT <= 80, reason="here everybody may listen at port 80")
def test_a_port_for_which_a_privilege_is_missing(files: Files) -> None:
    done = uproxy(
        "run", "--config", files.write(inbound=[inbound("api", 80, 1)]), prefix=unprivileged()
    )
    assert done.code == 3
    assert "127.0.0.1:80 can't be opened" in done.only_line
    assert "CAP_NET_BIND_SERVICE" in done.only_line


def test_an_owner_for_whom_a_privilege_is_missing(files: Files, short: Path) -> None:
    door = {"listen": f"unix://{short}/s", "to": "x", "owner": "12345"}
    to = {"x": {"addresses": ["127.0.0.1:1"], "transport": "plaintext"}}
    file = files.write(outbound=[door], destinations=to)
    done = uproxy("run", "--config", file, prefix=unprivileged())
    assert done.code == 3
    assert "CAP_CHOWN" in done.only_line
    assert list(short.iterdir()) == []


def test_a_folder_in_which_no_socket_may_be_made(files: Files, short: Path) -> None:
    short.chmod(0o500)
    door = {**inbound("api", 1, 1), "listen": f"unix://{short}/s"}
    done = uproxy("run", "--config", files.write(inbound=[door]), prefix=unprivileged())
    assert done.code == 3
    assert "no write permission for its folder" in done.only_line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run"], "--config"),
        (["check", "--config", "x", "--wiat", "1s"], "--wiat"),
        (["rnu"], "rnu"),
        ([], "COMMAND"),
    ],
)
def test_a_command_line_that_is_wrong(words: list[str], says: str) -> None:
    done = uproxy(*words)
    assert done.code == 2
    assert says in done.only_line
    assert "--help" in done.only_line


def test_a_time_to_wait_that_is_none(files: Files) -> None:
    done = uproxy("check", "--config", files.write(), "--wait", "soon")
    assert done.code == 2
    assert "--wait 'soon'" in done.only_line


def test_a_traceback_is_shown_to_who_asks_for_it(files: Files) -> None:
    done = uproxy("run", "--log-level", "debug", "--config", files.folder / "nowhere.yaml")
    assert done.code == 2
    assert done.errors[0].startswith("Traceback")
    assert "nowhere.yaml can't be read" in done.errors[-1]


def test_no_agent_within_the_time_given(files: Files, short: Path) -> None:
    file = files.write(identity={"workload_api": f"unix://{short}/agent.sock"})
    done = uproxy("check", "--config", file, "--wait", "1s")
    assert done.code == 4
    assert "agent.sock" in done.only_line


def test_without_an_agent_it_starts_and_says_why_it_is_not_ready(
    files: Files, short: Path, tmp_path: Path
) -> None:
    config = {**files.config, "identity": {"workload_api": f"unix://{short}/agent.sock"}}
    config.pop("admin")
    with Uproxy(config, tmp_path / "run") as running:
        wait_until(lambda: running.status("/readyz") == 503, "an answer")
        wait_until(lambda: "agent.sock" in running.request("/readyz")[1], "the reason")
        # it waits for the first identity, for a while
        started = lambda: running.request("/readyz")[1].startswith("no identity yet: ")  # noqa: E731
        wait_until(started, "the start", 30.0)
        assert running.status("/livez") == 200
        assert "\nuproxy_ready 0.0\n" in running.request("/metrics")[1]
        with ended(running, "no_identity"), pytest.raises(ConnectionResetError):
            come_in_vain(files.port)
        running.send(signal.SIGTERM)
        assert running.wait() == 0
        assert "Traceback" not in running.output


def come_in_vain(port: int) -> None:
    # with a byte, as a caller: whoever says nothing is a probe
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"\x16")
        client.recv(1)
