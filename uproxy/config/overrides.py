"""Applies `UPROXY__TIMEOUTS__IDLE=1h` and, over that, `--set path=value` to the file's tree.

They are applied before any setting is read, so they are checked as the file is.  A value is
text, and its setting determines the type; a value in `[]`, `{}` or quotes is parsed as YAML.  A
list can't be made longer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from uproxy.config.document import parse_value
from uproxy.config.nodes import (
    Entry,
    ListNode,
    MapNode,
    Node,
    Place,
    Scalar,
    Style,
    clip,
    join,
    mistake,
)
from uproxy.errors import ConfigError
from uproxy.model import Mistake

PREFIX = "UPROXY__"
"""Two underscores, because a Kubernetes Service named uproxy defines `UPROXY_PORT`."""

_Step = str | int
# possessive: otherwise a long word could be split into steps in 2^n ways
_STEP = r'\.?[A-Za-z0-9_-]++|\[[0-9]{1,6}\]|\["[^"]+"\]'
_SET = re.compile(rf"((?:{_STEP})++)=(.*)", re.DOTALL)
STEPS = re.compile(_STEP)
"""Each step of a path as `join` writes it."""
_YAML = re.compile(r"\[.*\]|\{.*\}|\".*\"|'.*'", re.DOTALL)


def apply_overrides(
    tree: MapNode,
    environ: Mapping[str, str],
    overrides: Sequence[str],
    mistakes: list[Mistake],
) -> MapNode:
    """Return the tree with the values of the environment, and then those of the options."""
    for name in sorted(environ):
        if name.startswith(PREFIX):
            tree = _from_environment(tree, name, environ[name], mistakes)
    for option in overrides:
        tree = _from_option(tree, option, mistakes)
    return tree


def _from_environment(tree: MapNode, name: str, text: str, mistakes: list[Mistake]) -> MapNode:
    """Return the tree with the value of one environment variable."""
    segments = name[len(PREFIX) :].split("__")
    place = Place(source=clip(name))
    if not all(segments):
        mistakes.append(
            mistake(clip(name), Place(), "names no setting; write UPROXY__TIMEOUTS__IDLE")
        )
        return tree
    return _set_value(tree, _steps(tree, segments), _value(text, place, mistakes), mistakes)


def _from_option(tree: MapNode, option: str, mistakes: list[Mistake]) -> MapNode:
    """Return the tree with the value of one `--set`."""
    match = _SET.fullmatch(option)
    if match is None:
        reason = "must be path=value, as in timeouts.idle=1h or inbound[0].to=127.0.0.1:80"
        mistakes.append(Mistake("--set", reason, clip(option)))
        return tree
    steps = [step(part.group()) for part in STEPS.finditer(match[1])]
    place = Place(source=f"--set {clip(option)}")
    return _set_value(tree, steps, _value(match[2], place, mistakes), mistakes)


def step(part: str) -> str | int:
    """Return the key or index of one of a path's STEPS."""
    if part.startswith('["'):
        return part[2:-2]
    return int(part[1:-1]) if part.startswith("[") else part.removeprefix(".")


def _steps(tree: MapNode, segments: Sequence[str]) -> list[_Step]:
    """Return the path that a variable's name means.  Names in the environment have neither
    lower case nor hyphens: ORDERS_DB means `orders-db` if the file has that key."""
    node: Node | None = tree
    steps: list[_Step] = []
    for segment in segments:
        if isinstance(node, ListNode) and segment.isascii() and segment.isdigit():
            index = int(segment[:6])
            steps.append(index)
            node = node.items[index] if index < len(node.items) else None
            continue
        keys = node.keys if isinstance(node, MapNode) else ()
        key = next(
            (key for key in keys if _comparable(key) == _comparable(segment)), segment.lower()
        )
        steps.append(key)
        node = node.get(key) if isinstance(node, MapNode) else None
    return steps


def _comparable(name: str) -> str:
    """Return a name in lower case with underscores, for comparison."""
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _value(text: str, place: Place, mistakes: list[Mistake]) -> Node:
    """Return the node of an override's value; append mistakes if it is invalid YAML."""
    if _YAML.fullmatch(text):
        try:
            node, found = parse_value(text)
        except ConfigError as error:
            found = error.mistakes
            node = None
        for each in found:
            reason = f"{each.reason} (column {each.column} of {place.source})"
            mistakes.append(Mistake(each.path, reason, clip(text)))
        if node is not None:
            return _at_place(node, place)
    if text in ("null", "~"):
        return Scalar(text, Style.NULL, place)
    return Scalar(text, Style.FREE, place)


def _at_place(node: Node, place: Place) -> Node:
    """Return a copy of the node with `place` as the place of all its parts."""
    if isinstance(node, ListNode):
        return ListNode(tuple(_at_place(item, place) for item in node.items), place)
    if isinstance(node, MapNode):
        entries = (Entry(each.key, place, _at_place(each.node, place)) for each in node.entries)
        return MapNode(tuple(entries), place)
    return replace(node, place=place)


def _set_value(
    tree: MapNode, steps: Sequence[_Step], value: Node, mistakes: list[Mistake]
) -> MapNode:
    """Return the tree with `value` at a path; append a mistake if there is no such list item."""
    try:
        node = _replaced(tree, steps, value, "")
    except ConfigError as error:
        mistakes.extend(error.mistakes)
        return tree
    if not isinstance(node, MapNode):
        raise AssertionError("the first step of a path is a key")
    return node


def _replaced(node: Node | None, steps: Sequence[_Step], value: Node, path: str) -> Node:
    """Return a copy of `node` with `value` at the path `steps` below it."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    here = join(path, step)
    if isinstance(step, int):
        items = list(node.items) if isinstance(node, ListNode) else []
        if step >= len(items):
            reason = f"there is no such item: {path or 'the file'} has {len(items)}, from 0"
            raise ConfigError((mistake(here, value.place, reason),))
        items[step] = _replaced(items[step], rest, value, here)
        return ListNode(tuple(items), node.place if node else value.place)
    if isinstance(node, ListNode):
        name = "" if step.isdigit() else f".{clip(step)}"
        reason = f"{path} is a list: say which of its items, as in {path}[0]{name}"
        raise ConfigError((mistake(here, value.place, reason),))
    entries = list(node.entries) if isinstance(node, MapNode) else []
    index = next((n for n, entry in enumerate(entries) if entry.key == step), len(entries))
    old = entries[index : index + 1]
    child = _replaced(old[0].node if old else None, rest, value, here)
    place = old[0].place if old else value.place
    entries[index : index + 1] = [Entry(step, place, child)]
    return MapNode(tuple(entries), node.place if isinstance(node, MapNode) else value.place)
