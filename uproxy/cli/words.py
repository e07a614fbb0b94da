"""The words of `uproxy run`, read without `argparse`, which is 0.3 MiB of memory."""

from __future__ import annotations

from collections.abc import Sequence

from uproxy.cli.commands import LOG_LEVELS
from uproxy.lean.imports import lean_imports

with lean_imports():
    from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunWords:
    """What `argparse` would make of the words, as attributes of the same names."""

    config: str
    overrides: tuple[str, ...]
    log_level: str | None
    command: str = "run"


def read_run(words: Sequence[str]) -> RunWords | None:
    """Return what the words say, if they are `run` and its options in full, each with its value.
    None: `argparse` is to read them, which knows every other command, abbreviations and --help,
    and tells mistakes."""
    if not words or words[0] != "run":
        return None
    found: dict[str, list[str]] = {"--config": [], "--set": [], "--log-level": []}
    rest = iter(words[1:])
    for word in rest:
        option, is_one_word, value = word.partition("=")
        if not is_one_word:
            value = next(rest, "-")
        if option not in found or not value or value.startswith("-"):
            return None
        found[option].append(value)
    level = found["--log-level"][-1] if found["--log-level"] else None
    if not found["--config"] or not {*found["--log-level"]} <= {*LOG_LEVELS}:
        return None
    return RunWords(found["--config"][-1], tuple(found["--set"]), level)
