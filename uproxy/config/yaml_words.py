"""Says in plain words what is wrong with text that isn't YAML.

PyYAML names the token that it met and the one that it wanted; people want to know which character
to change. `explain` recognizes the usual causes by PyYAML's words and the lines concerned, and
otherwise repeats those words.  Imported only when there is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from uproxy.config.nodes import Place, clip, lines_of
from uproxy.lean import yaml_events as yaml

_BARE_IPV6 = re.compile(r":[ ]+\[[0-9a-fA-F:.]*\]:")
_CONFLICT = re.compile(r"(<{7}|>{7})( |$)")
_TEMPLATE = re.compile(r"\{\{|\{%")
_NO_BLANK = re.compile(r"\s*(?:-[ ]+)?[\w.-]+:(?=[^ \t\n])")
_NO_BLANK_AFTER_DASH = re.compile(r"\s*-(?=[\w\"'{\[])")
_WORD_ALONE = re.compile(r"\s*(?:-[ ]+)?[\w.-]+[ ]*$")
_OTHER_COMMENT = re.compile(r"(?:^|\s)//")
_ONLY_KEY = re.compile(r"\s*(?:-[ ]+)?(?:[\w.-]+|\"[^\"]*\"|'[^']*')[ ]*$")
_KEY_FIRST = re.compile(r"\s*(?:-[ ]+)?(?:[\w.-]+|\"[^\"]*\"|'[^']*'):([ ]|$)")
_WORD = re.compile(r"[^\s,\[\]{}]+")


@dataclass(frozen=True, slots=True)
class _Error:
    """A syntax error of PyYAML, and the text it is about."""

    context: str
    problem: str
    start: Place
    """Where the thing began in which the error is."""
    place: Place
    """Where the error was noticed."""
    lines: tuple[str, ...]

    def line(self, place: Place) -> str:
        """Return the text of a line; empty beyond the end."""
        number = place.line or 0
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def before(self, place: Place) -> str:
        """Return what stands in the line in front of a place."""
        return self.line(place)[: (place.column or 1) - 1]

    def word(self, place: Place) -> str:
        """Return the word that begins at a place."""
        found = _WORD.match(self.line(place)[(place.column or 1) - 1 :])
        return clip(found.group()) if found else ""

    @property
    def from_start(self) -> str:
        """The text from where the thing began in which the error is."""
        first, *others = self.lines[(self.start.line or 1) - 1 :]
        return "\n".join((first[(self.start.column or 1) - 1 :], *others))

    @property
    def found(self) -> str:
        """The token or character that PyYAML names last, without its quotes."""
        return self.problem.rpartition("found ")[2].rpartition("got ")[2].strip("'")


_Answer = tuple[Place, str]


def explain(text: str, error: yaml.MarkedYAMLError) -> _Answer:
    """Return where the text has to be changed, and why, in words."""
    mark, start = error.problem_mark or error.context_mark, error.context_mark
    place = Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)
    facts = _Error(
        context=error.context or "",
        problem=(error.problem or error.context or "can't be read").replace("\n", " "),
        start=place if start is None else Place(start.line + 1, start.column + 1),
        place=place,
        lines=lines_of(text),
    )
    left = _left_in_the_file(facts)
    if left is not None:
        return left
    for part, answer in _ANSWERS:
        if part in f"{facts.context}: {facts.problem}":
            return answer(facts)
    return place, facts.problem


def _left_in_the_file(error: _Error) -> _Answer | None:
    """Recognize what other tools leave in a file, and addresses that look like lists."""
    for number, line in enumerate(error.lines, 1):
        if _CONFLICT.match(line):
            return Place(number, 1), "a merge conflict was left in the file"
    for place in (error.place, error.start):
        line = error.line(place)
        template = _TEMPLATE.search(line)
        if template:
            reason = "a template was left in the file: render it first, or put it in quotes"
            return Place(place.line, template.start() + 1), reason
        if _BARE_IPV6.search(line):
            return error.place, 'an address that begins with [ needs quotes, as in "[::1]:8080"'
    return None


def missing_blank(line: str) -> tuple[int, str] | None:
    """Return the column of the character that follows a key's colon or an item's dash without a
    blank, and the reason; None if the line has no such thing."""
    dash = _NO_BLANK_AFTER_DASH.match(line)
    if dash is not None:
        return dash.end() + 1, f"a blank is missing after the dash in {clip(line.strip())!r}"
    found = _NO_BLANK.match(line)
    if found is None:
        return None
    after = line[found.end()]
    if after.isspace() or not after.isprintable():
        return found.end() + 1, f"U+{ord(after):04X} after the colon is no blank: type a space"
    return found.end() + 1, f"a blank is missing after the colon in {clip(line.strip())!r}"


def _blank_missing_at(error: _Error, place: Place) -> _Answer | None:
    found = missing_blank(error.line(place))
    return None if found is None else (Place(place.line, found[0]), found[1])


def _no_token(error: _Error) -> _Answer:
    """A character that begins nothing: a tab, @, ` or %."""
    if r"\t" in error.problem:
        indents = not error.before(error.place).strip()
        reason = "a tab can't indent YAML; use spaces" if indents else "a tab stands here"
        return error.place, reason if indents else f"{reason}; YAML wants a space"
    return error.place, _needs_quotes(error.word(error.place))


def _needs_quotes(word: str) -> str:
    return f'text that begins with {word[:1]} needs quotes, as in "{word}"'


def _special(error: _Error) -> _Answer:
    """Text that begins with a character that means something to YAML: * & ! % |."""
    return error.start, _needs_quotes(error.word(error.start))


def _no_colon(error: _Error) -> _Answer:
    """A line that should be `key: value`."""
    blank = _blank_missing_at(error, error.start)
    if blank is not None:
        return blank
    word = clip(error.line(error.start)[(error.start.column or 1) - 1 :].strip())
    return error.start, f"a colon and a blank are missing after {word!r}: settings are `key: value`"


def _second_value(error: _Error) -> _Answer:
    """A `: ` where a value stands already."""
    if not _ONLY_KEY.match(error.before(error.place)):
        reason = "the value has a `: ` in it: put it in quotes, or each key on a line of its own"
        return error.place, reason
    above = _line_above(error, error.place)
    blank = _blank_missing_at(error, above)
    if blank is not None:
        return blank
    if _WORD_ALONE.match(error.line(above)):
        line = error.line(above).rstrip()
        return Place(above.line, len(line) + 1), f"a colon is missing after {clip(line.strip())!r}"
    begins = 1 + _key_column(error.line(above))
    reason = (
        f"it continues the value of line {above.line}, by its indentation; "
        f"a key beside that one begins in column {begins}"
    )
    return Place(error.place.line, 1 + _key_column(error.line(error.place))), reason


def _line_above(error: _Error, place: Place) -> Place:
    """Return the last line above that isn't empty and no comment."""
    number = (place.line or 1) - 1
    while number > 1 and not error.lines[number - 1].partition("#")[0].strip():
        number -= 1
    return Place(max(number, 1), 1)


def _key_column(line: str) -> int:
    """Return how many characters stand before a line's key."""
    return len(line) - len(line.lstrip(" -"))


def _version(error: _Error) -> _Answer:
    return error.place, "a %YAML line may name version 1 only; a configuration needs none"


def _dash(error: _Error) -> _Answer:
    return error.place, "a list's first `- ` stands on a line of its own; or write [one, two]"


def _question_mark(error: _Error) -> _Answer:
    return error.place, "text that begins with `? ` needs quotes"


def _escape(error: _Error) -> _Answer:
    reason = r"in double quotes a \ begins an escape: write \\, or use single quotes"
    return error.place, reason


def _open_quote(error: _Error) -> _Answer:
    return error.start, "the quote that begins here isn't closed"


def _block_text(error: _Error) -> _Answer:
    reason = "the text after | or > begins on the next line; text that begins with | needs quotes"
    return error.place, reason


def _after_the_end(error: _Error) -> _Answer:
    """Something after what PyYAML takes for the whole document."""
    if error.found in ("}", "]"):
        return error.place, f"this {error.found} closes nothing"
    above = error.lines[: (error.place.line or 1) - 1]
    for number, line in enumerate(above, 1):
        if line.startswith(("%", "...")):
            what = (
                "begins with % is a directive" if line[0] == "%" else "is `...` ends the document"
            )
            return Place(number, 1), f"a line that {what}, of which a configuration has none"
    first = next((line for line in above if line.partition("#")[0].strip()), "")
    if first.lstrip()[:1] in ("{", "["):
        return error.place, "something follows the bracket that closes the file's first one"
    reason = "it is indented less than the first setting: all of them begin in the same column"
    return error.place, reason


def _no_value(error: _Error) -> _Answer:
    match error.found:
        case "]" | "}" as bracket:
            return error.place, f"this {bracket} closes nothing"
        case ",":
            return error.place, "a value is missing before this comma"
        case "-":
            return _dash_in_brackets(error)
    return error.place, "a value is missing here"


def _dash_in_brackets(error: _Error) -> _Answer:
    return error.place, "in brackets a comma separates the items; they don't begin with `- `"


def _block(error: _Error) -> _Answer:
    """Something that doesn't belong to the list or mapping in whose place it stands."""
    match error.found:
        case "]" | "}" as bracket:
            return error.place, f"this {bracket} closes nothing"
        case ",":
            return (
                error.place,
                "a comma stands after the value; commas separate only in brackets",
            )
        case "<scalar>" if error.before(error.place).rstrip().endswith(("'", '"')):
            how = r"""for a quote inside write '' in single quotes, \" in double ones"""
            return error.place, f"text follows the closing quote; {how}"
        case "-":
            return error.place, "an item of a list stands where keys do"
        case ":":
            return error.place, "a key is missing before this colon"
    return _indentation(error)


def _indentation(error: _Error) -> _Answer:
    above = _line_above(error, error.place)
    near = f"line {above.line} begins in column {1 + _key_column(error.line(above))}"
    begins = f"begin in column {error.start.column} (line {error.start.line})"
    if "collection" in error.context:
        return error.place, f"it is no item of the list, whose items start with `- ` and {begins}"
    return error.place, f"its indentation fits nothing above: {near}, the keys around it {begins}"


def _flow(error: _Error) -> _Answer:
    """Something that isn't expected in brackets."""
    opened, closes = ("[", "]") if "sequence" in error.context else ("{", "}")
    for place in (error.place, Place((error.place.line or 2) - 1)):
        comment = _OTHER_COMMENT.search(error.line(place))
        if comment:
            return Place(place.line, comment.end() - 1), "a comment begins with #, not with //"
    if error.found.startswith(("<stream", "<document")):
        return error.start, f"the {opened} that begins here isn't closed"
    if error.found in ("]", "}"):
        opening = f"the {opened} in line {error.start.line}, column {error.start.column}"
        return error.place, f"{opening} is closed by {error.found}; it needs {closes}"
    if error.place.line != error.start.line and _KEY_FIRST.match(error.line(error.place)):
        return _next_line(error, opened, closes)
    return _in_brackets(error)


def _next_line(error: _Error, opened: str, closes: str) -> _Answer:
    """A line that begins with a key, after one in brackets without a comma at its end."""
    rest = error.from_start
    if rest.count(opened) > rest.count(closes):
        reason = f"the {opened} that begins here isn't closed before line {error.place.line}"
        return error.start, reason
    above = _line_above(error, error.place)
    end = len(error.line(above).rstrip())
    return Place(above.line, end + 1), f"a comma is missing at the end of line {above.line}"


def _in_brackets(error: _Error) -> _Answer:
    if error.found == "-":
        return _dash_in_brackets(error)
    if error.found == ":":
        return error.place, "a comma is missing before this key, or text with a `: ` needs quotes"
    missing = "a comma" if "sequence" in error.context else "a comma or a colon"
    return error.place, f"{missing} is missing before this"


_ANSWERS: tuple[tuple[str, Callable[[_Error], _Answer]], ...] = (
    ("cannot start any token", _no_token),
    ("could not find expected ':'", _no_colon),
    ("mapping values are not allowed", _second_value),
    ("sequence entries are not allowed", _dash),
    ("mapping keys are not allowed", _question_mark),
    ("scanning an alias", _special),
    ("scanning an anchor", _special),
    ("scanning a directive", _special),
    ("scanning a tag", _special),
    ("parsing a tag", _special),
    ("undefined tag handle", _special),
    ("incompatible YAML document", _version),
    ("escape character", _escape),
    ("escape sequence", _escape),
    ("scanning a quoted scalar", _open_quote),
    ("scanning a block scalar", _block_text),
    ("expected '<document start>'", _after_the_end),
    ("expected the node content", _no_value),
    ("parsing a block", _block),
    ("parsing a flow", _flow),
)
"""A part of PyYAML's context or problem, and what it means; the first that fits answers."""
