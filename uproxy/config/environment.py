"""Finds environment variables that were meant to override a setting and don't."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from uproxy.config.fields import SETTINGS
from uproxy.config.kinds import Kind, ListOf, MapOf, Nullable, WordOr
from uproxy.config.overrides import PREFIX
from uproxy.config.records import Record
from uproxy.model import Mistake

_ALMOST = PREFIX.removesuffix("_")


def misnamed(environ: Mapping[str, str], text: str) -> Iterator[Mistake]:
    """Yield a warning for each variable that has the words of a setting, and single underscores
    between them or small letters.  A variable that `text`, the configuration, names as `${NAME}`
    has another use; what Kubernetes defines for a Service named uproxy has the words of no
    setting."""
    for name in sorted(environ):
        capitals = name.upper()
        if not capitals.startswith(_ALMOST) or name.startswith(PREFIX) or f"${{{name}}}" in text:
            continue
        words = [word for word in capitals.removeprefix(_ALMOST).split("_") if word]
        parts = _parts(SETTINGS, words)
        if parts:
            right = PREFIX + "__".join(parts)
            rule = "two underscores stand between the parts of a name"
            rule = rule if name == capitals else f"its name is written in capitals, and {rule}"
            yield Mistake(name, f"sets nothing: {rule}, as in {right}")


def _parts(kind: Kind, words: Sequence[str]) -> list[str] | None:
    """Return the parts of the path below a setting of this kind that the words mean; None if they
    mean none."""
    if not words:
        return []
    if isinstance(kind, Nullable | WordOr):
        return _parts(kind.item, words)
    return next((found for found in _choices(kind, words) if found), None)


def _choices(kind: Kind, words: Sequence[str]) -> Iterator[list[str] | None]:
    """Yield what the words can mean, by where the first part ends."""
    if isinstance(kind, Record):
        for field in kind.fields:
            name = field.name.upper().split("_")
            if list(words[: len(name)]) == name:
                yield _joined("_".join(name), field.kind, words[len(name) :])
    elif isinstance(kind, ListOf) and words[0].isdigit():
        yield _joined(words[0], kind.item, words[1:])
    elif isinstance(kind, MapOf):
        for end in range(1, len(words) + 1):
            yield _joined("_".join(words[:end]), kind.item, words[end:])


def _joined(part: str, kind: Kind, words: Sequence[str]) -> list[str] | None:
    rest = _parts(kind, words)
    return None if rest is None else list(chain([part], rest))
