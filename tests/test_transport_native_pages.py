"""The compiled engine's pages obey rules: an order, a length, words, and who may know what."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from uproxy.lifecycle import State

NATIVE = Path(__file__).parents[1] / "uproxy" / "transport" / "native"

ORDER = re.findall(
    r"\w+",
    "system openssl presented frames hpack_table hpack budgets faults streams connect windows "
    "reading sending verbs rules control blocks data session codes alpn types queues deadlines "
    "limits verify_cache route_cache references channel tls side client_hello close loss relay "
    "handshake offload dial accept state tunnel goodbye stream pool connection spoken arrival "
    "carrying dispatch worker core listener_handle connection_handle _engine",
)
"""The pages: each needs only those before it."""

LONGEST_PAGE = 350
LONGEST_WITH_A_REASON = 500
LONGEST_WITHOUT_A_DOCSTRING = 6
"""Lines."""

OF_A_CHANNEL = re.compile(
    r"\bfd\b|ssl|SSL|EPOLL|\bevents\b|\bmask\b|\berrno\b|\bBIO_|\bchannel\b|\bcarrier\b", re.ASCII
)
"""What a relay has no use for: its sides have it."""

SUFFIXES = (".pxd", ".pxi", ".pyx")

SETTERS = {"enter_state", "enter_state_by_loop", "ask_loop"}
SETS_STATE = re.compile(r"\.(?:state|waits_for|ended_in)(?:, [\w.]+)* = |set_deadline\(")


def path_of(page: str) -> Path:
    (path,) = (path for path in NATIVE.glob(f"{page}.p?*") if path.suffix in SUFFIXES)
    return path


def code_of(page: str) -> str:
    """Without docstrings and comments."""
    text = re.sub(r'"""(?:.|\n)*?"""', "", path_of(page).read_text())
    return re.sub(r"#[^\n]*", "", text)


def needed(page: str) -> set[str]:
    return set(re.findall(r"uproxy\.transport\.native\.(\w+) cimport", path_of(page).read_text()))


def functions(page: str) -> Iterator[tuple[str, list[str]]]:
    """The name and the body's lines of each function."""
    text = path_of(page).read_text()
    for start in re.finditer(
        r"^cdef (?!enum|struct|class|extern)[^\n(]*?(\w+)\([^:]*:\n", text, re.M
    ):
        body = re.match(r"(?:(?:    [^\n]*)?\n)*", text[start.end() :])
        assert body is not None
        yield start.group(1), body.group().rstrip().splitlines()


def test_the_design_lists_the_pages_in_their_order() -> None:
    design = (NATIVE.parents[2] / "docs" / "design.md").read_text()
    listed = re.findall(
        r"^\| `(\w+)` \|", design.split("### The pages\n")[1].split("\n## ")[0], re.M
    )
    assert listed == ORDER


def test_the_list_of_pages_has_each_page_once() -> None:
    files = {path.stem for path in NATIVE.iterdir() if path.suffix in SUFFIXES}
    assert sorted(ORDER) == sorted(files)


@pytest.mark.parametrize("page", ORDER)
def test_a_page_needs_only_pages_before_it(page: str) -> None:
    assert needed(page) <= set(ORDER[: ORDER.index(page)])


@pytest.mark.parametrize("page", ORDER)
def test_a_page_is_short_or_says_first_why_not(page: str) -> None:
    text = path_of(page).read_text()
    lines = len(text.splitlines())
    has_reason = "# Over 400 lines, because" in text.split('"""')[0]
    assert lines <= (LONGEST_WITH_A_REASON if has_reason else LONGEST_PAGE)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("page", ORDER)
def test_a_page_says_what_it_is_and_so_does_each_function_that_is_not_obvious(page: str) -> None:
    assert re.match(r'(?:#[^\n]*\n)*"""\S', path_of(page).read_text())
    silent = [
        name
        for name, body in functions(page)
        if len(body) > LONGEST_WITHOUT_A_DOCSTRING and not body[0].lstrip().startswith('"""')
    ]
    assert silent == []


def test_functions_are_found() -> None:
    """Or the test above would see nothing."""
    assert sum(len(list(functions(page))) for page in ORDER) > 200
    assert "pump" in dict(functions("relay"))


@pytest.mark.parametrize("page", ["relay", "loss"])
def test_a_relay_knows_sides_and_no_sockets(page: str) -> None:
    assert OF_A_CHANNEL.findall(code_of(page)) == []


@pytest.mark.parametrize("page", [page for page in ORDER if page not in ("state", "connection")])
def test_only_the_page_of_a_life_sets_states_and_deadlines(page: str) -> None:
    """A ConnectionHandle moves it for the loop, by the setter that is for that."""
    assert SETS_STATE.findall(re.sub(r"cdef inline int set_deadline\(", "", code_of(page))) == []
    allowed = {
        # its method of the same name; and `_engine` imports it for that
        "connection_handle": {"enter_state", "enter_state_by_loop"},
        "_engine": {"enter_state_by_loop"},
    }.get(page, set())
    assert SETTERS & set(re.findall(r"\w+", code_of(page))) <= allowed


@pytest.mark.parametrize("checked", [True, False])
def test_a_build_for_the_sanitizers_aborts_on_a_move_that_is_not_allowed(
    checked: bool, tmp_path: Path
) -> None:
    source, program = tmp_path / "moves.c", tmp_path / "moves"
    source.write_text(
        '#include "machine.h"\n'
        "int main(int count, char **words) {\n"
        "    (void)words;\n"
        "    allowed_moves[0] = 1u << 1;\n"
        "    check_move(0, count);\n"
        "    return 0;\n"
        "}\n"
    )
    flags = ["-DUPROXY_CHECK_MOVES"] if checked else []
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *flags, f"-I{NATIVE}", "-w", "-o", program, source], check=True)
    assert subprocess.run([program], check=False).returncode == 0
    refused = subprocess.run([program, "x"], capture_output=True, text=True, check=False)
    assert refused.returncode == (-signal.SIGABRT if checked else 0)
    assert ("can't go from state 0 to 2" in refused.stderr) is checked
    assert "-DUPROXY_CHECK_MOVES" in (NATIVE.parents[2] / ".ci" / "instrumented").read_text()


def test_each_state_is_entered() -> None:
    entered = set(re.findall(r"\bS_(\w+)", code_of("connection")))
    assert entered >= {state.name for state in State if state is not State.ACCEPTED}
