"""`docs/start/first-two-uproxies.md`, done by somebody who pastes each of its blocks into a shell.

A block without a language shows what the block before it printed; what differs each time (times,
ports of clients, numbers of bytes) is made alike on both sides.  Where the page waits a second, it
is waited one for each program here that wants to run, and two: other tests may keep this busy.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.helpers.docs import ROOT, Block, blocks
from tests.helpers.shells import Shell, shell

pytestmark = [pytest.mark.slow, pytest.mark.privileged, pytest.mark.timeout(900)]

PAGE = ROOT / "docs" / "start" / "first-two-uproxies.md"
PATIENCE = """sleep() { command sleep $(awk -v s=$1 '{ print s * (2 + $1) }' /proc/loadavg); }"""

RESET = "curl: (56) Recv failure: Connection reset by peer"

_JOB = re.compile(r"^\[\d+\][ +-].*\n", re.MULTILINE)
"""What an interactive shell says of programs in the background."""
_DIFFERS = (
    (re.compile(r"^uproxy: warning: limits.connections.*\n", re.MULTILINE), ""),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*"), "TIME"),
    (re.compile(r"((?:src|local)\.addr=127\.0\.0\.1):[3-6]\d{4}"), r"\1:PORT"),
    (re.compile(r"(bytes_(?:sent|recv))=[1-9]\d*"), r"\1=SOME"),
    (re.compile(r"duration=\S+"), "duration=SOME"),
    # a reset that comes before curl has looked whether it is connected
    (re.compile(r"curl: \(7\) Failed to connect to .*"), RESET),
)


class Reader:
    """Somebody at a shell, in a checkout and with a home folder of their own."""

    def __init__(self, shell: Shell, home: Path, checkout: Path) -> None:
        self.home = home
        self.checkout = checkout
        self._shell = shell
        self._numbers = count()

    def pastes(self, text: str) -> str:
        """Paste commands; return what they print."""
        if "--watch" in text:
            self._watches(text)
            text = ""
        end = f"{next(self._numbers)} ended\n"
        self._shell.types(f"{text}echo {end}")
        return _JOB.sub("", self._shell.shows(end, within_s=240.0).removesuffix(end))

    def _watches(self, text: str) -> None:
        """Paste commands, and press q when the last one has shown that it ends by this."""
        self._shell.types(f"PS1='back: '\n{text}")
        self._shell.shows("q quits", within_s=240.0)
        self._shell.types("q")
        self._shell.shows("back: ", within_s=240.0)
        self._shell.types("PS1=\n")


@pytest.fixture
def reader() -> Iterator[Reader]:
    with tempfile.TemporaryDirectory(prefix="tutorial-") as name:
        home = Path(name)
        checkout = home / "checkout"
        shutil.copytree(ROOT / "certs", checkout / "certs")
        (home / "uproxy" / "bin").mkdir(parents=True)
        (home / "uproxy" / "bin" / "uproxy").symlink_to(Path(sys.executable).with_name("uproxy"))
        # the page's ports may be taken on this machine; whatever happens, no program stays
        argv = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        argv += ["bash", "--norc", "--noprofile", "--noediting", "-i"]
        with shell(argv, checkout, {"HOME": name, "XDG_RUNTIME_DIR": name}) as running:
            running.types("stty -echo; PS1=; ulimit -n $(ulimit -Hn); echo its $((1))\n")
            running.shows("its 1\n")
            running.types(f"{PATIENCE}; ip link set lo up; echo up\n")
            running.shows("up\n")
            yield Reader(running, home, checkout)


def file_to_write(block: Block) -> str:
    """The name that the sentence above a configuration has."""
    above = "\n".join(PAGE.read_text().splitlines()[: block.line - 1])
    names: list[str] = re.findall(r"Write `(\S+)`", above)
    return names[-1]


def alike(text: str, home: Path) -> str:
    for pattern, instead in _DIFFERS:
        text = pattern.sub(instead, text)
    return text.replace(str(home), "/run/user/1000")


def test_the_tutorial_shows_what_its_reader_sees(reader: Reader) -> None:
    picture, installing, *rest = (
        block for block in blocks(PAGE) if block.info in ("sh", "yaml", "")
    )
    assert picture.info == ""
    # what pip installs is tried by .ci/wheel
    made, export, after = installing.text.partition("export PATH=")
    assert made.splitlines()[-1].endswith("pip install -c constraints.txt .")
    reader.pastes(export + after)
    printed, compared, stale = "", 0, list[str]()
    for block in rest:
        match block.info:
            case "sh":
                printed = reader.pastes(block.text)
            case "yaml":
                (reader.checkout / "first" / file_to_write(block)).write_text(block.text)
            case _:
                compared += 1
                if alike(printed, reader.home) != alike(block.text, reader.home):
                    stale.append(f"{block} isn't\n{printed}")
    assert not stale, "\n".join(stale)
    assert compared > 5
    certs = reader.checkout / "certs"
    left = {path for path in reader.home.rglob("*") if path.is_file() or path.is_socket()}
    assert left == set(certs.iterdir())
