"""Text that isn't YAML: what to change, in words, and where."""

from __future__ import annotations

import pytest

from tests.helpers.config_documents import FILES, mistakes, only_mistake
from uproxy.config.yaml_words import missing_blank

CONFLICT = "name: a\n<<<<<<< HEAD\nengine: native\n=======\nengine: python\n>>>>>>> other\n"

BROKEN = [
    # a blank is missing
    ("name:x\nlog: {}\n", (1, 6), "a blank is missing after the colon in 'name:x'"),
    ("log:\n  level:debug\n  format: text\n", (2, 9), "a blank is missing after the colon"),
    ("log:\n  format: text\n  level:debug\nname: x\n", (3, 9), "missing after the colon"),
    ("name:\xa0x\nlog: {}\n", (1, 6), "U+00A0 after the colon is no blank: type a space"),
    ("inbound:\n- x\n-y\n", (3, 2), "a blank is missing after the dash in '-y'"),
    ("name\nlog: {}\n", (1, 5), "a colon is missing after 'name'"),
    ("log:\n  level\n  format: text\n", (2, 8), "a colon is missing after 'level'"),
    ("name: x\ny z\n", (2, 1), "a colon and a blank are missing after 'y z'"),
    # line breaks as YAML has them
    ("name:x\rlog: {}\r", (1, 6), "a blank is missing after the colon in 'name:x'"),
    ("log:\r\n  level:debug\r\n  format: text\r\n", (2, 9), "a blank is missing after the colon"),
    ("name: x\x85log:\u2028  level:debug\u2029  format: text", (3, 9), "a blank is missing"),
    ("name:\n  /\r\r:", (4, 1), "a key is missing before this colon"),
    ("log:\n    level: debug\r\r  format: text", (4, 3), "its indentation fits nothing above"),
    # text that begins with a character of YAML's
    ("a: {ports: [*]}\n", (1, 13), 'text that begins with * needs quotes, as in "*"'),
    ("a: *.example.org\n", (1, 4), 'needs quotes, as in "*.example.org"'),
    ("a: & b\n", (1, 4), 'text that begins with & needs quotes, as in "&"'),
    ("a: !b!c d\n", (1, 4), 'text that begins with ! needs quotes, as in "!b!c"'),
    ("a: !<b\n", (1, 4), 'needs quotes, as in "!<b"'),
    ("a: @b\n", (1, 4), 'text that begins with @ needs quotes, as in "@b"'),
    ("a: `b`\n", (1, 4), 'needs quotes, as in "`b`"'),
    ("a: %b\n", (1, 4), 'needs quotes, as in "%b"'),
    ("a: ? b\n", (1, 4), "text that begins with `? ` needs quotes"),
    ("a: |b\n", (1, 5), "text that begins with | needs quotes"),
    ("listen: [::]:80\n", (1, 10), 'begins with [ needs quotes, as in "[::1]:8080"'),
    ("%b\na: b\n", (1, 1), "a line that begins with % is a directive"),
    ("%YAML 2.0\n---\na: b\n", (1, 1), "may name version 1 only"),
    # quotes
    ('a: "b\nc: d\n', (1, 4), "the quote that begins here isn't closed"),
    ("a: 'it's'\n", (1, 8), "text follows the closing quote; for a quote inside write ''"),
    ('a: "C:\\dir"\n', (1, 8), r"in double quotes a \ begins an escape: write \\"),
    ('a: "\\x1"\n', (1, 7), r"in double quotes a \ begins an escape"),
    # two values, or none
    ("a: b: c\n", (1, 5), "the value has a `: ` in it: put it in quotes"),
    ("from: any, to: x\n", (1, 14), "or each key on a line of its own"),
    ("inbound: - a\n", (1, 10), "a list's first `- ` stands on a line of its own"),
    ('a: "b",\n', (1, 7), "commas separate only in brackets"),
    ("a: [,]\n", (1, 5), "a value is missing before this comma"),
    # indentation
    ("\tname: x\n", (1, 1), "a tab can't indent YAML; use spaces"),
    ("name:\tx\n", (1, 6), "a tab stands here; YAML wants a space"),
    (
        "log:\n  level: debug\n   format: text\n", (3, 4),
        "it continues the value of line 2, by its indentation; a key beside that one begins in "
        "column 3",
    ),
    (
        "log:\n    level: debug\n  format: text\n", (3, 3),
        "its indentation fits nothing above: line 2 begins in column 5, the keys around it begin "
        "in column 1 (line 1)",
    ),
    (
        "inbound:\n  - listen: x\n  to: y\n", (3, 3),
        "it is no item of the list, whose items start with `- ` and begin in column 3 (line 2)",
    ),
    ("log:\n  level: debug\n  - x\n", (3, 3), "an item of a list stands where keys do"),
    ("  name: x\nlog: {}\n", (2, 1), "it is indented less than the first setting"),
    ("name: x\n...\nlog: {}\n", (2, 1), "a line that is `...` ends the document"),
    # brackets
    ("inbound: [a, b\nlog: {}\n", (1, 10), "the [ that begins here isn't closed before line 2"),
    ('{"a": [1, 2\n "c": 2}\n', (1, 7), "the [ that begins here isn't closed before line 2"),
    ("{\nname: x\nlog: {}\n}\n", (2, 8), "a comma is missing at the end of line 2"),
    ("log: {level: debug\n  format: text}\n", (1, 19), "a comma is missing at the end of line 1"),
    ('{"a": {"b": 1} # c\n "d": 2}\n', (1, 19), "a comma is missing at the end of line 1"),
    (": b\n", (1, 1), "a key is missing before this colon"),
    ("log: {level: debug", (1, 6), "the { that begins here isn't closed"),
    ("inbound: [a}\n", (1, 12), "the [ in line 1, column 10 is closed by }; it needs ]"),
    ("log: {}}\n", (1, 8), "this } closes nothing"),
    ("inbound: ]\n", (1, 10), "this ] closes nothing"),
    ('a: ["b" "c"]\n', (1, 9), "a comma is missing before this"),
    ('{"a": 1,\n "b" 2}\n', (2, 6), "a comma or a colon is missing before this"),
    ("log: {a: b c: d}\n", (1, 13), "a comma is missing before this key"),
    ("a: [\n  - b\n]\n", (2, 3), "in brackets a comma separates the items"),
    ("a: [b, - c]\n", (1, 8), "in brackets a comma separates the items"),
    ('{"a": 1, // b\n "c": 2}\n', (1, 10), "a comment begins with #, not with //"),
    ("{a: b}\nc: d\n", (2, 1), "something follows the bracket that closes the file's first one"),
    # what other tools leave
    (CONFLICT, (2, 1), "a merge conflict was left in the file"),
    ("{% if a %}\nname: a\n", (1, 1), "a template was left in the file: render it first"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "words"), BROKEN, ids=[repr(each[0]) for each in BROKEN])
def test_a_syntax_error_says_what_to_change_and_where(
    text: str, place: tuple[int, int], words: str
) -> None:
    mistake = only_mistake(text)
    assert words in mistake.reason
    assert mistake.reason.startswith("is not YAML: ")
    assert (mistake.line, mistake.column) == place


@pytest.mark.parametrize(("text", "place", "words"), BROKEN, ids=[repr(each[0]) for each in BROKEN])
def test_no_words_of_the_parser_are_left(text: str, place: tuple[int, int], words: str) -> None:
    for jargon in ("expected", "<block", "found", "scalar", "token", "node", "stream", "mapping"):
        assert jargon not in only_mistake(text).reason


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_in_another_unicode_says_so(encoding: str) -> None:
    text = "name: x\n".encode(encoding).decode("utf-8", "surrogateescape")
    mistake = only_mistake(text)
    assert mistake.reason == "the file is UTF-16 or UTF-32; save it as UTF-8"
    assert (mistake.line, mistake.column) == (1, 1)


def test_a_template_in_place_of_a_value_is_guessed() -> None:
    reasons = [each.reason for each in mistakes(FILES + "name: {{ .Values.name }}\n")]
    assert "a key must be text; is this a template that wasn't rendered?" in reasons


@pytest.mark.parametrize("line", ["name: x", "# a:b", "- listen: 127.0.0.1:80", "", "- -1"])
def test_a_line_in_which_no_blank_is_missing(line: str) -> None:
    assert missing_blank(line) is None
