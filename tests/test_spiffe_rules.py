"""docs/reference/spiffe-rules.md keeps up with the code and the tests."""

from __future__ import annotations

import re
from pathlib import Path

_HOUSE = Path(__file__).parent.parent
_DOCUMENT = (_HOUSE / "docs/reference/spiffe-rules.md").read_text()
_RULE = re.compile(r"\b(?:ID|X5|JW|TB|UP|WA|WE)-\d+\b|\bpattern-(?:trust-domain|segment|path)\b")


def _sources(folder: str) -> str:
    return "\n".join(path.read_text() for path in sorted((_HOUSE / folder).rglob("*.py")))


def test_every_rule_that_the_code_names_is_explained() -> None:
    named = {
        rule
        for folder in ("uproxy/spiffe", "uproxy/identity")
        for rule in _RULE.findall(_sources(folder))
    }
    explained = set(_RULE.findall(_DOCUMENT))
    assert {"ID-14", "X5-16", "JW-10", "TB-5", "UP-3", "WA-7"} <= named
    assert named - explained == set()


def test_every_test_that_the_document_names_exists() -> None:
    defined = set(re.findall(r"def (test_\w+)\(", _sources("tests")))
    shown = set(re.findall(r"`(test_\w+)`", _DOCUMENT))
    assert len(shown) > 30
    assert shown - defined == set()
