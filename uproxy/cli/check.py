"""`uproxy check`: checks a configuration as far as possible without starting the proxy."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sized
from pathlib import Path

from uproxy import libssl, sockets
from uproxy.app.budget import budget_of
from uproxy.app.configuration import ConfigurationFile
from uproxy.app.identity import check_files, make_source
from uproxy.cli import add_configuration_arguments
from uproxy.config import Settings, warnings
from uproxy.config.scalars import duration
from uproxy.errors import ConfigError, UproxyError, UsageError
from uproxy.model import Mistake, UnixAddress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check`."""
    add_configuration_arguments(parser)
    parser.add_argument(
        "--wait",
        metavar="DURATION",
        default=None,
        help="also fetch an identity, waiting at most this long (10s); exit 4 if none comes",
    )


def run(args: argparse.Namespace) -> int:
    """Print every mistake and exit with 2, or print that it is good.  Warnings don't change the
    exit code."""
    wait = None if args.wait is None else _duration(args.wait)
    path = Path(args.config)
    settings = ConfigurationFile(path, tuple(args.overrides), os.environ).read()
    for warning in warnings(settings):
        print(f"uproxy: warning: {warning}", file=sys.stderr)
    for note in check_files(settings.identity):
        print(f"uproxy: warning: identity.files: {note}", file=sys.stderr)
    libssl.check()
    _check_owners(settings)
    _check_limits(settings)
    if wait is not None:
        # the error, if there is one, says what the source would log
        logging.getLogger("uproxy").addHandler(logging.NullHandler())
        print(asyncio.run(_fetch(settings, wait)))
    print(f"{path}: {_summary(settings)}")
    return 0


def _duration(text: str) -> float:
    """Parse the duration of `--wait` into seconds."""
    try:
        return duration(text)
    except ValueError as error:
        raise UsageError(f"--wait {text!r}: {error}") from None


def _check_owners(settings: Settings) -> None:
    """Refuse an `owner` that doesn't exist on this machine."""
    for index, door in enumerate(settings.outbound):
        if door.owner is not None and isinstance(door.listen, UnixAddress):
            try:
                sockets.owner_ids(Path(door.listen.path), door.owner)
            except UproxyError as error:
                raise ConfigError((Mistake(f"outbound[{index}].owner", str(error)),)) from error


def _check_limits(settings: Settings) -> None:
    """Warn if `limits.connections` doesn't fit into the descriptor limit."""
    budget = budget_of(settings)
    if budget.note:
        print(f"uproxy: warning: {budget.note}", file=sys.stderr)


async def _fetch(settings: Settings, wait: float) -> str:
    """Fetch an identity within `wait` seconds; return a line about it."""
    from uproxy.identity.workload_api.source import fetch_once

    credentials = await fetch_once(make_source(settings.identity), wait)
    svid = credentials.svid
    if svid is None:
        raise UproxyError(credentials.reason)
    domains = ", ".join(sorted(credentials.bundles))
    return f"identity {svid.spiffe_id} until {svid.not_after.isoformat()}, trusts {domains}"


def _summary(settings: Settings) -> str:
    """Return how many doors, destinations and rules there are."""
    counted = (
        _counted(settings.destinations, "destination"),
        _counted(settings.authorization, "rule"),
    )
    doors = f"{len(settings.inbound)} inbound, {len(settings.outbound)} outbound"
    return ", ".join((f"good: {doors}", *counted))


def _counted(things: Sized, word: str) -> str:
    """Return how many there are, in words: `1 rule`, `2 rules`."""
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"
