"""The kinds of values that a setting can have.

A kind reads a node into a value (appending mistakes to a list), returns its JSON Schema, and
has words that describe it to people.  `records` combines kinds into mappings, `fields` uses them
for every setting; `checks` has the rules that concern several settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol

from uproxy.config.nodes import ListNode, MapNode, Node, Scalar, Type, join, mistake
from uproxy.config.variables import NAME
from uproxy.errors import UproxyError
from uproxy.model import Mistake

Json = dict[str, Any]


class _Wrong:
    """The type of WRONG."""


WRONG: Final = _Wrong()
"""Returned by `Kind.read` after it appended a mistake."""
VARIABLE: Final[Json] = {"type": "string", "pattern": rf"\$\{{{NAME}\}}"}
"""The schema of `${NAME}`, which may stand in place of any scalar."""


class Kind(Protocol):
    """What a setting can hold."""

    @property
    def words(self) -> str:
        """A description for people: `a duration`."""

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """Return the value, or WRONG after appending the reason to `mistakes`."""

    def schema(self) -> Json:
        """Return the JSON Schema, draft 2020-12."""


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the most similar of `words`, or None if none is similar."""
    # imported here to save memory: a running uProxy has no mistakes
    import difflib

    return next(iter(difflib.get_close_matches(word, list(words), 1)), None)


def with_hint(reason: str, hint: str | None) -> str:
    """Return a reason, followed by the way out if there is one."""
    return reason if hint is None else f"{reason}; {hint}"


def not_yet(way_out: str) -> str:
    """Return the reason for refusing something that only a later version will support."""
    return f"is not in this version yet; {way_out}"


def is_not(node: Node, words: str) -> str:
    """Return the reason for refusing a node that isn't `words`."""
    if isinstance(node, Scalar):
        if node.type is Type.NULL:
            return f"has no value; must be {words}, or leave the key out"
        return f"must be {words}, not {node.type}"
    return f"must be {words}, not a {'list' if isinstance(node, ListNode) else 'mapping'}"


@dataclass(frozen=True, slots=True)
class ScalarKind:
    """A scalar.  `parse` raises ValueError or UproxyError with what would be right."""

    words: str
    parse: Callable[[str], object]
    shape: Json
    """The JSON Schema of the value."""
    types: frozenset[Type] = frozenset({Type.TEXT})
    """The YAML types that are accepted."""
    example: str = ""
    """A valid value, for who writes one of another type."""

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind."""
        if not isinstance(node, Scalar) or node.type is Type.NULL:
            mistakes.append(mistake(path, node, is_not(node, self.words)))
            return WRONG
        if node.type not in self.types and node.type is not Type.FREE:
            # text where a number is wanted, or the reverse: quotes may be all that is wrong
            quotes = "put it in quotes" if Type.TEXT in self.types else "write it without quotes"
            reason = f"must be {self.words}, not {node.type}"
            instead = f"write one such as {self.example}" if self.example else None
            reason = with_hint(reason, quotes if self._parses(node.text) else instead)
            mistakes.append(mistake(path, node, reason))
            return WRONG
        if not node.text.isprintable():
            code = next(ord(each) for each in node.text if not each.isprintable())
            mistakes.append(mistake(path, node, f"has an invisible character, U+{code:04X}"))
            return WRONG
        try:
            return self.parse(node.text)
        except (ValueError, UproxyError) as error:
            from uproxy.config import hints  # to save memory, as in `nearest`

            reason = with_hint(str(error), hints.about_text(node.text))
            mistakes.append(mistake(path, node, reason))
            return WRONG

    def _parses(self, text: str) -> bool:
        """Return whether the text would be valid."""
        try:
            self.parse(text)
        except (ValueError, UproxyError):
            return False
        return True

    def schema(self) -> Json:
        """See Kind."""
        return {"anyOf": [self.shape, VARIABLE]}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words.  `later` are words that a later version will support, with what to
    use today."""

    options: tuple[str, ...]
    later: Mapping[str, str] = field(default_factory=dict)
    decimal: bool = False
    """Whether the words look like numbers and may be written without quotes."""
    makes: Callable[[str], object] = str
    """Converts the word into the value."""

    @property
    def words(self) -> str:
        """See Kind."""
        return " | ".join(self.options)

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind."""
        if not isinstance(node, Scalar) or node.type is Type.NULL:
            mistakes.append(mistake(path, node, is_not(node, f"one of {self.words}")))
            return WRONG
        unquoted = node.type is Type.FLOAT and self.decimal
        if node.text in self.options and (unquoted or node.type in (Type.TEXT, Type.FREE)):
            return self.makes(node.text)
        if node.text in self.later:
            mistakes.append(mistake(path, node, not_yet(self.later[node.text])))
            return WRONG
        from uproxy.config import hints  # to save memory, as in `nearest`

        hint = hints.about_choice(node.text, self.options) or nearest(node.text, self.options)
        mistakes.append(mistake(path, node, f"must be one of {self.words}", hint))
        return WRONG

    def schema(self) -> Json:
        """See Kind."""
        numbers = [float(option) for option in self.options] if self.decimal else []
        return {"anyOf": [{"enum": [*self.options, *numbers]}, VARIABLE]}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of values of one kind."""

    item: Kind
    minimum: int = 1
    unique: bool = True
    """Whether equal items are refused; not for lists of records."""

    @property
    def words(self) -> str:
        """See Kind."""
        return f"a list, each {self.item.words}"

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind."""
        if not isinstance(node, ListNode):
            from uproxy.config import hints  # to save memory, as in `nearest`

            # lists of records are those whose items may be equal
            hint = hints.about_list(node, of_records=not self.unique)
            mistakes.append(mistake(path, node, with_hint(is_not(node, self.words), hint)))
            return WRONG
        if len(node.items) < self.minimum:
            mistakes.append(mistake(path, node, "is an empty list; remove the key or fill it"))
            return WRONG
        values: list[object] = []
        before = len(mistakes)
        for index, item in enumerate(node.items):
            value = self.item.read(item, join(path, index), mistakes)
            if self.unique and value is not WRONG and value in values:
                reason = f"is the same as {join(path, values.index(value))}"
                mistakes.append(mistake(join(path, index), item, reason))
            values.append(value)
        if not self.unique:
            # valid records can still be checked against other settings
            return tuple(value for value in values if value is not WRONG)
        return tuple(values) if len(mistakes) == before else WRONG

    def schema(self) -> Json:
        """See Kind."""
        found: Json = {"type": "array", "items": self.item.schema()}
        if self.minimum:
            found["minItems"] = self.minimum
        if self.unique:
            found["uniqueItems"] = True
        return found


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping whose keys are chosen by the user."""

    key: ScalarKind
    item: Kind
    minimum: int = 0
    parsed: bool = False
    """Whether the keys become what `key` makes of them, and not text."""

    @property
    def words(self) -> str:
        """See Kind."""
        return f"a mapping of {self.key.words} to {self.item.words}"

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind."""
        if not isinstance(node, MapNode):
            mistakes.append(mistake(path, node, is_not(node, self.words)))
            return WRONG
        if len(node.entries) < self.minimum:
            mistakes.append(mistake(path, node, f"is empty; must be {self.words}"))
            return WRONG
        values: dict[object, object] = {}
        for entry in node.entries:
            where, key = join(path, entry.key), None
            try:
                key = self.key.parse(entry.key)
            except (ValueError, UproxyError) as error:
                mistakes.append(mistake(where, entry.place, f"the key {error}"))
            value = self.item.read(entry.node, where, mistakes)
            if value is not WRONG:
                values[key if self.parsed else entry.key] = value
        return MappingProxyType(values)

    def schema(self) -> Json:
        """See Kind."""
        found: Json = {"type": "object", "additionalProperties": self.item.schema()}
        if self.minimum:
            found["minProperties"] = self.minimum
        return found


@dataclass(frozen=True, slots=True)
class EitherOf:
    """A mapping of one kind, or a value of another."""

    mapping: MapOf
    other: Kind

    @property
    def words(self) -> str:
        """See Kind."""
        return f"{self.other.words}, or {self.mapping.words}"

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind."""
        kind: Kind = self.mapping if isinstance(node, MapNode) else self.other
        return kind.read(node, path, mistakes)

    def schema(self) -> Json:
        """See Kind."""
        return {"anyOf": [self.other.schema(), self.mapping.schema()]}


@dataclass(frozen=True, slots=True)
class Nullable:
    """`item` or null; null becomes the value `means`."""

    item: Kind
    means: object = None

    @property
    def words(self) -> str:
        """See Kind."""
        return f"{self.item.words}, or null"

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind."""
        if isinstance(node, Scalar) and node.type is Type.NULL:
            return self.means
        return self.item.read(node, path, mistakes)

    def schema(self) -> Json:
        """See Kind."""
        return {"anyOf": [self.item.schema(), {"type": "null"}]}


@dataclass(frozen=True, slots=True)
class WordOr:
    """One word that stands for the value `means` (`from: any`), or `item`."""

    word: str
    means: object
    item: Kind

    @property
    def words(self) -> str:
        """See Kind."""
        return f"{self.word}, or {self.item.words}"

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind."""
        if isinstance(node, Scalar):
            if node.text == self.word:
                return self.means
            mistakes.append(mistake(path, node, is_not(node, self.words)))
            return WRONG
        return self.item.read(node, path, mistakes)

    def schema(self) -> Json:
        """See Kind."""
        return {"anyOf": [{"const": self.word}, VARIABLE, self.item.schema()]}
