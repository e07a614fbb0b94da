"""The command line.  Each command is a module that is imported only if it is called.

A command module has `add_arguments(parser)` and `run(args) -> exit code`.  It reports failures
by raising an error of `uproxy.errors`; only `main` prints errors and chooses exit codes.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from uproxy import __version__
from uproxy.errors import ConfigError, UproxyError, UsageError, in_words
from uproxy.lean.imports import lean_imports

with lean_imports():
    import argparse

COMMANDS = {
    "run": "run in the foreground; SIGTERM drains, SIGHUP reloads",
    "check": "validate a configuration and print every mistake",
    "authority": "serve development identities on a real SPIFFE Workload API",
    "demo": "two workloads talk through two uProxies, on this machine, now",
    "status": "what a running uProxy is doing",
    "explain": "what became of a caller's last attempts, and the YAML to add",
    "capture": "bring a workload's connections to its uProxy, by eBPF or nft",
    "schema": "print the JSON Schema of the configuration",
    "version": "versions of uProxy, Python, OpenSSL and the kernel",
    "completion": "print the completion script of a shell",
    "manual": "print the man page",
}

IGNORED_ENVIRONMENT = ("SSLKEYLOGFILE", "OPENSSL_CONF", "OPENSSL_MODULES")
"""Variables removed at start: they could make OpenSSL log keys, weaken its settings or load
code."""

STANDARD_OUTPUT = 1
"""The file descriptor."""
STANDARD_DESCRIPTORS = (0, STANDARD_OUTPUT, 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code documented in docs/reference/cli.md."""
    _fill_standard_descriptors()
    for name in IGNORED_ENVIRONMENT:
        os.environ.pop(name, None)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except KeyboardInterrupt:
        return 130
    except MemoryError:  # in an import too
        return report(UproxyError("no memory left: raise ulimit -v, or what else limits it"))


def _fill_standard_descriptors() -> None:
    """Open /dev/null in place of standard descriptors that are closed: otherwise a socket would
    take their number, and what is meant for the terminal or the log would be sent to a peer."""
    for descriptor in STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def _command(words: Sequence[str]) -> str | None:
    """Return the command that is called, whatever options are in front of it."""
    return next((word for word in words if not word.startswith("-")), None)


def _run(words: list[str]) -> int:
    """Run one command; print its error, if any, and return the exit code."""
    called = _command(words)
    args = _parser(() if called is None else (called,)).parse_args(words)
    module = importlib.import_module(f"uproxy.cli.{args.command}")
    try:
        code: int = module.run(args)
        if sys.stdout is not None:  # None if the caller closed it
            sys.stdout.flush()
    except UproxyError as error:
        _show_traceback(args.log_level)
        return report(error)
    except OSError as error:
        _show_traceback(args.log_level)
        _discard_output()
        if isinstance(error, BrokenPipeError):
            return 1  # the reader of the pipe has ended, as `| head` does
        return report(UproxyError(_in_words(error)))
    return code


def _show_traceback(log_level: str | None) -> None:
    """Print the traceback of the exception that is being handled, if the level is `debug`."""
    if log_level == "debug":
        import traceback

        with contextlib.suppress(OSError):  # standard error is closed
            traceback.print_exc()


def _in_words(error: OSError) -> str:
    """Return what the system refused to a command, with the likely cause."""
    reason = in_words(error)
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    if error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):  # what writing fails with
        return f"{reason}: is standard output gone or full?"
    return f"{reason}: is this machine short of something?"


def _discard_output() -> None:
    """Redirect standard output to /dev/null, so that the interpreter doesn't fail on flushing
    it again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_OUTPUT)
    os.close(nowhere)


def report(error: UproxyError) -> int:
    """Print an error, or each mistake of a configuration; return the exit code."""
    lines = [f"uproxy: error: {error}"]
    if isinstance(error, ConfigError):
        lines = [mistake.labelled("error") for mistake in error.mistakes]
    with contextlib.suppress(OSError):  # standard error is closed: only the exit code can report it
        for line in lines:
            print(line, file=sys.stderr)
    return error.exit_code


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
    return _parser(tuple(COMMANDS))


def _parser(called: Collection[str]) -> argparse.ArgumentParser:
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
            choices=("debug", "info", "warning", "error"),
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
