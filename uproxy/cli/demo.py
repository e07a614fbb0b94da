"""`uproxy demo`: two workloads talk through two uProxies on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from uproxy.errors import UproxyError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `demo`."""
    parser.add_argument("--once", action="store_true", help="end by itself when all is shown")
    parser.add_argument(
        "--capture",
        action="store_true",
        help="show capture too, in network namespaces of its own; as root",
    )
    parser.add_argument(
        "--apps",
        choices=("echo", "real"),
        default="echo",
        help="echo (default) needs nothing; real: PostgreSQL and nginx, psql and curl",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demonstration; return the exit code.

    Raises:
        UproxyError: pyOpenSSL isn't installed, or this is the one file, which has no demo.
    """
    try:  # here, so that `--help` does without it
        from uproxy.demo.runner import run_demo
        from uproxy.demo.screen import Screen
    except ModuleNotFoundError as error:
        if error.name == "uproxy.demo":
            raise UproxyError(
                "this build of uProxy has no demo: pip install 'uproxy[demo]' brings it"
            ) from error
        if error.name != "OpenSSL":
            raise
        raise UproxyError(
            "the demo's unauthorized callers speak TLS with pyopenssl, which isn't installed: "
            "pip install 'uproxy[demo]'"
        ) from error
    screen = Screen(sys.stdout, os.environ)
    try:
        return asyncio.run(
            run_demo(screen, real=args.apps == "real", once=args.once, captures=args.capture)
        )
    except BrokenPipeError:
        # the reader has ended (`uproxy demo | head`): let the interpreter flush to /dev/null
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
