"""Parses YAML text into a tree of nodes that know their line and column.

PyYAML's parser delivers the events; this module builds nodes from what a configuration needs
and refuses the rest with a reason.  Rules: scalars by YAML 1.2's core schema (`no`, `off` and
`15:30` are text), one document, no duplicate keys, no aliases, no tags, bounded size, depth
and number of nodes.  JSON is accepted as YAML.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from uproxy.config.nodes import (
    NULLS,
    Entry,
    ListNode,
    MapNode,
    Node,
    Place,
    Scalar,
    Style,
    clip,
    join,
    lines_of,
    mistake,
)
from uproxy.errors import ConfigError
from uproxy.lean import yaml_events as yaml
from uproxy.model import Mistake


class _Mark(Protocol):
    """PyYAML's position in the text; both numbers are 0-based."""

    line: int
    column: int


MAX_CHARACTERS = 1 << 22
"""The size of a Kubernetes ConfigMap."""
MAX_NODES = 100_000
"""A thousand destinations and a thousand rules of 40 values each, and their doors."""
MAX_DEPTH = 32
_SETTING = "`key: value` with a blank after the colon"
_LEADING_TABS = re.compile(r"^[ \t]*\t[ \t]*", re.MULTILINE)
_UTF_16_MARKS = ("\udcff\udcfe", "\udcfe\udcff")
"""The byte order marks of UTF-16, as surrogateescape reads them; UTF-32's begin alike."""
_TAGGED = (yaml.ScalarEvent, yaml.CollectionStartEvent)


def parse(text: str) -> tuple[MapNode, tuple[Mistake, ...]]:
    """Parse the text of a configuration file.

    Returns the tree, and mistakes that don't prevent reading it, such as duplicate keys.

    Raises:
        ConfigError: there is no tree: bad syntax, empty, not a mapping, too large.
    """
    node, mistakes = parse_value(text)
    start = Place(1, 1)
    if node is None:
        raise ConfigError((mistake("", start, "the file is empty; it needs at least a door"),))
    if not isinstance(node, MapNode):
        raise ConfigError((mistake("", node, f"must be a mapping of settings, {_SETTING}"),))
    return node, mistakes


def parse_value(text: str) -> tuple[Node | None, tuple[Mistake, ...]]:
    """Parse one YAML document of any kind; the node is None if it is empty or null.

    Raises:
        ConfigError: as for `parse`.
    """
    if len(text) > MAX_CHARACTERS:
        raise _syntax(Place(1, 1), f"is longer than {MAX_CHARACTERS} characters")
    if text.lstrip().startswith("{"):
        # JSON may be indented with tabs, YAML may not
        text = _LEADING_TABS.sub(lambda tabs: " " * len(tabs.group()), text)
    composer = _Composer()
    try:
        return composer.document(text), tuple(composer.mistakes)
    except yaml.ReaderError as error:
        raise _unreadable(text, error) from error
    except yaml.MarkedYAMLError as error:
        raise _marked(text, error) from error
    except (ValueError, OverflowError) as error:
        # PyYAML passes "\UFFFFFFFF" to chr() and a long %YAML version to int() unchecked
        raise _syntax(Place(1, 1), "has an escape or a version that is no such thing") from error


def _syntax(place: Place, reason: str) -> ConfigError:
    return ConfigError((mistake("", place, reason),))


def _unreadable(text: str, error: yaml.ReaderError) -> ConfigError:
    """Return the error for a character that YAML doesn't allow, with its line and column."""
    if text.startswith(_UTF_16_MARKS) or "\0" in text[:2]:
        return _syntax(Place(1, 1), "the file is UTF-16 or UTF-32; save it as UTF-8")
    before = lines_of(text[: error.position])
    place = Place(len(before), len(before[-1]) + 1)
    code = ord(text[error.position])
    if 0xDC80 <= code <= 0xDCFF:  # what surrogateescape makes of a stray byte
        return _syntax(place, f"byte 0x{code - 0xDC00:02x} is not UTF-8; save the file as UTF-8")
    return _syntax(place, f"character U+{code:04X} is not allowed; is this a text file?")


def _marked(text: str, error: yaml.MarkedYAMLError) -> ConfigError:
    """Return the error for a syntax error of PyYAML, in plain words."""
    # imported here to save memory: a running uProxy has no mistakes
    from uproxy.config.yaml_words import explain

    place, reason = explain(text, error)
    return _syntax(place, f"is not YAML: {reason}")


def _place(mark: _Mark | None) -> Place:
    return Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)


class _Composer:
    """Builds nodes from events.  Its recursion is bounded by MAX_DEPTH."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self._nodes = 0
        self._depth = 0

    def document(self, text: str) -> Node | None:
        """Return the node of the only document; None if it is empty or null."""

        # the parser's events have no types, so no YAML 1.1 type is applied
        events = iter(yaml.parse(text))
        node = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents == 2:
                    reason = "a second document starts here; a configuration is one document"
                    raise _syntax(_place(event.start_mark), reason)
            elif isinstance(event, yaml.NodeEvent):
                node = self._node(event, events, "")
        if isinstance(node, Scalar) and node.style is Style.NULL:
            return None
        return node

    def _node(self, event: yaml.NodeEvent, events: Iterator[yaml.Event], path: str) -> Node:
        """Return the node that begins with `event`, taking the rest of its events."""
        place = _place(event.start_mark)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _syntax(place, f"has more than {MAX_NODES} values")
        if isinstance(event, yaml.AliasEvent):
            reason = (
                f"aliases (*{clip(event.anchor or '')}) are not supported: write the value out, or "
                "put text that begins with * in quotes"
            )
            raise _syntax(place, reason)
        tag = event.tag if isinstance(event, _TAGGED) else None
        if tag is not None:
            reason = f"tags ({clip(tag)}) are not supported; text that begins with ! needs quotes"
            self.mistakes.append(mistake(path, place, reason))
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        return self._collection(event, events, path)

    def _collection(self, event: yaml.NodeEvent, events: Iterator[yaml.Event], path: str) -> Node:
        """Return the node of a list or mapping, taking its events."""
        place = _place(event.start_mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _syntax(place, f"is nested more than {MAX_DEPTH} deep")
        node: Node
        if isinstance(event, yaml.SequenceStartEvent):
            items = [
                self._node(item, events, join(path, index))
                for index, item in enumerate(_until(events, yaml.SequenceEndEvent))
            ]
            node = ListNode(tuple(items), place)
        else:
            node = MapNode(tuple(self._entries(events, path)), place)
        self._depth -= 1
        return node

    def _entries(self, events: Iterator[yaml.Event], path: str) -> Iterable[Entry]:
        """Return the entries of a mapping, taking its events."""
        seen: dict[str, Entry] = {}
        for event in _until(events, yaml.MappingEndEvent):
            key = self._node(event, events, path)
            if not isinstance(key, Scalar):
                value = self._node(_next(events), events, path)
                reason = "a key must be text; is this a template that wasn't rendered?"
                self.mistakes.append(mistake(path, key.place, reason))
                continue
            where = join(path, key.text)
            value = self._node(_next(events), events, where)
            if key.text in seen:
                first = seen[key.text].place.line
                reason = f"is written twice, in line {first} and in line {key.place.line}"
                self.mistakes.append(mistake(where, key.place, reason))
                continue
            seen[key.text] = Entry(key.text, key.place, value)
        return seen.values()


def _scalar(event: yaml.ScalarEvent) -> Scalar:
    """Return the node of a scalar."""
    place = _place(event.start_mark)
    text = event.value
    with contextlib.suppress(UnicodeDecodeError):
        # JSON writes characters beyond U+FFFF as two escapes; a single one stays as it is, and
        # no field accepts it
        text = text.encode("utf-16", "surrogatepass").decode("utf-16")
    if event.style is not None:
        return Scalar(text, Style.QUOTED, place)
    return Scalar(text, Style.NULL if text in NULLS else Style.PLAIN, place)


def _until(events: Iterator[yaml.Event], end: type[yaml.Event]) -> Iterator[yaml.NodeEvent]:
    """Yield events until the one of type `end`."""
    while isinstance(event := next(events), yaml.NodeEvent):
        yield event
    if not isinstance(event, end):
        raise AssertionError(f"PyYAML ended a {end.__name__} with {event!r}")


def _next(events: Iterator[yaml.Event]) -> yaml.NodeEvent:
    """Return the next event, which begins a node."""
    event = next(events)
    if not isinstance(event, yaml.NodeEvent):
        raise AssertionError(f"PyYAML gave {event!r} for a value")
    return event
