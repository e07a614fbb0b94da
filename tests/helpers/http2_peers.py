"""HTTP/2 as others have written it, as one end of tunnels: programs in tests/peers that take the
same words.  A test skips where what runs or builds them is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from uproxy.lab.identities import IdentityFiles
from uproxy.lab.ports import free_port, listens
from uproxy.lab.processes import Process
from uproxy.lab.software import golang, rust

Command = list[str | Path]


def _go() -> Command:
    return [golang.peer("http2")]


def _node() -> Command:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node: `make test-all` installs it")
    return [node, Path(__file__).parents[1] / "peers" / "node" / "http2.mjs"]


def _rust() -> Command:
    try:
        rust.find_cargo()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return [rust.peer("rust-h2")]


_COMMANDS: Mapping[str, Callable[[], Command]] = {"go": _go, "node": _node, "rust": _rust}
"""Go's golang.org/x/net/http2; nghttp2, which is in Node; the crates h2 and rustls."""


class Http2(Process):
    """One of those programs."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        command: str,
        identity: IdentityFiles,
        port: int,
        *words: str | int,
    ) -> None:
        self.port = port
        files = (identity.svid, identity.key, identity.bundle)
        argv = [*_COMMANDS[kind](), command, *files, port, *words]
        super().__init__(list(map(str, argv)), folder / f"{kind}-{command}-{free_port()}.log")

    @property
    def printed(self) -> list[dict[str, Any]]:
        """What it has written so far."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def said(self, key: str) -> list[Any]:
        """Return the values that it has written under `key` so far."""
        return [each[key] for each in self.printed if key in each]


class Http2Server(Http2):
    """Takes at most `streams` at a time on a tunnel, and dials what each of them names; `words`
    are further ones that its program knows."""

    def __init__(
        self, folder: Path, kind: str, identity: IdentityFiles, streams: int = 100, *words: int
    ) -> None:
        super().__init__(folder, kind, "serve", identity, free_port(), streams, *words)

    def is_ready(self) -> bool:
        return listens(self.port)


def dialled(
    folder: Path,
    kind: str,
    identity: IdentityFiles,
    port: int,
    app: int,
    *,
    count: int,
    size: int,
) -> dict[str, Any]:
    """Have `count` streams opened at once on one tunnel to a port, each with `size` bytes there and
    back; return how many came back whole, and why another one didn't."""
    authority = f"127.0.0.1:{app}"
    with Http2(folder, kind, "dial", identity, port, authority, count, size) as http2:
        http2.wait(60)
        return http2.printed[-1]
