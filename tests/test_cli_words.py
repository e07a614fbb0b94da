"""What `uproxy run` is told, read without argparse as argparse reads it."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.cli.parsing import parser_of
from uproxy.cli.words import read_run

WORDS = st.sampled_from(
    ["run", "check", "--config", "--set", "--log-level", "--config=a.yaml", "--set=name=b",
     "--log-level=debug", "--log-level=loud", "--conf", "--help", "-h", "--", "-", "", "--set=",
     "a.yaml", "name=b", "info", "--version", "-1", "a b"]
)  # fmt: skip


def by_argparse(words: list[str]) -> dict[str, object] | None:
    """Return what argparse reads; None: it refuses the words, or prints something."""
    with (
        contextlib.suppress(SystemExit),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        return vars(parser_of(("run",)).parse_args(words))
    return None


@given(st.lists(WORDS, max_size=7))
def test_what_is_read_is_what_argparse_reads(words: list[str]) -> None:
    read = read_run(["run", *words])
    if read is not None:
        assert by_argparse(["run", *words]) == {
            "command": read.command,
            "config": read.config,
            "overrides": [*read.overrides],
            "log_level": read.log_level,
        }


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "u.yaml"],
        ["--config=u.yaml", "--set", "name=a=b", "--set=log.level=debug"],
        ["--log-level", "info", "--config", "first.yaml", "--config", "u.yaml"],
    ],
)
def test_it_reads_how_it_is_usually_called(words: list[str]) -> None:
    read = read_run(["run", *words])
    assert read is not None
    assert read.config == "u.yaml"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["check", "--config", "u.yaml"],
        ["run"],
        ["run", "--config"],
        ["run", "--config", "--set"],
        ["run", "--conf", "u.yaml"],
        ["run", "--config", "u.yaml", "--help"],
        ["run", "--config", "u.yaml", "--log-level", "loud"],
        ["run", "--config", "u.yaml", "more"],
    ],
)
def test_whatever_else_is_left_to_argparse(words: list[str]) -> None:
    assert read_run(words) is None


def test_a_proxy_that_runs_has_no_argparse() -> None:
    program = """
import sys
from uproxy.cli import main
code = main(["run", "--config", "/nowhere.yaml"])
print(code, "argparse" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 False\n"
    assert "nowhere.yaml" in done.stderr
