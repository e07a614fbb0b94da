"""Child processes that always end: their log, readiness and signals.

`Process` runs any program; `Uproxy` runs `uproxy run` with a configuration, parses its log lines
and asks its admin listener.  Both are context managers that kill the whole process group at the
end, in whatever state the test left it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from uproxy.lab.ports import free_port
from uproxy.lab.waiting import wait_until

_STOP_GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL."""


class Process:
    """A program that runs inside the `with` block; its output goes to the file `log`."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        """`env` is added to our environment.  Running as another `user` needs root."""
        self.argv = [str(word) for word in argv]
        self.log = log
        self._env = env or {}
        self._user = user
        self._popen: subprocess.Popen[bytes] | None = None
        """None before `start`."""

    def is_ready(self) -> bool:
        """Return whether the program is ready; entering the `with` block waits for it."""
        return True

    def start(self) -> None:
        """Start the program, or restart it after it has ended; return when `is_ready`.

        Raises:
            AssertionError: it ended, or took too long; the message has its output.
        """
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._env},
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                cwd=self.log.parent,
                start_new_session=True,
            )
        try:
            self.wait_ready(self.is_ready)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether it hasn't ended."""
        return self._started.poll() is None

    def wait_ready(self, ready: Callable[[], object], timeout: float = 20.0) -> None:
        """Wait until `ready()` is true, for at most `timeout` seconds.

        Raises:
            AssertionError: it ended before, or took longer; the message has its output.
        """
        name = Path(self.argv[0]).name

        def looked() -> object:
            return not self.running or ready()

        try:
            wait_until(looked, f"{name} to be ready", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None
        if not self.running:
            raise AssertionError(f"{name} ended with {self._started.returncode}\n{self.output}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program, not to its children."""
        self._started.send_signal(number)

    def wait(self, timeout: float = 10.0) -> int:
        """Wait until it ends by itself; return its exit code, negative for a signal.

        Raises:
            AssertionError: it still runs after `timeout` seconds.
        """
        try:
            return self._started.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s\n{self.output}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal, SIGKILL after a grace period, and kill its children; return its
        exit code."""
        if self.running:
            self._started.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._started.wait(_STOP_GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._started.pid, signal.SIGKILL)
        return self._started.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *why: object) -> None:
        self.stop()

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise RuntimeError(f"{Path(self.argv[0]).name} was not started: use it in a `with`")
        return self._popen


class Uproxy(Process):
    """`uproxy run`, with its admin listener on a free loopback port.

    `config` is the configuration, without `admin` unless the test needs it; `folder` is for the
    file and the log.  SIGTERM drains without the usual delay.  Leaving the `with` block kills
    the process; a test of the shutdown calls `stop`.
    """

    def __init__(
        self, config: Mapping[str, Any], folder: Path, *, env: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.config_file = folder / "uproxy.yaml"
        self.admin_port = free_port()
        self._admin = {"listen": f"127.0.0.1:{self.admin_port}", "metrics": None, "ready": None}
        self.write_config(config)
        argv: list[str | Path] = [
            sys.executable,
            "-m",
            "uproxy",
            "run",
            "--config",
            self.config_file,
        ]
        super().__init__(argv, folder / "uproxy.log", env=env)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace the file, atomically; a running uProxy reloads it."""
        timeouts = {"drain_delay": "0s", **config.get("timeouts", {})}
        whole = {"admin": self._admin, **config, "timeouts": timeouts}
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(whole, sort_keys=False))
        fresh.replace(self.config_file)

    def __exit__(self, *why: object) -> None:
        self.stop(signal.SIGKILL)

    def wait_until_ready(self, timeout: float = 20.0) -> None:
        """Wait until `/readyz` answers 200; entering the `with` block doesn't wait for that."""
        self.wait_ready(lambda: self.status("/readyz") == 200, timeout)

    def request(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Send a request to the admin listener; return (HTTP status, body).

        Raises:
            OSError: nobody answers.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5.0)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def status(self, path: str) -> int | None:
        """Return the HTTP status of a GET; None if nobody answers."""
        try:
            return self.request(path)[0]
        except OSError:
            return None

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log, one mapping for each complete line; a line that isn't JSON (an error on
        standard error) becomes `{"text": line}`."""
        return [_parsed(line) for line in self.output.split("\n")[:-1]]

    @property
    def accesses(self) -> list[dict[str, Any]]:
        """The lines of the access log: one for each connection that has ended."""
        return [line for line in self.lines if line.get("scope") == "access"]


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {"text": line}
    return value if isinstance(value, dict) else {"text": line}
