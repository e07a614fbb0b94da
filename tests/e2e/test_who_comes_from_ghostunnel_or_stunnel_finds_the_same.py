"""What the pages for those who come from ghostunnel or stunnel say.

Of their tables, who gets in, PROXY protocol, unix targets, timeouts, names and CRLs are tried with
the real ghostunnel or stunnel, and in its place a uProxy.  Of the other rows it is tried that
ghostunnel has the flag, or stunnel takes the line, and that uProxy takes the YAML beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import socketserver
import subprocess
import tempfile
import threading
from pathlib import Path
from time import monotonic

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.helpers import traffic
from tests.helpers.background import background
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
    """A ghostunnel server for the application on the port `app`, or at that target."""

    def __init__(self, folder: Path, files: IdentityFiles, app: int | str, *options: str) -> None:
        self.port = free_port()
        argv: list[str | Path] = [
            peer("ghostunnel"),
            "server",
            "--listen",
            f"127.0.0.1:{self.port}",
        ]
        target = f"127.0.0.1:{app}" if isinstance(app, int) else app
        argv += ["--target", target, "--cert", files.svid, "--key", files.key]
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


def row_of(rows: list[Row], words: str) -> Row:
    [row] = [row for row in rows if row.theirs and row.theirs[0].startswith(words)]
    return row


def as_row(door: Inbound, row: Row) -> Inbound:
    """Give a door what the row has besides addresses."""
    [told] = row.ours["inbound"]
    more = {key: value for key, value in told.items() if key not in ("listen", "to")}
    [mine] = door.config["inbound"]
    door.change(inbound=[{**mine, **more}])
    return door


async def tell_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return what begins a PROXY protocol header (its §2.2) but for the length of the rest, and the
    two addresses in it."""
    begin = await reader.readexactly(16)
    rest = await reader.readexactly(int.from_bytes(begin[14:]))
    writer.write(begin[:14] + rest[:8])
    await writer.drain()
    await reader.read()
    writer.close()


def test_applications_are_told_the_same_by_proxy_protocol(
    folder: Path, file_world: FileWorld
) -> None:
    row = row_of(EVERYTHING_ELSE, "--proxy-protocol")
    ours, theirs = file_world.ours(ORDERS), file_world.theirs(ORDERS)
    with background(tell_header) as app:
        server = Ghostunnel(folder, theirs, app, "--allow-all", row.theirs[0])
        door = as_row(Inbound(folder, ours, app), row)
        with server, door:
            door.wait_until_ready()
            told = [
                s_client(each.port, file_world.theirs(WEB), "-ign_eof", send=b"x", expect=22).data
                for each in (server, door)
            ]
    loopback = socket.inet_aton("127.0.0.1")
    assert told[0] == told[1] == b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + 2 * loopback


def test_applications_at_unix_sockets_are_reached(folder: Path, file_world: FileWorld) -> None:
    row = row_of(EVERYTHING_ELSE, "--target unix:")
    with tempfile.TemporaryDirectory() as name:  # its path is short enough for a socket
        path = f"{name}/app.sock"
        assert row.ours["inbound"][0]["to"] == "unix:///run/app.sock"
        server = Ghostunnel(folder, file_world.theirs(ORDERS), f"unix:{path}", "--allow-all")
        door = Inbound(folder, file_world.ours(ORDERS), 9)
        door.change(inbound=[{**door.config["inbound"][0], "to": f"unix://{path}"}])
        with socketserver.ThreadingUnixStreamServer(path, Echo) as app, server, door:
            threading.Thread(target=app.serve_forever).start()
            door.wait_until_ready()
            reached = [lets_in(each.port, file_world.theirs(WEB)) for each in (server, door)]
            app.shutdown()
    assert reached == [True, True]


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while received := self.request.recv(65536):
            self.request.sendall(received)


def test_callers_who_say_nothing_are_cut_after_the_same_time(
    folder: Path, file_world: FileWorld, echo_app: int
) -> None:
    row = row_of(EVERYTHING_ELSE, "--connect-timeout")
    seconds = {key: "2s" for key in row.ours["timeouts"]}
    server = Ghostunnel(folder, file_world.theirs(ORDERS), echo_app, "--allow-all",
                        row.theirs[0].replace("10s", "2s").replace(" ", "="))  # fmt: skip
    door = Inbound(folder, file_world.ours(ORDERS), echo_app, timeouts=seconds)
    with server, door:
        door.wait_until_ready()
        for each in (server, door):
            begun = monotonic()
            assert silence(each.port) == b""
            assert monotonic() - begun > 1.9


def silence(port: int) -> bytes:
    """Say nothing; return what comes before the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        try:
            return client.recv(6)
        except ConnectionResetError:
            return b""


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


def test_a_name_in_check_host_is_in_no_svid(
    folder: Path, file_world: FileWorld, echo_app: int
) -> None:
    """The row says that names have no counterpart: SPIFFE IDs take their place."""
    line = row_of(STUNNEL, "checkHost").theirs[0]
    with Inbound(folder, file_world.ours(ORDERS), echo_app) as door:
        door.wait_until_ready()
        with Stunnel(folder, file_world.theirs(WEB), door.port, line, client=True) as by_name:
            assert answer(by_name.port) == b""
        with Outbound(folder, file_world.ours(WEB), door.port, expect=[ORDERS]) as by_id:
            by_id.wait_until_ready()
            assert answer(by_id.port) == b"hello\n"


def test_callers_in_a_crl_are_refused_by_both(
    folder: Path, file_world: FileWorld, echo_app: int
) -> None:
    row = row_of(STUNNEL, "CRLfile")
    revoked = x509.load_pem_x509_certificate(file_world.theirs(UNWANTED).svid.read_bytes())
    crl = folder / "revoked.pem"
    crl.write_bytes(file_world.ca.crl([revoked]).public_bytes(Encoding.PEM))
    assert row.ours["identity"]["files"]["crls"] == ["crl.pem"]
    ours = file_world.ours(ORDERS)
    ours["files"]["crls"] = [str(crl)]
    line = row.theirs[0].replace("crl.pem", str(crl))
    server = Stunnel(folder, file_world.theirs(ORDERS), echo_app, line, client=False)
    door = Inbound(folder, ours, echo_app, allow=[WEB, UNWANTED])
    with server, door:
        door.wait_until_ready()
        for each in (server, door):
            admitted = [caller for caller in (WEB, UNWANTED)
                        if lets_in(each.port, file_world.theirs(caller))]  # fmt: skip
            assert admitted == [WEB]
