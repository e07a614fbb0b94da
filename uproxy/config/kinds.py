"""The grammar of settings: what a field may hold, said once and used three times.

A kind reads a node into a value (adding every mistake to one list), describes itself as JSON
Schema, and names itself for people.  `records` puts kinds together, `fields` is the table;
what several fields must obey together is in `checks`.
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
    """What reading gives where a mistake was made."""


WRONG: Final = _Wrong()
VARIABLE: Final[Json] = {"type": "string", "pattern": rf"\$\{{{NAME}\}}"}
"""Any scalar may hold a variable instead of its final text."""


class Kind(Protocol):
    """What a field may hold."""

    @property
    def words(self) -> str:
        """For people: `a duration`."""

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """The value, or WRONG after adding the reason to `mistakes`."""

    def schema(self) -> Json:
        """JSON Schema, draft 2020-12."""


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that was probably meant."""
    # only a mistake needs it, and a running uProxy has made none
    import difflib

    return next(iter(difflib.get_close_matches(word, list(words), 1)), None)


def not_yet(way_out: str) -> str:
    """The words for what a coming version will know."""
    return f"is not in this version yet; {way_out}"


def is_not(node: Node, words: str) -> str:
    if isinstance(node, Scalar):
        if node.type is Type.NULL:
            return f"has no value; must be {words}, or leave the key out"
        return f"must be {words}, not {node.type}"
    return f"must be {words}, not a {'list' if isinstance(node, ListNode) else 'mapping'}"


@dataclass(frozen=True, slots=True)
class ScalarKind:
    """A leaf: `parse` raises ValueError or an UproxyError saying what would be right."""

    words: str
    parse: Callable[[str], object]
    shape: Json
    types: frozenset[Type] = frozenset({Type.TEXT})

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind."""
        if not isinstance(node, Scalar) or node.type is Type.NULL:
            mistakes.append(mistake(path, node, is_not(node, self.words)))
            return WRONG
        if node.type not in self.types and node.type is not Type.FREE:
            # 5 where text is wanted and "5" where a number is: one pair of quotes away
            quotes = "put it in quotes" if Type.TEXT in self.types else "write it without quotes"
            reason = f"must be {self.words}, not {node.type}"
            reason += f"; {quotes}" if self._parses(node.text) else ""
            mistakes.append(mistake(path, node, reason))
            return WRONG
        if not node.text.isprintable():
            code = next(ord(each) for each in node.text if not each.isprintable())
            mistakes.append(mistake(path, node, f"has a character for no one to see, U+{code:04X}"))
            return WRONG
        try:
            return self.parse(node.text)
        except (ValueError, UproxyError) as error:
            mistakes.append(mistake(path, node, str(error)))
            return WRONG

    def _parses(self, text: str) -> bool:
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
    """One of a few words; `later` are words of coming versions, with the way out today."""

    options: tuple[str, ...]
    later: Mapping[str, str] = field(default_factory=dict)
    decimal: bool = False
    """Whether the words look like numbers and may be written without quotes."""
    makes: Callable[[str], object] = str

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
        hint = nearest(node.text, self.options)
        mistakes.append(mistake(path, node, f"must be one of {self.words}", hint))
        return WRONG

    def schema(self) -> Json:
        """See Kind."""
        numbers = [float(option) for option in self.options] if self.decimal else []
        return {"anyOf": [{"enum": [*self.options, *numbers]}, VARIABLE]}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list."""

    item: Kind
    minimum: int = 1
    unique: bool = True
    """Scalars can be compared; records have checks of their own."""

    @property
    def words(self) -> str:
        """See Kind."""
        return f"a list, each {self.item.words}"

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind."""
        if not isinstance(node, ListNode):
            mistakes.append(mistake(path, node, is_not(node, self.words)))
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
            # what is right in a list of records can still be checked against the rest
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
    """A mapping whose keys are the user's."""

    key: ScalarKind
    item: Kind
    minimum: int = 0

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
        values: dict[str, object] = {}
        for entry in node.entries:
            where = join(path, entry.key)
            try:
                self.key.parse(entry.key)
            except (ValueError, UproxyError) as error:
                mistakes.append(mistake(where, entry.place, f"the key {error}"))
            value = self.item.read(entry.node, where, mistakes)
            if value is not WRONG:
                values[entry.key] = value
        return MappingProxyType(values)

    def schema(self) -> Json:
        """See Kind."""
        found: Json = {"type": "object", "additionalProperties": self.item.schema()}
        if self.minimum:
            found["minProperties"] = self.minimum
        return found


@dataclass(frozen=True, slots=True)
class Nullable:
    """`item`, or null; null means the values in `means`, or None."""

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
    """One word that stands for a whole value (`from: any`), or the value itself."""

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
