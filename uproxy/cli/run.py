"""`uproxy run`: the proxy, in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from uproxy.cli import add_configuration_arguments
from uproxy.cli.lean import lean_imports
from uproxy.cli.openssl import load_openssl

with lean_imports():
    load_openssl()

    import uvloop

    from uproxy.app.configuration import ConfigurationFile
    from uproxy.app.process import serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `run` takes."""
    add_configuration_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve.  Returns 0 after an orderly end."""
    overrides = list(args.overrides)
    if args.log_level:
        overrides.append(f"log.level={args.log_level}")
    # a copy: what systemd or a library changes later must not change a reload
    file = ConfigurationFile(Path(args.config), tuple(overrides), dict(os.environ))
    with lean_imports():  # what is imported late
        code: int = uvloop.run(_serve_to_the_end(file))
    return code


async def _serve_to_the_end(file: ConfigurationFile) -> int:
    code = await serve(file)
    # the loop is about to let go of the signals: one more would take the exit code away
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    return code
