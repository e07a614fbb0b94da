"""YAML text to nodes: what is read, what is refused, and where the finger points."""

from __future__ import annotations

import json

import pytest

from tests.helpers.config_documents import FILES, loaded, mistakes, only_mistake
from uproxy.config.document import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES, parse
from uproxy.config.nodes import MapNode, Scalar, Type, clip, core_type, join
from uproxy.errors import ConfigError


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n", "null", "~"])
def test_an_empty_file_says_so(text: str) -> None:
    mistake = only_mistake(text)
    assert "the file is empty" in mistake.reason
    assert (mistake.line, mistake.column) == (1, 1)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "[1, 2]", "42"])
def test_a_file_that_is_no_mapping_says_so(text: str) -> None:
    assert "must be a mapping" in only_mistake(text).reason


def test_a_tab_is_named_with_its_place() -> None:
    mistake = only_mistake("identity:\n\tfiles: x\n")
    assert "tab" in mistake.reason
    assert (mistake.line, mistake.column) == (2, 1)


def test_a_second_document_is_refused_where_it_starts() -> None:
    mistake = only_mistake("name: a\n---\nname: b\n")
    assert "second document" in mistake.reason
    assert mistake.line == 2


def test_a_nul_byte_is_named_with_its_place() -> None:
    mistake = only_mistake("name: a\ninbound: \0\n")
    assert "U+0000" in mistake.reason
    assert (mistake.line, mistake.column) == (2, 10)


def test_a_byte_that_is_not_utf8_is_named_with_its_place() -> None:
    mistake = only_mistake(b"name: bl\xe9\n".decode("utf-8", "surrogateescape"))
    assert "byte 0xe9 is not UTF-8" in mistake.reason
    assert (mistake.line, mistake.column) == (1, 9)


def test_a_duplicate_key_names_both_lines_and_leaves_the_rest_checked() -> None:
    found = mistakes(FILES + "name: a\nlimits: {}\nname: b\nnammme: c\n")
    assert [each.path for each in found] == ["name", "nammme"]
    assert "line 2" in found[0].reason
    assert "line 4" in found[0].reason


def test_aliases_are_refused_by_name() -> None:
    mistake = only_mistake("a: &many [x]\nb: *many\n")
    assert "*many" in mistake.reason
    assert mistake.line == 2


def test_a_billion_laughs_are_not_expanded() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    assert "aliases" in only_mistake("\n".join(lines)).reason


def test_tags_are_refused() -> None:
    assert "tags" in only_mistake(FILES + "name: !!python/name:os.system x\n").reason


def test_a_mapping_can_not_be_a_key() -> None:
    assert "a key must be text" in only_mistake(FILES + "? {a: b}\n: c\n").reason


def test_the_size_the_nodes_and_the_depth_are_bounded() -> None:
    assert "longer than" in only_mistake("#" * (MAX_CHARACTERS + 1)).reason
    many = "a: [" + "x," * MAX_NODES + "]"
    assert f"more than {MAX_NODES} values" in only_mistake(many).reason
    assert f"more than {MAX_DEPTH} deep" in only_mistake("a: " + "[" * 100_000).reason


def test_an_address_in_brackets_without_quotes_gets_a_hint() -> None:
    mistake = only_mistake("inbound:\n  - listen: [::]:8080\n")
    assert "needs quotes" in mistake.reason
    assert mistake.line == 2


@pytest.mark.parametrize("text", [r'name: "\UFFFFFFFF"', "%YAML " + "1" * 5000 + ".1\n--- a"])
def test_what_pyyaml_fails_on_without_a_word_is_a_mistake_too(text: str) -> None:
    assert "no such thing" in only_mistake(text).reason


def test_json_may_be_indented_with_tabs_and_hold_surrogate_pairs() -> None:
    document = {
        "name": "orders 😀",
        "identity": {"workload_api": "unix:///run/agent.sock"},
        "limits": {"connections": 7},
    }
    settings = loaded(json.dumps(document, indent="\t"))
    assert settings.name == "orders 😀"
    assert settings.limits.connections == 7


def test_half_a_surrogate_pair_is_a_mistake() -> None:
    mistake = only_mistake(FILES + r'name: "\ud83d"' + "\n")
    assert "U+D83D" in mistake.reason
    assert str(mistake).isprintable()


def test_a_line_break_in_a_value_is_a_mistake() -> None:
    assert "U+000A" in only_mistake(FILES + "name: |\n  two\n  lines\n").reason


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("no", Type.TEXT), ("off", Type.TEXT), ("yes", Type.TEXT), ("15:30", Type.TEXT),
        ("1_000", Type.TEXT), ("0b1", Type.TEXT), ("2026-01-01", Type.TEXT), ("<<", Type.TEXT),
        ("true", Type.BOOL), ("False", Type.BOOL), ("tRUE", Type.TEXT),
        ("", Type.NULL), ("~", Type.NULL), ("null", Type.NULL), ("nULL", Type.TEXT),
        ("0", Type.INT), ("-7", Type.INT), ("0600", Type.INT), ("0o17", Type.INT),
        ("0xFf", Type.INT), ("1.3", Type.FLOAT), ("1e3", Type.FLOAT), (".inf", Type.FLOAT),
        (".nan", Type.FLOAT), ("1.2.3", Type.TEXT), ("\u0663", Type.TEXT),
    ],
)  # fmt: skip
def test_plain_scalars_have_the_types_of_yaml_1_2(text: str, type_: Type) -> None:
    assert core_type(text) is type_


def test_nodes_remember_where_they_were_written() -> None:
    tree, found = parse("a: 1\nb:\n  - x\n  - 'y'\n")
    assert not found
    assert isinstance(tree, MapNode)
    assert [(entry.key, entry.place.line, entry.place.column) for entry in tree.entries] == [
        ("a", 1, 1),
        ("b", 2, 1),
    ]
    first = tree.get("a")
    assert isinstance(first, Scalar)
    assert (first.place.line, first.place.column) == (1, 4)
    assert tree.get("c") is None


def test_parse_raises_for_text_without_a_tree() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("a: [1")
    assert "is not YAML" in str(caught.value)


def test_paths_quote_keys_that_are_not_simple() -> None:
    assert join("", "inbound") == "inbound"
    assert join("inbound", 0) == "inbound[0]"
    assert join("destinations", "orders-db") == "destinations.orders-db"
    assert join("bundles", "example.org") == 'bundles["example.org"]'


def test_what_is_shown_of_a_value_is_short_and_printable() -> None:
    assert len(clip("x" * 500)) == 80
    assert clip("a\nb") == "a\\nb"
