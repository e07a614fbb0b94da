"""Variables in scalars: replaced after parsing, so that no value can add structure."""

from __future__ import annotations

import pytest

from uproxy.config.document import parse
from uproxy.config.nodes import Scalar
from uproxy.config.variables import substitute
from uproxy.model import Mistake

ENVIRONMENT = {"POD_IP": "192.0.2.7", "EVIL": "a, b: [c]\nd: e"}


def replaced(text: str) -> tuple[str, list[Mistake]]:
    """The value of `key: TEXT` and the mistakes."""
    tree, _ = parse(f"key: '{text}'\n")
    mistakes: list[Mistake] = []
    node = substitute(tree, ENVIRONMENT, mistakes).get("key")
    assert isinstance(node, Scalar)
    return node.text, mistakes


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("${POD_IP}:80", "192.0.2.7:80"),
        ("$${POD_IP}", "${POD_IP}"),
        ("$$", "$"),
        ("5 $ each", "5 $ each"),
        ("$POD_IP", "$POD_IP"),
        ("${POD_IP}${POD_IP}", "192.0.2.7192.0.2.7"),
    ],
)
def test_a_name_in_braces_is_replaced_and_two_dollars_are_one(written: str, meant: str) -> None:
    assert replaced(written) == (meant, [])


def test_a_value_stays_one_scalar_whatever_is_in_it() -> None:
    assert replaced("${EVIL}") == ("a, b: [c]\nd: e", [])


def test_a_value_is_not_replaced_again() -> None:
    tree, _ = parse("key: ${OUTER}\n")
    node = substitute(tree, {"OUTER": "${INNER}", "INNER": "x"}, []).get("key")
    assert isinstance(node, Scalar)
    assert node.text == "${INNER}"


def test_an_undefined_name_is_a_mistake_that_names_it() -> None:
    text, (mistake,) = replaced("${NONE}")
    assert text == "${NONE}"
    assert mistake.path == "key"
    assert mistake.line == 1
    assert "has no NONE" in mistake.reason


def test_braces_without_a_name_are_a_mistake() -> None:
    _, (mistake,) = replaced("${1}")
    assert "without a NAME" in mistake.reason


def test_lists_are_searched_and_keys_are_not() -> None:
    tree, _ = parse("${POD_IP}: ['${POD_IP}']\n")
    mistakes: list[Mistake] = []
    changed = substitute(tree, ENVIRONMENT, mistakes)
    assert changed.get("${POD_IP}") is not None
    assert mistakes == []
