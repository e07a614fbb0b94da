"""`uproxy status`: shows what a running uProxy does, once or as a live view.

It reads the admin listener as any client can.  If standard output is not a terminal, `--watch`
prints the plain output again each second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from uproxy.cli.status_answer import Uproxy, configured_address, parse_address
from uproxy.cli.status_live import UPDATE_EVERY_S, terminal_size, watch
from uproxy.cli.status_text import Earlier, Status, is_ready, render

DEFAULT_ADDRESS: Final = "127.0.0.1:15000"
"""`admin.listen`, unless it is configured."""
NOT_READY: Final = 5
"""The exit code when a uProxy answers that isn't ready, or of which a part doesn't respond."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `status`."""
    parser.add_argument(
        "--watch", action="store_true", help="a live view, anew each second; q ends it"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--admin",
        metavar="ADDR",
        default=DEFAULT_ADDRESS,
        help=f"host:port or unix:///path of admin.listen (default {DEFAULT_ADDRESS})",
    )
    where.add_argument(
        "--config", metavar="FILE", help="ask the uProxy that runs this file, at its admin.listen"
    )
    parser.add_argument("--json", action="store_true", help="the facts as JSON, for programs")


def run(args: argparse.Namespace) -> int:
    """Show the status; return 0 if it is ready, else NOT_READY.  `--watch` returns 0.

    Raises:
        UproxyError: nothing answers, or something else than uProxy does.
        UsageError: `--admin` is not an address, or the file doesn't say one.
    """
    uproxy = _asked(args)
    code = 0
    try:
        if args.watch and not args.json and sys.stdout.isatty():
            watch(uproxy)
        elif args.watch:
            _watch_plainly(uproxy, args.json)
        else:
            status = uproxy.fetch()
            code = 0 if is_ready(status) else NOT_READY
            _print(uproxy, status, args.json)
    except BrokenPipeError:
        # the reader has ended (`| head`): let the interpreter flush to /dev/null at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _asked(args: argparse.Namespace) -> Uproxy:
    """Return the uProxy that the arguments name."""
    if args.config is None:
        return Uproxy(parse_address(args.admin))
    file = Path(args.config)
    return Uproxy(configured_address(file, os.environ), file)


def _print(uproxy: Uproxy, status: Status, as_json: bool) -> None:
    """Print the status once, as text or JSON."""
    if as_json:
        print(json.dumps(status, indent=2))
        return
    width = terminal_size().columns if sys.stdout.isatty() else None
    for line in render(status, width, asked=uproxy.address):
        print(line.text)


def _watch_plainly(uproxy: Uproxy, as_json: bool) -> None:
    """Print the status each second, as text or as one line of JSON, until Ctrl-C."""
    earlier: Earlier | None = None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            status = uproxy.fetch()
            if as_json:
                print(json.dumps(status), flush=True)
            else:
                lines = render(status, None, earlier, asked=uproxy.address)
                print(*(line.text for line in lines), "", sep="\n", flush=True)
            time.sleep(UPDATE_EVERY_S)
            earlier = Earlier(status, UPDATE_EVERY_S)
