"""mTLS software nobody here wrote, as the other side of a connection: OpenSSL, ghostunnel.

Each takes its identity as files (`uproxy.lab.identities`), or (ghostunnel) from a Workload API.
Envoy has a module of its own, uproxy/lab/software/envoy.py.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uproxy.lab.identities import IdentityFiles
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Process
from uproxy.lab.software.golang import peer


@dataclass(frozen=True, slots=True)
class SClientOutput:
    """The output of `openssl s_client`."""

    data: bytes
    """Bytes from the server."""
    words: str
    """Its own messages on standard error: the chain, alerts."""


def s_client(
    port: int,
    identity: IdentityFiles | None,
    *options: str,
    send: bytes = b"",
    expect: int = 1 << 30,
    host: str = "127.0.0.1",
) -> SClientOutput:
    """Run `openssl s_client`: send, then read until `expect` bytes came or the server closes.

    The server's chain is verified with `identity.bundle`, and a bad one ends the handshake;
    without an identity none is presented and nothing is verified.
    """
    argv = ["openssl", "s_client", "-connect", f"{host}:{port}", "-quiet", *options]
    if identity is not None:
        argv += ["-cert", str(identity.svid), "-cert_chain", str(identity.svid)]
        argv += ["-key", str(identity.key), "-CAfile", str(identity.bundle)]
        argv += ["-verify_return_error", "-no-CApath", "-no-CAstore"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as client:
        # a server that never closes must fail the test, not block it
        watchdog = threading.Timer(30.0, client.kill)
        watchdog.start()
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stderr is not None
        # it may have been refused already
        with contextlib.suppress(BrokenPipeError):
            client.stdin.write(send)
            client.stdin.flush()
        data = client.stdout.read(expect)
        client.terminate()
        words = client.stderr.read().decode(errors="replace")
        # closing writes again what could not be written
        with contextlib.suppress(BrokenPipeError):
            client.stdin.close()
        timed_out = not watchdog.is_alive()
        watchdog.cancel()
    if timed_out:
        raise AssertionError(f"nothing more from port {port} within 30 s, after {data!r}")
    return SClientOutput(data, words)


class SServer(Process):
    """`openssl s_server` that demands a client certificate; it returns each line reversed
    (`-rev`) unless `options` say otherwise."""

    def __init__(
        self, folder: Path, identity: IdentityFiles, options: Sequence[str] = ("-rev",)
    ) -> None:
        self.port = free_port()
        super().__init__(
            ["openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", *options,
             "-cert", identity.svid, "-cert_chain", identity.svid, "-key", identity.key,
             "-CAfile", identity.bundle, "-no-CApath", "-no-CAstore",
             "-Verify", "4", "-verify_return_error"],
            folder / f"s_server-{self.port}.log",
        )  # fmt: skip

    def is_ready(self) -> bool:
        # from its output: connecting would count against -naccept
        return "ACCEPT" in self.output


class _Ghostunnel(Process):
    """What both modes have in common: an identity and a port."""

    def __init__(
        self, mode: str, folder: Path, identity: IdentityFiles | str, options: Sequence[str]
    ) -> None:
        self.port = free_port()
        super().__init__(
            [peer("ghostunnel"), mode, "--listen", f"127.0.0.1:{self.port}",
             *_credentials(identity), *options],
            folder / f"ghostunnel-{mode}-{self.port}.log",
        )  # fmt: skip

    def is_ready(self) -> bool:
        # from its output: connecting would open a connection to the target
        return "listening for connections on" in self.output


class GhostunnelServer(_Ghostunnel):
    """Accepts mTLS from the SPIFFE IDs in `allow` and dials plaintext to the loopback port
    `target`.

    `identity` is files, or the address of a Workload API (`unix:///…`).
    """

    def __init__(
        self, folder: Path, identity: IdentityFiles | str, *, target: int, allow: Sequence[str]
    ) -> None:
        rules = [word for uri in allow for word in ("--allow-uri", uri)]
        super().__init__("server", folder, identity, ["--target", f"127.0.0.1:{target}", *rules])


class GhostunnelClient(_Ghostunnel):
    """Accepts plaintext and dials mTLS to the loopback port `target`, whose SPIFFE ID must be
    in `verify`.

    `identity` is files, or the address of a Workload API (`unix:///…`).  With files it also
    checks the host: the server's SVID needs `ips=("127.0.0.1",)`.
    """

    def __init__(
        self, folder: Path, identity: IdentityFiles | str, *, target: int, verify: Sequence[str]
    ) -> None:
        rules = [word for uri in verify for word in ("--verify-uri", uri)]
        super().__init__("client", folder, identity, ["--target", f"127.0.0.1:{target}", *rules])


def _credentials(identity: IdentityFiles | str) -> list[str | Path]:
    if isinstance(identity, str):
        return ["--use-workload-api-addr", identity]
    return ["--cert", identity.svid, "--key", identity.key, "--cacert", identity.bundle]
