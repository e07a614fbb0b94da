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
from collections.abc import Sequence
from typing import TYPE_CHECKING

from uproxy.cli.commands import COMMANDS
from uproxy.cli.memory import too_little
from uproxy.cli.words import read_run
from uproxy.errors import ConfigError, UproxyError, in_words

if TYPE_CHECKING:
    import argparse

__all__ = ["COMMANDS", "main", "report"]

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


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Return what `argparse` makes of the words; it ends the process if they are wrong."""
    from uproxy.cli.parsing import parser_of  # to save memory: `run` does without

    called = _command(words)
    return parser_of(() if called is None else (called,)).parse_args(words)


def _command(words: Sequence[str]) -> str | None:
    """Return the command that is called, whatever options are in front of it."""
    return next((word for word in words if not word.startswith("-")), None)


def _run(words: list[str]) -> int:
    """Run one command; print its error, if any, and return the exit code."""
    if _command(words) == "run" and (error := too_little()) is not None:
        return report(error)
    args = read_run(words) or _parse(words)
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
