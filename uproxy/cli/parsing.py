"""The parser of the command line."""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection
from typing import Any, NoReturn

from uproxy import __version__
from uproxy.cli.commands import COMMANDS, LOG_LEVELS
from uproxy.errors import UsageError
from uproxy.lean.imports import lean_imports

with lean_imports():
    import argparse


class _HelpFormatter(argparse.HelpFormatter):
    """Formats help as wide as the terminal. argparse would find the width with shutil, which
    imports three compression modules."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    """Return the terminal's width in characters; 80 if it isn't a terminal."""
    try:
        return os.get_terminal_size().columns or 80
    except OSError:  # not a terminal
        return 80


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line, as all errors are; also used for the commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        self.exit(UsageError.exit_code, f"uproxy: error: {message}; see {self.prog} --help\n")


def full_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, for which every command is imported."""
    return parser_of(tuple(COMMANDS))


def parser_of(called: Collection[str]) -> argparse.ArgumentParser:
    """Return the parser, in which only the commands that are `called` have their arguments."""
    parser = _Parser(
        prog="uproxy",
        description="A micro-proxy for one workload: SPIFFE identity, mutual TLS, "
        "authorization by identity.",
    )
    parser.add_argument(
        "--version", action="version", version=f"uproxy {__version__}", help="print the version"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument(
            "--log-level",
            choices=LOG_LEVELS,
            default=None,
            help="overrides log.level; debug also shows tracebacks",
        )
        if name in called:
            importlib.import_module(f"uproxy.cli.{name}").add_arguments(command)
    return parser


def add_configuration_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add `--config` and `--set`, which all commands that read a configuration have."""
    parser.add_argument("--config", metavar="FILE", required=required, help="YAML or JSON")
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="overrides one value, also after a reload; may be repeated",
    )
