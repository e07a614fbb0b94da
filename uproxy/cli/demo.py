"""`uproxy demo`: two workloads talk through two uProxies, on this machine, now."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from uproxy.demo.performance import perform
from uproxy.demo.screen import Screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `demo` takes."""
    parser.add_argument("--once", action="store_true", help="end by itself when all is shown")
    parser.add_argument(
        "--apps",
        choices=("echo", "real"),
        default="echo",
        help="echo (default) needs nothing; real: PostgreSQL and nginx, psql and curl",
    )


def run(args: argparse.Namespace) -> int:
    """Show it.  Returns the exit code."""
    screen = Screen(sys.stdout, os.environ)
    try:
        return asyncio.run(perform(screen, real=args.apps == "real", once=args.once))
    except BrokenPipeError:
        # whoever read this has gone (`uproxy demo | head`): what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
