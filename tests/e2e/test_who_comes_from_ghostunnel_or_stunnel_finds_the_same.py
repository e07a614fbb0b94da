"""What the pages for those who come from ghostunnel or stunnel say: each row of their tables is
tried with the real ghostunnel or stunnel on one side, and in its place a uProxy."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.helpers import traffic
from tests.helpers.migrations import Row, migrations
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import ORDERS, STRANGER, UNWANTED, WEB, FileWorld, Inbound, Outbound
from uproxy.lab.ports import free_port, listens
from uproxy.lab.processes import Process
from uproxy.lab.software.golang import peer
from uproxy.lab.software.peers import s_client
from uproxy.lab.waiting import wait_until

WHO_GETS_IN, EVERYTHING_ELSE = migrations("ghostunnel")
[STUNNEL] = migrations("stunnel")
CALLERS = (WEB, UNWANTED, STRANGER)


class Ghostunnel(Process):
    """A ghostunnel server for the application on the port `app`."""

    def __init__(self, folder: Path, files: IdentityFiles, app: int, *options: str) -> None:
        self.port = free_port()
        argv: list[str | Path] = [
            peer("ghostunnel"),
            "server",
            "--listen",
            f"127.0.0.1:{self.port}",
        ]
        argv += ["--target", f"127.0.0.1:{app}", "--cert", files.svid, "--key", files.key]
        argv += ["--cacert", files.bundle, *options]
        super().__init__(argv, folder / f"ghostunnel-{self.port}.log")

    def is_ready(self) -> bool:
        return "listening for connections on" in self.output


class Stunnel(Process):
    """A stunnel with one section."""

    def __init__(
        self, folder: Path, files: IdentityFiles, connect: int, *lines: str, client: bool
    ) -> None:
        self.port = free_port()
        conf = folder / f"stunnel-{self.port}.conf"
        section = [f"accept = 127.0.0.1:{self.port}", f"connect = 127.0.0.1:{connect}"]
        section += [f"cert = {files.svid}", f"key = {files.key}", f"CAfile = {files.bundle}"]
        section += ["verifyChain = yes", f"client = {'yes' if client else 'no'}", *lines]
        conf.write_text("\n".join(["foreground = yes", "pid =", "[one]", *section, ""]))
        super().__init__(["stunnel", conf], folder / f"stunnel-{self.port}.log")

    def is_ready(self) -> bool:
        return listens(self.port)


def lets_in(port: int, caller: IdentityFiles) -> bool:
    """Whether a caller gets its bytes back."""
    return s_client(port, caller, "-ign_eof", send=b"hello\n", expect=6).data == b"hello\n"


def answer(port: int) -> bytes:
    """Say hello in clear; return the first bytes that come back, none if it is cut."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"hello\n")
        try:
            return client.recv(6)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("row", WHO_GETS_IN, ids=str)
def test_the_same_callers_get_in(
    row: Row, folder: Path, file_world: FileWorld, echo_app: int
) -> None:
    server = Ghostunnel(folder, file_world.theirs(ORDERS), echo_app, *row.theirs[0].split())
    door = Inbound(folder, file_world.ours(ORDERS), echo_app, **row.ours)
    with server, door:
        door.wait_until_ready()
        callers = {each: file_world.theirs(each) for each in CALLERS}
        admitted = [each for each, files in callers.items() if lets_in(door.port, files)]
        assert admitted == [each for each, files in callers.items() if lets_in(server.port, files)]
    assert WEB in admitted
    assert STRANGER not in admitted


def test_ghostunnel_has_each_flag_that_the_page_names() -> None:
    told = [subprocess.run([peer("ghostunnel"), mode, "--help"], check=True, capture_output=True,
                           text=True) for mode in ("server", "client")]  # fmt: skip
    flags = set(re.findall(r"--(?:\[no-\])?([a-z0-9-]+)", "".join(
        each.stdout + each.stderr for each in told)))  # fmt: skip
    named = {
        flag
        for row in (*WHO_GETS_IN, *EVERYTHING_ELSE)
        for words in row.theirs
        for flag in re.findall(r"--([a-z0-9-]+)", words)
    }
    assert named <= flags
    assert len(named) > 20


@pytest.mark.parametrize(
    "row", [row for rows in (WHO_GETS_IN, EVERYTHING_ELSE, STUNNEL) for row in rows], ids=str
)
def test_what_stands_beside_it_is_a_configuration(row: Row) -> None:
    row.load()


@pytest.mark.parametrize(
    "line",
    [words for row in STUNNEL for words in row.theirs if " = " in words],
)
def test_stunnel_takes_each_line_that_the_page_names(
    line: str, folder: Path, file_world: FileWorld, echo_app: int
) -> None:
    key = line.split(" = ")[0]
    if key in ("accept", "connect", "cert", "CAfile", "verifyChain"):
        lines = []  # which every section here has
    elif key == "CRLfile":
        crl = folder / "crl.pem"
        crl.write_bytes(file_world.ca.crl(()).public_bytes(Encoding.PEM))
        lines = [f"CRLfile = {crl}"]
    else:
        lines = [line]
    client = key in ("checkHost", "sni", "failover")
    with Stunnel(folder, file_world.theirs(WEB), echo_app, *lines, client=client) as stunnel:
        assert stunnel.running


def test_a_stunnel_calls_a_uproxy(folder: Path, file_world: FileWorld, echo_app: int) -> None:
    with (
        Inbound(folder, file_world.ours(ORDERS), echo_app, allow=[WEB]) as door,
        contextlib.ExitStack() as stack,
    ):
        door.wait_until_ready()
        clients = {
            each: stack.enter_context(
                Stunnel(folder, file_world.theirs(each), door.port, client=True)
            )
            for each in (WEB, UNWANTED)
        }
        asyncio.run(traffic.exchange(clients[WEB].port, 1 << 20, half_close=False))
        assert answer(clients[UNWANTED].port) == b""


def test_a_uproxy_calls_a_stunnel(folder: Path, file_world: FileWorld, echo_app: int) -> None:
    with Stunnel(folder, file_world.theirs(ORDERS), echo_app, client=False) as server:
        with Outbound(folder, file_world.ours(WEB), server.port, expect=[ORDERS]) as right:
            right.wait_until_ready()
            asyncio.run(traffic.exchange(right.port, 1 << 20, half_close=False))
        with Outbound(folder, file_world.ours(WEB), server.port, expect=[UNWANTED]) as wrong:
            wrong.wait_until_ready()
            assert answer(wrong.port) == b""
            wait_until(lambda: wrong.accesses, "an access line")
            assert wrong.accesses[-1]["outcome"] == "peer_unexpected"
