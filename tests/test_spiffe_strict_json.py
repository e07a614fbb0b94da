"""JSON of strangers means one thing, or is refused."""

from __future__ import annotations

import json

import pytest

from uproxy.spiffe.strict_json import read_object


def test_an_object_is_read() -> None:
    assert read_object(b' {"a": [1, "\xc3\xa4"], "b": {"a": null}}', "it") == {
        "a": [1, "ä"],
        "b": {"a": None},
    }


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": 1, "a": 1}', "it repeats a member name"),
        (b'{"a": [{"b": 1, "\\u0062": 2}]}', "it repeats a member name"),
        (b"[]", "it is not a JSON object"),
        (b"1", "it is not a JSON object"),
        (b"", "it is not JSON"),
        (b"{} {}", "it is not JSON"),
        (b'{"a": "\xff"}', "it is not JSON"),
        (b'{"a": NaN}', "it is not JSON"),
        (b'{"a": -Infinity}', "it is not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "it is not JSON"),
        (b"[" * 100_000, "it is nested more than 100 deep"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "it is nested more than 100 deep"),
        (b'{"a":' + b'["\\"]", {"b": ' * 50 + b"1" + b"}]" * 50 + b"}", "it is nested more than"),
    ],
)
def test_what_two_readers_could_understand_in_two_ways_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}"):
        read_object(data, "it")


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'{"b": [], "a":' + b'{"a":' * 99 + b"1" + b"}" * 100,
        b'{"a": [' + b"[], " * 500 + b"[]]}",
        b'{"a": "' + b"[{" * 500 + b'"}',
        b'{"a": "\\"' + b"[{" * 500 + b'"}',
    ],
    ids=[
        "at the bound", "at the bound, beside another", "many beside each other", "in a string",
        "behind a quotation mark in it",
    ],
)  # fmt: skip
def test_what_is_not_deep_is_read(data: bytes) -> None:
    assert read_object(data, "it") == json.loads(data)
