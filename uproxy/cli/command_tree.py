"""The command line as plain facts: each command with its options, for completions and the man
page.  They come from the argparse parser, which is the only place that defines them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from uproxy.cli.parsing import full_parser
from uproxy.config.fields import SETTINGS
from uproxy.config.kinds import Kind, Nullable
from uproxy.config.nodes import join
from uproxy.config.records import Record

_FILES = "FILE"
"""The metavar of arguments that are paths of files."""
_SETTING = "PATH=VALUE"
"""The metavar of arguments that set a setting."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An option, or a positional argument, which has no flags."""

    flags: tuple[str, ...]
    help: str
    takes: str
    """What its value is called in the help; empty: it takes none."""
    choices: tuple[str, ...]
    """The values it may have; empty: any."""
    required: bool
    repeats: bool
    """Whether it may be given more than once."""

    @property
    def is_file(self) -> bool:
        """Whether its value is the path of a file."""
        return self.takes == _FILES

    @property
    def is_setting(self) -> bool:
        """Whether its value is a setting's path, `=` and the setting's value."""
        return self.takes == _SETTING


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or with an empty name what stands in front of one."""

    name: str
    summary: str
    arguments: tuple[Argument, ...]

    @property
    def options(self) -> tuple[Argument, ...]:
        """The arguments with flags."""
        return tuple(each for each in self.arguments if each.flags)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        """The arguments without flags."""
        return tuple(each for each in self.arguments if not each.flags)


@dataclass(frozen=True, slots=True)
class CommandTree:
    """The whole command line."""

    summary: str
    options: tuple[Argument, ...]
    """Those that stand in front of a command."""
    commands: tuple[Command, ...]

    @property
    def common(self) -> tuple[Argument, ...]:
        """The options that every command has."""
        first, *others = (command.options for command in self.commands)
        return tuple(each for each in first if all(each in options for options in others))


def settings() -> tuple[str, ...]:
    """Return the path of every setting that is no section and stands in no list and no mapping of
    the user's."""
    return tuple(_settings(SETTINGS, ""))


def _settings(kind: Kind, path: str) -> Iterator[str]:
    inner = kind.item if isinstance(kind, Nullable) else kind
    if not isinstance(inner, Record):
        yield path
        return
    for field in inner.fields:
        yield from _settings(field.kind, join(path, field.name))


def command_tree() -> CommandTree:
    """Return the command line of this version."""
    parser = full_parser()
    [found] = (each for each in _actions(parser) if isinstance(each, _Commands))
    summaries = {each.dest: each.help or "" for each in found._choices_actions}
    commands = tuple(
        Command(name, summaries[name], tuple(_arguments(child)))
        for name, child in found.choices.items()
    )
    return CommandTree(parser.description or "", tuple(_arguments(parser)), commands)


_Commands = argparse._SubParsersAction


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    # argparse lists them nowhere else; the names have been the same since Python 2.7
    return parser._actions


def _arguments(parser: argparse.ArgumentParser) -> Iterator[Argument]:
    for action in _actions(parser):
        if not isinstance(action, _Commands):
            yield _argument(action)


def _argument(action: argparse.Action) -> Argument:
    choices = tuple(map(str, action.choices or ()))
    metavar = action.metavar if isinstance(action.metavar, str) else None
    return Argument(
        flags=tuple(action.option_strings),
        help=action.help or "",
        takes="" if action.nargs == 0 else metavar or "|".join(choices) or action.dest.upper(),
        choices=choices,
        required=action.required,
        repeats=action.nargs in ("*", "+") or isinstance(action, argparse._AppendAction),
    )
