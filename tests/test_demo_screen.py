"""What a person sees, on terminals and elsewhere."""

from __future__ import annotations

import asyncio
import io
import re

import pytest

from uproxy.demo.screen import Screen
from uproxy.lab.waiting import eventually


class Terminal(io.StringIO):
    """A stream that says it is one."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Hangup(Terminal):
    """A terminal that has gone."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def told(encoding: str, **environ: str) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    screen = Screen(stream, environ)
    tell(screen)
    return raw.getvalue().decode(encoding)


def tell(screen: Screen) -> None:
    screen.title("a title")
    screen.step(1, "a step")
    screen.done("it is done → …")
    screen.fact("name", "value")


PLAIN = """\
a title

1  a step
   ✓ it is done → …
     name            value
"""


def test_a_pipe_gets_plain_lines() -> None:
    assert told("utf-8", TERM="xterm") == PLAIN


def test_where_check_marks_cant_be_written_there_are_words() -> None:
    expected = PLAIN.replace("✓", "ok").replace("→", "->").replace("…", "..")
    assert told("latin-1") == expected


def test_a_terminal_gets_color() -> None:
    terminal = Terminal()
    tell(Screen(terminal, {"TERM": "xterm"}))
    assert "\x1b[32m✓\x1b[0m it is done" in terminal.getvalue()


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_nobody_gets_color_who_does_not_want_it(environ: dict[str, str]) -> None:
    terminal = Terminal()
    tell(Screen(terminal, environ))
    assert re.search(r"\x1b\[\d", terminal.getvalue()) is None


def test_a_long_value_goes_on_below_itself(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    Screen(stream, {}).fact("orders says", "word " * 30)
    first, *others = stream.getvalue().splitlines()
    assert first.startswith("     orders says     word word")
    assert others
    assert all(line.startswith(" " * 21 + "word") for line in others)
    assert max(map(len, [first, *others])) <= 96


def test_a_path_stays_in_one_piece() -> None:
    path, stream = "/tmp/" + "long-" * 40, io.StringIO()
    Screen(stream, {}).fact("configuration", path)
    assert path in stream.getvalue()


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    stream = io.StringIO()
    Screen(stream, {}).table(("who", "n"), [("somebody", "1"), ("me", "22")])
    assert stream.getvalue() == "     who       n\n     somebody  1\n     me        22\n"


async def test_a_terminal_sees_that_something_takes_long() -> None:
    terminal = Terminal()
    with Screen(terminal, {}).waiting("it takes long"):
        await eventually(lambda: terminal.getvalue().count("it takes long") > 1, "the mark moves")
    assert terminal.getvalue().endswith("\r\x1b[K")


async def test_a_pipe_sees_nothing_of_the_waiting() -> None:
    stream = io.StringIO()
    with Screen(stream, {}).waiting("it takes long"):
        await asyncio.sleep(0)
    assert stream.getvalue() == ""


def test_a_terminal_that_has_gone_is_like_a_pipe_that_nobody_reads() -> None:
    with pytest.raises(BrokenPipeError):
        Screen(Hangup(), {}).title("hello?")


async def test_a_terminal_that_goes_while_waiting_is_noticed_afterwards() -> None:
    screen, waited = Screen(Hangup(), {}), False
    with pytest.raises(BrokenPipeError), screen.waiting("it takes long"):
        waited = True
    assert waited
