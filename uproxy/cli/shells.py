"""Renders the command line as completion scripts for bash, zsh and fish.

The scripts are static: they run no uProxy while somebody types, and need nothing but the shell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from uproxy.cli.command_tree import Argument, Command, CommandTree, settings

_HEAD = "made by `uproxy completion {}`"


def bash(tree: CommandTree) -> str:
    """Return a script for bash 4.4 or newer."""
    commands = [_bash_command(each) for each in tree.commands]
    paths = " ".join(f"{path}=" for path in settings())
    first = " ".join([*(each.name for each in tree.commands), *_flags(tree.options)])
    values = [line for command in tree.commands for line in _bash_values(command)]
    return "\n".join(
        (
            f"# bash completion for uproxy, {_HEAD.format('bash')}",
            "_uproxy() {",
            "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
            "    local command= index words= files=",
            "    # --config=FILE is three words",
            "    [[ $word == = ]] && word=",
            "    [[ $before == = ]] && before=${COMP_WORDS[COMP_CWORD-2]}",
            "    for ((index = 1; index < COMP_CWORD; index++)); do",
            "        [[ ${COMP_WORDS[index]} == -* ]] && continue",
            "        command=${COMP_WORDS[index]}",
            "        break",
            "    done",
            "    case $command:$before in",
            f"    *:--set) compopt -o nospace; words={_quoted(paths)} ;;",
            *values,
            "    *) case $command in",
            f"        '') words={_quoted(first)} ;;",
            *commands,
            "        esac ;;",
            "    esac",
            '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")',
            "    if [[ $files && $word != -* ]]; then",
            "        compopt -o filenames",
            '        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$word")',
            "    fi",
            "}",
            "complete -F _uproxy uproxy",
            "",
        )
    )


def _bash_values(command: Command) -> Iterator[str]:
    """Yield a case for each option that takes a value: what the value can be."""
    for option in command.options:
        if option.takes and not option.is_setting:
            names = "|".join(f"{command.name}:{flag}" for flag in option.flags)
            what = f"words={_quoted(' '.join(option.choices))}" if option.choices else ":"
            yield f"    {names}) {'files=yes' if option.is_file else what} ;;"


def _bash_command(command: Command) -> str:
    """Return the case of a command: its options, and what its positional arguments can be."""
    choices = [each for positional in command.positionals for each in positional.choices]
    words = _quoted(" ".join([*choices, *_flags(command.options)]))
    files = " files=yes" if any(each.is_file for each in command.positionals) else ""
    return f"        {command.name}) words={words}{files} ;;"


def zsh(tree: CommandTree) -> str:
    """Return a script that is a function of zsh's completion system."""
    commands = [f"            {_quoted(f'{each.name}:{each.summary}')}" for each in tree.commands]
    return "\n".join(
        (
            "#compdef uproxy",
            f"# zsh completion for uproxy, {_HEAD.format('zsh')}",
            "_uproxy_settings() {",
            f"    compadd -S '' -- {' '.join(f'{path}=' for path in settings())}",
            "}",
            "_uproxy() {",
            "    local curcontext=$curcontext context state state_descr line",
            "    typeset -A opt_args",
            "    local -a commands",
            f"    _arguments -C {' '.join(_zsh_argument(each) for each in tree.options)} \\",
            "        '1: :->command' '*:: :->arguments'",
            "    case $state in",
            "    command)",
            "        commands=(",
            *commands,
            "        )",
            "        _describe -t commands command commands ;;",
            "    arguments)",
            "        case $words[1] in",
            *(line for command in tree.commands for line in _zsh_command(command)),
            "        esac ;;",
            "    esac",
            "}",
            "# read from a folder in fpath, or by `source` or `eval`",
            'if [[ $funcstack[1] == _uproxy ]]; then _uproxy "$@"; else compdef _uproxy uproxy; fi',
            "",
        )
    )


def _zsh_command(command: Command) -> Iterator[str]:
    yield f"        {command.name})"
    lines = [f"                {_zsh_argument(each)}" for each in command.arguments]
    yield "            _arguments \\"
    yield " \\\n".join(lines) + " ;;"


def _zsh_argument(argument: Argument) -> str:
    """Return an argument as `_arguments` takes it."""
    value = f"({' '.join(argument.choices)})" if argument.choices else ""
    if argument.is_file:
        value = "_files"
    elif argument.is_setting:
        value = "_uproxy_settings"
    name = _zsh_text(argument.takes)
    if not argument.flags:
        return _quoted(f"{'*' if argument.repeats else ''}:{name}:{value or ' '}")
    help_ = f"[{_zsh_text(argument.help)}]"
    rest = f"{help_}:{name}:{value or ' '}" if argument.takes else help_
    return " ".join(
        _quoted(f"{'*' if argument.repeats else ''}{flag}{rest}") for flag in argument.flags
    )


def _zsh_text(text: str) -> str:
    """Return text without a meaning inside `[…]` and between colons."""
    for special in "\\[]:":
        text = text.replace(special, f"\\{special}")
    return text


def fish(tree: CommandTree) -> str:
    """Return a script for fish."""
    lines = [f"# fish completion for uproxy, {_HEAD.format('fish')}", "complete -c uproxy -f"]
    first = "__fish_use_subcommand"
    lines += [_fish_option(first, each) for each in tree.options]
    for command in tree.commands:
        name = f"-a {command.name} -d {_fish_quoted(command.summary)}"
        lines.append(f"complete -c uproxy -n {first} {name}")
    for command in tree.commands:
        seen = _quoted(f"__fish_seen_subcommand_from {command.name}")
        lines += [_fish_option(seen, each) for each in command.options]
        lines += [_fish_positional(seen, each) for each in command.positionals]
    return "\n".join((*lines, ""))


def _fish_option(when: str, option: Argument) -> str:
    flags = " ".join(
        f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
    )
    value = ""
    if option.is_file:
        value = " -r -F"
    elif option.is_setting:
        value = f" -x -a {_fish_quoted(' '.join(f'{path}=' for path in settings()))}"
    elif option.choices:
        value = f" -x -a {_fish_quoted(' '.join(option.choices))}"
    elif option.takes:
        value = " -x"
    return f"complete -c uproxy -n {when} {flags}{value} -d {_fish_quoted(option.help)}"


def _fish_positional(when: str, argument: Argument) -> str:
    value = "-F" if argument.is_file else f"-a {_fish_quoted(' '.join(argument.choices))}"
    return f"complete -c uproxy -n {when} {value}"


def _flags(options: Sequence[Argument]) -> list[str]:
    """Return the long form of each option."""
    return [option.flags[-1] for option in options]


def _quoted(text: str) -> str:
    """Return text in single quotes, as bash and zsh read it."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    """Return text in single quotes, as fish reads it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
