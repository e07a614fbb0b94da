"""Guesses what was meant by a value or key that is valid YAML and no valid setting.

Imported only when there is a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from uproxy.config.nodes import ListNode, MapNode, Node, Scalar, Type

_BLANK_AFTER_COLON = "a blank is missing after the colon"
_BLANK_AFTER_DASH = "a blank is missing after the dash"
_PLAIN_ITEM = re.compile(r"[\w./][\w./:*, -]*")
"""Text that needs no quotes as an item of a list, or as several."""
_OTHER_QUOTES = ("\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}",
                 "\N{DOUBLE LOW-9 QUOTATION MARK}", "\N{LEFT SINGLE QUOTATION MARK}",
                 "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}")  # fmt: skip
_SAME = {
    "plaintext": ("clear", "cleartext", "disabled", "none", "off", "plain", "raw", "tcp"),
    "mtls": ("ssl", "tls"),
    "none": ("off", "false"),
    "allow": ("accept", "permit"),
    "deny": ("block", "drop", "refuse", "reject"),
}
"""Words of other software for one of ours."""


def about_choice(word: str, options: Sequence[str]) -> str | None:
    """Return the option that another word stands for elsewhere, or in other letters; None: none."""
    word = word.lower()
    same = (each for each in options if word == each.lower() or word in _SAME.get(each, ()))
    return next(same, None)


def about_key(key: str, known: Collection[str], variable: bool = False) -> str | None:
    """Return what is probably wrong with an unknown key beside the keys that are known; None: it
    is just another word.  `variable`: the key is a part of an environment variable's name."""
    section = next((each for each in known if variable and key.startswith(f"{each}_")), None)
    if section is not None:
        rest = key.removeprefix(f"{section}_").upper()
        return f"two underscores stand between the parts of a name: {section.upper()}__{rest}"
    before, colon, _ = key.partition(":")
    if colon and before in known:
        return f"{_BLANK_AFTER_COLON} of `{before}:`"
    if key.startswith("-") and key[1:].partition(":")[0] in known:
        return _BLANK_AFTER_DASH
    invisible = next((each for each in key if not each.isprintable()), None)
    if invisible is not None:
        return f"has an invisible character, U+{ord(invisible):04X}: delete it, or type a space"
    return None


def about_record(node: Node, known: Collection[str]) -> str | None:
    """Return what is probably wrong with a node where a mapping with these keys should be."""
    if isinstance(node, Scalar) and node.type is Type.TEXT:
        return about_key(node.text, known)
    if isinstance(node, ListNode) and len(node.items) == 1 and isinstance(node.items[0], MapNode):
        return "remove its dash or brackets"
    return None


def about_list(node: Node, *, of_records: bool) -> str | None:
    """Return what is probably wrong with a node where a list should be."""
    if isinstance(node, MapNode):
        dashed = any(key.startswith("-") for key in node.keys)
        return _BLANK_AFTER_DASH if dashed else "begin it with `- `" if of_records else None
    if not isinstance(node, Scalar) or node.type is Type.NULL or of_records:
        return None
    if node.text.startswith("-"):
        return _BLANK_AFTER_DASH
    return f"write [{node.text}]" if _PLAIN_ITEM.fullmatch(node.text) else None


def about_text(text: str) -> str | None:
    """Return what is probably wrong with text that isn't valid: quotes of a word processor, or
    several SPIFFE IDs in one."""
    if text.startswith(_OTHER_QUOTES):
        return f"{text[0]} is no quote: type \" or '"
    if len(several := re.split(r"[\s,;]+(?=spiffe://)", text)) > 1:
        return f"it is {len(several)} in one: each is an item of its own"
    return None
