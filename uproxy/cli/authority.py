"""`uproxy authority`: development identities on a real SPIFFE Workload API.

Prints each trust domain's endpoint on standard output and what happens on standard error.
The file is read again when it changes and on SIGHUP; SIGUSR1 rotates the CAs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

from uproxy.authority import Authority, Definition, parse_definition
from uproxy.errors import ConfigError, UproxyError, UsageError

_LOOK_EVERY_S = 0.5

_BANNER = """\
uproxy authority: FOR DEVELOPMENT AND TESTS ONLY. It vouches for whoever its file names;
keys live in this process's memory and are gone with it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `authority` takes."""
    parser.add_argument("--config", metavar="FILE", required=True, help="YAML, as certs/dev.yaml")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.  Returns the exit code."""
    level = (args.log_level or "info").upper()
    logging.basicConfig(stream=sys.stderr, level=level, format="uproxy authority: %(message)s")
    path = Path(args.config)
    return asyncio.run(_serve(path, _read(path)))


async def _serve(path: Path, definition: Definition) -> int:
    stop, look, rotate = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number, event in {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: look,
        signal.SIGUSR1: rotate,
    }.items():
        loop.add_signal_handler(number, event.set)
    async with Authority(definition) as authority:
        print(_BANNER, file=sys.stderr)
        width = max(len(name) for name in authority.endpoints)
        for name, endpoint in authority.endpoints.items():
            print(f"{name:{width}}  {endpoint}", flush=True)
        await _follow(authority, path, stop, look, rotate)
    return 0


async def _follow(
    authority: Authority,
    path: Path,
    stop: asyncio.Event,
    look: asyncio.Event,
    rotate: asyncio.Event,
) -> None:
    """Act on signals and on changes of the file until `stop`."""
    seen = _stamp(path)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)
        if rotate.is_set():
            rotate.clear()
            authority.rotate_ca()
            print("uproxy authority: new CAs are published and sign in a moment", file=sys.stderr)
        stamp = _stamp(path)
        if look.is_set() or stamp != seen:
            look.clear()
            seen = stamp
            _reload(authority, path)


def _reload(authority: Authority, path: Path) -> None:
    """Take the file over, all or nothing; a bad file changes nothing."""
    try:
        authority.apply(_read(path))
    except ConfigError as error:
        for mistake in error.mistakes:
            print(f"uproxy authority: {path} not taken over: {mistake}", file=sys.stderr)
    except UproxyError as error:
        print(f"uproxy authority: {path} not taken over: {error}", file=sys.stderr)
    else:
        print(f"uproxy authority: {path} taken over", file=sys.stderr)


def _read(path: Path) -> Definition:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error
    return parse_definition(text)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
