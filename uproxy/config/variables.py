"""Replaces `${NAME}` in scalars, after parsing, so that a value can't change the structure.

`$$` is a dollar sign; a single dollar before anything else stays.  Keys are not changed.  The
type of a scalar with a variable is determined by its setting, so `connections: "${MAX}"` is a
number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from uproxy.config.nodes import Entry, ListNode, MapNode, Node, Scalar, Style, join, mistake
from uproxy.model import Mistake

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_DOLLAR = re.compile(rf"\$(?:\$|\{{({NAME})\}}|\{{)")


def substitute(node: MapNode, environ: Mapping[str, str], mistakes: list[Mistake]) -> MapNode:
    """Replace every variable; append a mistake for each that is undefined or malformed."""
    return _Replacer(environ, mistakes).mapping(node, "")


class _Replacer:
    """Copies a tree with its variables replaced."""

    def __init__(self, environ: Mapping[str, str], mistakes: list[Mistake]) -> None:
        self._environ = environ
        self._mistakes = mistakes

    def mapping(self, node: MapNode, path: str) -> MapNode:
        entries = (
            Entry(entry.key, entry.place, self._node(entry.node, join(path, entry.key)))
            for entry in node.entries
        )
        return MapNode(tuple(entries), node.place)

    def _node(self, node: Node, path: str) -> Node:
        if isinstance(node, MapNode):
            return self.mapping(node, path)
        if isinstance(node, ListNode):
            items = (self._node(item, join(path, n)) for n, item in enumerate(node.items))
            return ListNode(tuple(items), node.place)
        return self._scalar(node, path) if "$" in node.text else node

    def _scalar(self, node: Scalar, path: str) -> Scalar:
        """Return the scalar with its variables replaced."""
        named = False

        def value(match: re.Match[str]) -> str:
            nonlocal named
            if match.group() == "$$":
                return "$"
            name = match.group(1)
            if name is None:
                self._mistakes.append(
                    mistake(path, node, "has ${ without a NAME}; write $${ for these characters")
                )
                return match.group()
            if name not in self._environ:
                self._mistakes.append(
                    mistake(path, node, f"the environment has no {name}; define it, or write $$")
                )
                return match.group()
            named = True
            return self._environ[name]

        text = _DOLLAR.sub(value, node.text)
        style = Style.FREE if named else node.style
        return replace(node, text=text, style=style, written=node.text)
