"""`uproxy completion`: what the shells themselves complete with the scripts."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.config_documents import FILES, mistakes
from tests.helpers.shells import Shell, shell
from uproxy.cli import COMMANDS, main, shells
from uproxy.cli.command_tree import Argument, Command, CommandTree, command_tree, settings

ROOT = Path(__file__).parents[1]
INSTALLED = {
    "bash": ROOT / "deploy" / "shell" / "bash" / "uproxy",
    "zsh": ROOT / "deploy" / "shell" / "zsh" / "_uproxy",
    "fish": ROOT / "deploy" / "shell" / "fish" / "uproxy.fish",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "or ders.yaml").touch()
    return tmp_path


@pytest.fixture
def bash(folder: Path) -> Iterator[Shell]:
    with shell(["bash", "--norc", "--noprofile", "-i"], folder) as running:
        running.types(f"bind 'set show-all-if-ambiguous on'; source {INSTALLED['bash']}; echo $?\n")
        running.shows("\n0\n")
        yield running


@pytest.fixture(params=["folder of functions", "eval"])
def zsh(folder: Path, request: pytest.FixtureRequest) -> Iterator[Shell]:
    script = INSTALLED["zsh"]
    lines = [f"fpath=({script.parent} $fpath)", "autoload -Uz compinit", "compinit -u -D"]
    if request.param == "eval":
        lines = [*lines[1:], f'eval "$(cat {script})"']
    with shell(["zsh", "-f", "-i"], folder) as running:
        running.types("; ".join([*lines, "echo $?"]) + "\n")
        running.shows("\n0\n")
        yield running


def fish(folder: Path, line: str) -> list[str]:
    """Return what fish would offer at the end of this line, without descriptions."""
    program = f"source {INSTALLED['fish']}; complete -C {line!r}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", program],
        capture_output=True, text=True, check=True, cwd=folder, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    return [each.partition("\t")[0] for each in done.stdout.splitlines()]


def test_bash_completes_commands_options_values_and_files(bash: Shell) -> None:
    bash.types("uproxy \t")
    bash.shows(*COMMANDS, "--version")
    bash.types("\x15uproxy che\t")
    bash.shows("uproxy check ")
    bash.types("\x15uproxy check --wa\t")
    bash.shows("uproxy check --wait ")
    bash.types("\x15uproxy run --log-level=de\t")
    bash.shows("--log-level=debug ")
    bash.types("\x15uproxy run --set timeouts.id\t1h")
    bash.shows("--set timeouts.idle=1h")
    for before in ("check ", "check --wait 5s ", "run --config ", "run --config="):
        bash.types(f"\x15uproxy {before}or\t")
        bash.shows(f"uproxy {before}or\\ ders.yaml")


def test_zsh_completes_commands_options_values_and_files(zsh: Shell) -> None:
    zsh.types("uproxy \t")
    zsh.shows(*(f"{name} " for name in COMMANDS), COMMANDS["check"])
    zsh.types("\x15uproxy che\t")
    zsh.shows("uproxy check ")
    zsh.types("\x15uproxy check --wa\t")
    zsh.shows("uproxy check --wait ")
    zsh.types("\x15uproxy run --log-level de\t")
    zsh.shows("--log-level debug ")
    zsh.types("\x15uproxy run --set timeouts.id\t1h")
    zsh.shows("--set timeouts.idle=1h")
    for before in ("check ", "run --config "):
        zsh.types(f"\x15uproxy {before}or\t")
        zsh.shows(f"uproxy {before}or\\ ders.yaml")


def test_fish_completes_commands_options_values_and_files(folder: Path) -> None:
    assert set(COMMANDS) <= set(fish(folder, "uproxy "))
    assert fish(folder, "uproxy --v") == ["--version"]
    assert fish(folder, "uproxy check --wa") == ["--wait"]
    assert fish(folder, "uproxy run --log-level de") == ["debug"]
    assert fish(folder, "uproxy run --set timeouts.id") == ["timeouts.idle="]
    assert fish(folder, "uproxy completion ") == ["bash", "fish", "zsh"]
    assert "or ders.yaml" in " ".join(fish(folder, "uproxy check or")).replace("\\ ", " ")
    assert "or ders.yaml" in " ".join(fish(folder, "uproxy run --config or")).replace("\\ ", " ")
    assert fish(folder, "uproxy demo or") == []


@pytest.mark.parametrize("name", INSTALLED)
def test_what_packages_install_is_what_is_printed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", name]) == 0
    assert capsys.readouterr().out == INSTALLED[name].read_text(), "run: make shell-files"


def test_packages_install_the_files_where_shells_look() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    files = document["tool"]["setuptools"]["data-files"]
    assert files == {
        "share/bash-completion/completions": ["deploy/shell/bash/uproxy"],
        "share/zsh/site-functions": ["deploy/shell/zsh/_uproxy"],
        "share/fish/vendor_completions.d": ["deploy/shell/fish/uproxy.fish"],
        "share/man/man1": ["deploy/shell/uproxy.1"],
    }
    assert all((ROOT / each).exists() for [each] in files.values())


def test_the_tree_has_every_command_with_its_arguments() -> None:
    tree = command_tree()
    assert {command.name: command.summary for command in tree.commands} == COMMANDS
    check = next(command for command in tree.commands if command.name == "check")
    assert [each.takes for each in check.positionals] == ["FILE"]
    assert [each.flags[-1] for each in check.options if each.is_file] == ["--config"]
    assert [each.flags[-1] for each in tree.common] == ["--help", "--log-level"]


def test_the_settings_are_those_that_set_takes() -> None:
    found = settings()
    assert {"name", "engine", "timeouts.idle", "identity.files.svid", "admin.listen"} <= set(found)
    assert not {"timeouts", "admin", "identity"} & set(found)
    for path in found:
        reasons = [each.reason for each in mistakes(FILES, overrides=[f"{path}=[[]]"])]
        assert "no such key" not in reasons, path


AWKWARD = CommandTree(
    "s",
    (),
    (
        Command(
            "try",
            "it's [odd]: \\ $HOME `x`",
            (Argument(("--odd",), "it's [odd]: \\ $HOME `x`", "A:B", (), False, False),),
        ),
    ),
)


@pytest.mark.parametrize("name", INSTALLED)
def test_no_text_of_the_help_is_read_as_the_shells_own(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(getattr(shells, name)(AWKWARD))
    subprocess.run([name, "-n", script], check=True)
    if name == "fish":
        shown = subprocess.run(
            [name, "--no-config", "-c", f"source {script}; complete -C 'uproxy tr'"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert shown.stdout == "try\tit's [odd]: \\ $HOME `x`\n"
