"""`uproxy run`: the proxy, in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import uvloop

from uproxy.app.configuration import ConfigurationFile
from uproxy.app.process import serve
from uproxy.cli import add_configuration_arguments


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
    code: int = uvloop.run(serve(file))
    return code
