"""`uproxy manual`: a man page that mandoc has nothing to say about, with everything there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers.docs import table
from uproxy import __version__
from uproxy.cli import COMMANDS, main
from uproxy.cli.command_tree import Argument, Command, CommandTree, command_tree
from uproxy.cli.manual import EXIT_CODES, manual

PAGE = Path(__file__).parents[1] / "deploy" / "shell" / "uproxy.1"


def shown(page: str) -> str:
    """Return the page as a terminal shows it."""
    done = subprocess.run(
        ["mandoc", "-T", "utf8", "-O", "width=200"],
        input=page, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return re.sub(".\b", "", done.stdout)


def test_mandoc_has_no_complaint_not_even_of_style() -> None:
    lint = ["mandoc", "-T", "lint", "-W", "style", str(PAGE)]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_packages_install_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manual"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(), "run: make shell-files"


def test_every_command_and_option_is_on_the_page() -> None:
    text = shown(PAGE.read_text())
    assert __version__ in text
    for command in command_tree().commands:
        assert f"   uproxy {command.name}" in text
        section = text.partition(f"\n   {command.name}\n")[2]
        assert section, command.name
        for option in command.options:
            assert option.flags[-1] in text
            if option not in command_tree().common:
                assert option.help.partition(" ")[0] in section


def test_the_first_line_says_what_it_is() -> None:
    assert "uproxy - a micro-proxy for one workload: SPIFFE identity" in shown(PAGE.read_text())


def test_the_exit_codes_are_those_of_the_reference() -> None:
    rows = table(PAGE.parents[2] / "docs" / "reference" / "cli.md", "code")
    assert {row[0] for row in rows} == {str(code) for code in EXIT_CODES}


def test_no_text_of_the_help_is_read_as_a_request() -> None:
    odd = ".TH 'x' \\fI a-b … `code`"
    tree = CommandTree(
        odd, (), (Command("try", odd, (Argument(("--odd",), odd, "A", (), True, False),)),)
    )
    text = shown(manual(tree))
    # in the name, at the command, at its option
    assert text.count(".TH 'x' \\fI a-b ... code") == 3


def test_the_version_is_printed_by_an_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"uproxy {__version__}\n"
    assert len(COMMANDS) == len(command_tree().commands)
