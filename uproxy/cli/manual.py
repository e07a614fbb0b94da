"""`uproxy manual`: prints the man page, uproxy(1), for `man -l -` and for packages."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator

from uproxy import __version__
from uproxy.cli.command_tree import Argument, Command, CommandTree, command_tree

_DATE = "2026-11-29"
"""When the words of this module were last changed; a page has to have a date."""

EXIT_CODES = {
    0: "Done.",
    1: "Failed while running: a socket in use, nothing answers, and the like.",
    2: "Wrong usage, or wrong configuration.",
    3: "Not permitted; the message names the privilege.",
    4: "No identity in the time given to `check --wait`.",
    5: "`status`: it answers and isn't ready; `capture status`: one is stale or half made.",
    6: "`check --as`: the caller would be refused; `explain`: one was.",
    130: "Ended by Ctrl-C.",
}

ENVIRONMENT = {
    "UPROXY__…": "Settings: the path in capitals with two underscores between its parts, as in "
    "UPROXY__TIMEOUTS__IDLE=2h. They win over the file, and --set over them.",
    "SPIFFE_ENDPOINT_SOCKET": "The Workload API, where the configuration names no identity.",
    "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS": "From systemd: notification, watchdog, sockets.",
    "XDG_RUNTIME_DIR": "Where `authority` makes its sockets.",
    "SSLKEYLOGFILE, OPENSSL_CONF, OPENSSL_MODULES": "Ignored.",
}

SIGNALS = {
    "SIGTERM, SIGINT": "`run` drains, then exits with 0; a second one ends it at once.",
    "SIGHUP": "`run` and `authority` read their file again. A wrong one changes nothing.",
    "SIGUSR1": "`authority` rotates its CAs.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `manual` has no arguments."""


def run(args: argparse.Namespace) -> int:  # noqa: ARG001  every command has this shape
    """Print the page."""
    print(manual(command_tree()), end="")
    return 0


def manual(tree: CommandTree) -> str:
    """Return the page in the man(7) macros that every man program knows."""
    name = tree.summary[:1].lower() + tree.summary[1:].rstrip(".")
    lines = [
        f'.TH UPROXY 1 {_DATE} "uproxy {__version__}" "User commands"',
        ".SH NAME",
        *_wrapped(rf"uproxy \- {_text(name)}"),
        ".SH SYNOPSIS",
        *(line for command in tree.commands for line in _synopsis(command, tree)),
        ".SH DESCRIPTION",
        *_DESCRIPTION,
        ".SH OPTIONS",
        *(line for option in tree.options for line in _argument(option)),
        ".SS Options of every command",
        *(line for option in tree.common for line in _argument(option)),
        ".SH COMMANDS",
        *(line for command in tree.commands for line in _command(command, tree)),
        ".SH EXIT STATUS",
        *_list({str(code): meaning for code, meaning in EXIT_CODES.items()}),
        ".SH SIGNALS",
        *_list(SIGNALS),
        ".SH ENVIRONMENT",
        *_list(ENVIRONMENT),
        ".SH EXAMPLES",
        *_EXAMPLES,
        ".SH SEE ALSO",
        ".BR systemd.socket (5),",
        ".BR openssl (1)",
    ]
    return "\n".join((*lines, ""))


_DESCRIPTION = (
    "uProxy is a micro-proxy that lives with one workload.",
    "It holds the workload's SPIFFE identity, speaks mutual TLS for it in both",
    "directions, and lets callers in by identity.",
    "What it does is described in a file in YAML, which",
    r".B uproxy check",
    "checks without starting anything.",
)
_EXAMPLES = (
    "Check a configuration, fetch an identity, then run:",
    ".PP",
    ".nf",
    r"    uproxy check orders.yaml \-\-wait 10s",
    r"    uproxy run \-\-config orders.yaml",
    ".fi",
    ".PP",
    "See what it does:",
    ".PP",
    ".nf",
    r"    uproxy status \-\-watch",
    ".fi",
)


def _synopsis(command: Command, tree: CommandTree) -> Iterator[str]:
    """Yield the lines of a command: required options as they are, others in brackets."""
    if command is not tree.commands[0]:
        yield ".br"
    own = [each for each in command.arguments if each not in tree.common]
    arguments = [*(each for each in own if not each.flags), *(each for each in own if each.flags)]
    yield from _wrapped(" ".join((rf"\fBuproxy {command.name}\fR", *map(_usage, arguments))))


def _usage(argument: Argument) -> str:
    value = rf"\fI{_text(argument.takes)}\fR" if argument.takes else ""
    more = r"\&..." if argument.repeats else ""
    if not argument.flags:
        return f"[{value}{more}]" if argument.repeats else value
    text = rf"\fB{_text(argument.flags[-1])}\fR" + (f" {value}" if value else "")
    return f"{text}{more}" if argument.required else f"[{text}]{more}"


def _command(command: Command, tree: CommandTree) -> Iterator[str]:
    yield rf".SS {_text(command.name)}"
    yield from _wrapped(_text(command.summary[:1].upper() + command.summary[1:]) + ".")
    for argument in command.arguments:
        if argument not in tree.common:
            yield from _argument(argument)


def _argument(argument: Argument) -> Iterator[str]:
    flags = ", ".join(rf"\fB{_text(flag)}\fR" for flag in argument.flags)
    value = rf"\fI{_text(argument.takes)}\fR" if argument.takes else ""
    yield ".TP"
    yield " ".join(part for part in (flags, value) if part)
    yield from _wrapped(_text(argument.help))


def _list(meanings: dict[str, str]) -> Iterator[str]:
    for name, meaning in meanings.items():
        yield ".TP"
        yield rf"\fB{_text(name)}\fR"
        yield from _wrapped(_text(meaning))


def _wrapped(text: str) -> Iterator[str]:
    """Yield lines that are short enough for roff's users, none of which is taken for a macro."""
    for line in textwrap.wrap(text, 79, break_long_words=False, break_on_hyphens=False):
        yield rf"\&{line}" if line.startswith((".", "'")) else line


def _text(text: str) -> str:
    """Return text that roff shows as it is, with `code` in bold."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("…", r"\&...")
    return re.sub("`([^`]*)`", r"\\fB\1\\fR", text)
