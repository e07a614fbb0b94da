"""Finds where settings are written, for warnings and other mistakes that know only their paths."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from uproxy.config.document import parse
from uproxy.config.nodes import ListNode, MapNode, Node, Place
from uproxy.config.overrides import STEPS, apply_overrides, step
from uproxy.model import Mistake


def locate(
    text: str,
    name: str,
    environ: Mapping[str, str],
    overrides: Sequence[str],
    mistakes: Sequence[Mistake],
) -> tuple[Mistake, ...]:
    """Return the mistakes with the file, lines and columns of their settings.

    `name` is the file's; the other arguments are those with which `load` has accepted it.  A
    setting that isn't written gets the place of the innermost section around it, or none.  What
    was set by an option or by the environment isn't in the file; the reason says where it is.
    """
    tree = apply_overrides(parse(text)[0], environ, overrides, [])
    return tuple(_located(tree, name, each) for each in mistakes)


def _located(tree: MapNode, name: str, mistake: Mistake) -> Mistake:
    place = _place_of(tree, mistake.path)
    if place.source:
        return replace(mistake, reason=f"{mistake.reason} (from {place.source})")
    return replace(mistake, file=name, line=place.line, column=place.column)


def _place_of(tree: MapNode, path: str) -> Place:
    """Return the place of the value at a path as `join` writes it."""
    node: Node = tree
    place = Place()
    for part in re.findall(STEPS, path):
        child = _child(node, step(part))
        if child is None:
            break
        node, place = child, child.place
    return place


def _child(node: Node, step: str | int) -> Node | None:
    if isinstance(node, MapNode) and isinstance(step, str):
        return node.get(step)
    if isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
        return node.items[step]
    return None
