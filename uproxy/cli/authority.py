"""`uproxy authority`: serves development identities on a real SPIFFE Workload API.

The endpoint of each trust domain is printed on standard output, what happens on standard
error.  The file is read again when it changes and on SIGHUP; SIGUSR1 rotates the CAs.
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

from uproxy.app.reading import read_text
from uproxy.authority import Definition, DevelopmentAuthority, parse_definition
from uproxy.errors import ConfigError, UproxyError

_LOOK_EVERY_S = 0.5
"""Seconds between two checks whether the file has changed."""

_Stamp = tuple[int, int, int] | None
"""Modification time, inode and size of the file; None: it isn't there."""

_BANNER = """\
uproxy authority: FOR DEVELOPMENT AND TESTS ONLY. It vouches for whoever its file names;
keys live in this process's memory and are gone with it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `authority`."""
    parser.add_argument("--config", metavar="FILE", required=True, help="YAML, as certs/dev.yaml")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    level = (args.log_level or "info").upper()
    logging.basicConfig(stream=sys.stderr, level=level, format="uproxy authority: %(message)s")
    path = Path(args.config)
    # taken before the file is read, so that a change in between is noticed
    stamp = _stamp(path)
    return asyncio.run(_serve(path, stamp, _read(path)))


async def _serve(path: Path, stamp: _Stamp, definition: Definition) -> int:
    """Serve until a signal, reading the file again when it changes; return the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with DevelopmentAuthority(definition) as authority:
        # before the endpoints are printed: whoever reads them may send a signal
        loop.add_signal_handler(signal.SIGUSR1, _rotate, authority)
        loop.add_signal_handler(signal.SIGHUP, _reload, authority, path)
        print(_BANNER, file=sys.stderr)
        width = max(len(name) for name in authority.endpoints)
        for name, endpoint in authority.endpoints.items():
            print(f"{name:{width}}  {endpoint}", flush=True)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)
            if (now := _stamp(path)) != stamp:
                stamp = now
                _reload(authority, path)
    return 0


def _rotate(authority: DevelopmentAuthority) -> None:
    """Start a rotation of all CAs."""
    authority.rotate_ca()
    print("uproxy authority: new CAs are published and sign in a moment", file=sys.stderr)


def _reload(authority: DevelopmentAuthority, path: Path) -> None:
    """Apply the file's contents; if they are wrong, print why and change nothing."""
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
    text = read_text(path)
    try:
        return parse_definition(text)
    except ConfigError as error:
        raise error.in_file(str(path)) from None


def _stamp(path: Path) -> _Stamp:
    """Return what changes when the file does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
