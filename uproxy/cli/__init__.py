"""The command line: one module per command, imported only when it is the one called.

A command module has `add_arguments(parser)` and `run(args) -> exit code`.  It says what went
wrong by raising from `uproxy.errors`; only `main` prints errors and chooses exit codes.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from uproxy.cli.lean import lean_imports
from uproxy.errors import ConfigError, UproxyError, UsageError

with lean_imports():
    import argparse

COMMANDS = {
    "run": "run in the foreground; SIGTERM drains, SIGHUP reloads",
    "check": "validate a configuration and print every mistake",
    "authority": "serve development identities on a real SPIFFE Workload API",
    "demo": "two workloads talk through two uProxies, on this machine, now",
    "status": "what a running uProxy is doing",
    "schema": "print the JSON Schema of the configuration",
    "version": "versions of uProxy, Python, OpenSSL and the kernel",
}

IGNORED_ENVIRONMENT = ("SSLKEYLOGFILE", "OPENSSL_CONF", "OPENSSL_MODULES")
"""OpenSSL would let these leak keys, weaken its settings or load code."""

STANDARD_OUTPUT = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.  Returns the exit code of docs/reference/cli.md."""
    for name in IGNORED_ENVIRONMENT:
        os.environ.pop(name, None)
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    args = _parser(words).parse_args(words)
    module = importlib.import_module(f"uproxy.cli.{args.command}")
    try:
        code: int = module.run(args)
        if sys.stdout is not None:  # as it is where the caller closed it
            sys.stdout.flush()
    except UproxyError as error:
        if args.log_level == "debug":
            raise
        return _report(error)
    except OSError as error:
        if args.log_level == "debug":
            raise
        _let_go_of_output()
        if isinstance(error, BrokenPipeError):
            return 1  # `| head` has seen enough
        return _report(UproxyError(f"{error.strerror}: is standard output gone or full?"))
    return code


def _let_go_of_output() -> None:
    """What is left for standard output goes nowhere; else the interpreter would try once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_OUTPUT)
    os.close(nowhere)


def _report(error: UproxyError) -> int:
    lines = [str(mistake) for mistake in error.mistakes] if isinstance(error, ConfigError) else []
    for line in lines or [str(error)]:
        print(f"uproxy: error: {line}", file=sys.stderr)
    return error.exit_code


class _Help(argparse.HelpFormatter):
    """As wide as the terminal; argparse would ask shutil, and import three compressors."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    try:
        return os.get_terminal_size().columns or 80
    except OSError:  # not a terminal
        return 80


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every error is told; its commands' parsers too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        self.exit(UsageError.exit_code, f"uproxy: error: {message}; see {self.prog} --help\n")


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="uproxy",
        description="A micro-proxy for one workload: SPIFFE identity, mutual TLS, "
        "authorization by identity.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    called = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument(
            "--log-level",
            choices=("debug", "info", "warning", "error"),
            default=None,
            help="overrides log.level; debug also shows tracebacks",
        )
        if name == called:
            importlib.import_module(f"uproxy.cli.{name}").add_arguments(command)
    return parser


def add_configuration_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--set`, as every command that reads a configuration takes them."""
    parser.add_argument("--config", metavar="FILE", required=True, help="YAML or JSON")
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="overrides one value, also after a reload; may be repeated",
    )
