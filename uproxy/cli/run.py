"""`uproxy run`: runs the proxy in the foreground until SIGTERM or SIGINT."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from uproxy.cli.words import RunWords
from uproxy.lean.imports import lean_imports
from uproxy.openssl import load_openssl

with lean_imports():
    load_openssl()

    import uvloop

    from uproxy import descriptors
    from uproxy.app.configuration import ConfigurationFile
    from uproxy.app.process import serve


if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    from uproxy.cli.parsing import add_configuration_arguments  # to save memory

    add_configuration_arguments(parser)


def run(args: argparse.Namespace | RunWords) -> int:
    """Run the proxy; return 0 after it has drained."""
    overrides = list(args.overrides)
    if args.log_level:
        overrides.append(f"log.level={args.log_level}")
    # a copy, so that later changes of os.environ don't change what a reload reads
    file = ConfigurationFile(Path(args.config), tuple(overrides), dict(os.environ))
    descriptors.check_least(descriptors.raise_limit())
    with lean_imports():  # for imports while it runs
        code: int = uvloop.run(_serve(file))
    return code


async def _serve(file: ConfigurationFile) -> int:
    """Run the proxy and block the signals that end it."""
    code = await serve(file)
    # the loop is about to restore the default handlers: a signal would then kill the process
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    return code
