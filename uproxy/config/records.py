"""The kind of mappings with known keys: it combines fields and becomes one object.

Reading a record returns a Draft: the valid values, and where each key was written.  `build`
turns drafts without mistakes into settings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from uproxy.config.kinds import WRONG, Json, Kind, is_not, nearest, not_yet, with_hint
from uproxy.config.nodes import Entry, ListNode, MapNode, Node, Scalar, join, mistake
from uproxy.config.overrides import PREFIX
from uproxy.model import Mistake


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a record."""

    name: str
    kind: Kind
    doc: str
    """One line for the reference and for editors."""
    default: object = None
    """As written in a file; None if there is none, or it is computed."""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known keys, from which `makes` builds an object."""

    makes: Callable[..., object]
    fields: tuple[Field, ...]
    words: str = "a mapping"
    later: Mapping[str, str] = field(default_factory=dict)
    """Keys of later versions, with what to use today."""
    computed: Callable[[Draft, str], Mapping[str, object]] = lambda _draft, _key: {}
    """Returns values for absent keys; called with the draft and the key of the record itself."""

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind; returns a Draft."""
        known = {each.name: each for each in self.fields}
        if not isinstance(node, MapNode):
            from uproxy.config import hints  # to save memory: a running uProxy has no mistakes

            words = self.words
            words += f" with the keys {', '.join(known)}" if words == "a mapping" else ""
            reason = with_hint(is_not(node, words), hints.about_record(node, known))
            mistakes.append(mistake(path, node, reason))
            return WRONG
        values: dict[str, object] = {}
        misspelled: set[str | None] = set()
        for entry in node.entries:
            where = join(path, entry.key)
            if entry.key in known:
                value = known[entry.key].kind.read(entry.node, where, mistakes)
                if value is not WRONG:
                    values[entry.key] = value
            elif entry.key in self.later:
                mistakes.append(mistake(where, entry.place, not_yet(self.later[entry.key])))
            else:
                mistakes.append(_unknown(entry, where, known, told=None in misspelled))
                misspelled.add(mistakes[-1].nearest)
        draft = Draft(self, path, node, MappingProxyType(values), frozenset(misspelled))
        if not any(key in self.later for key in node.keys):
            # a record with keys of a later version may not need the keys required today
            mistakes.extend(
                draft.wrong(each.name, f"is missing; must be {each.kind.words}")
                for each in self.fields
                if each.required and draft.lacks(each.name)
            )
        return draft

    def schema(self) -> Json:
        """See Kind."""
        properties = {}
        for each in self.fields:
            properties[each.name] = {"description": each.doc, **each.kind.schema()}
            if each.default is not None:
                properties[each.name]["default"] = each.default
        found: Json = {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
        }
        required = [each.name for each in self.fields if each.required]
        return {**found, "required": required} if required else found


def _unknown(entry: Entry, path: str, known: Collection[str], *, told: bool) -> Mistake:
    """Return the mistake about a key that is none of those known; `told`: an earlier one of the
    same record says which these are."""
    from uproxy.config import hints  # to save memory: a running uProxy has no mistakes

    hint = hints.about_key(entry.key, known, entry.place.source.startswith(PREFIX))
    similar = nearest(entry.key, known) if hint is None else None
    if hint is None and similar is None and not told:
        hint = f"the keys here are {', '.join(known)}"
    return mistake(path, entry.place, with_hint("no such key", hint), similar)


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that was read: its valid values, and where they were written."""

    record: Record
    path: str
    node: MapNode
    values: Mapping[str, Any]
    misspelled: frozenset[str | None] = frozenset()
    """The keys that unknown ones resemble, which have been reported."""

    def has(self, key: str) -> bool:
        """Return whether the key was written, valid or not."""
        return self.node.get(key) is not None

    def lacks(self, key: str) -> bool:
        """Return whether the key was forgotten: neither written nor misspelled."""
        return not self.has(key) and key not in self.misspelled

    def get(self, key: str) -> Any:
        """Return the value; None if it is absent or invalid."""
        return self.values.get(key)

    def drafts(self, key: str) -> Sequence[Draft]:
        """Return the drafts in a list or mapping of records."""
        found = self.values.get(key, ())
        return tuple(found.values()) if isinstance(found, Mapping) else tuple(found)

    def wrong(self, key: str, reason: str, hint: str | None = None) -> Mistake:
        """Return a mistake about one of the keys."""
        return self.wrong_item(key, None, reason, hint)

    def wrong_item(
        self, key: str, index: int | None, reason: str, hint: str | None = None
    ) -> Mistake:
        """Return a mistake about one item of a list (`index`), or about a whole key."""
        node = self.node.get(key)
        path = join(self.path, key)
        if index is not None and isinstance(node, ListNode):
            node, path = node.items[index], join(path, index)
        return mistake(path, self.node.place if node is None else node, reason, hint)


@dataclass(frozen=True, slots=True)
class ShortFor:
    """A record, or the value of its key `key` alone where nothing else is said."""

    key: str
    item: Record

    @property
    def words(self) -> str:
        """See Kind."""
        return f"{self._short.words}, or {self.item.words}"

    @property
    def _short(self) -> Kind:
        return next(each.kind for each in self.item.fields if each.name == self.key)

    def read(self, node: Node, path: str, mistakes: list[Mistake]) -> object:
        """See Kind; returns a Draft."""
        if isinstance(node, MapNode):
            return self.item.read(node, path, mistakes)
        if not isinstance(node, Scalar):
            mistakes.append(mistake(path, node, is_not(node, self.words)))
            return WRONG
        value = self._short.read(node, path, mistakes)
        if value is WRONG:
            return WRONG
        written = MapNode((Entry(self.key, node.place, node),), node.place)
        return Draft(self.item, path, written, MappingProxyType({self.key: value}))

    def schema(self) -> Json:
        """See Kind."""
        return {"anyOf": [self._short.schema(), self.item.schema()]}


def build(value: object, key: str = "") -> object:
    """Return the object that a draft describes, with the objects of the drafts inside it.

    The drafts must be without mistakes.  `key` is the draft's key in a mapping whose keys are
    chosen by the user.
    """
    if isinstance(value, Draft):
        values = {**value.record.computed(value, key), **value.values}
        built = {_python_name(name): build(each) for name, each in values.items()}
        return value.record.makes(**built)
    if isinstance(value, tuple):
        return tuple(build(each) for each in value)
    if isinstance(value, Mapping):
        return MappingProxyType({name: build(each, name) for name, each in value.items()})
    return value


def _python_name(name: str) -> str:
    return "from_" if name == "from" else name
