"""The page of a connection's life: the same in each engine, and what the table of moves allows.

Read as text, because the compiled engine's page is Cython.  A verb is `on_…`; the states that it
enters are the arguments of its calls of `enter_state`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import test_transport_dial, test_transport_relay, test_transport_tls
from tests.helpers.streams import close_all
from uproxy.lifecycle import MOVES, State
from uproxy.transport.python import PythonEngine
from uproxy.transport.python.connection import Connection

TRANSPORT = Path(__file__).parents[1] / "uproxy" / "transport"

CALLED_IN: dict[str, set[State]] = {
    "on_accepted": {State.ACCEPTED},
    "on_client_hello": {State.HANDSHAKING_DOWNSTREAM},
    "on_handshaken": {State.HANDSHAKING_DOWNSTREAM},
    "on_target_known": {
        State.ACCEPTED, State.HANDSHAKING_DOWNSTREAM, State.CONNECTING, State.HANDSHAKING_UPSTREAM,
    },
    "on_routed": {State.ADMITTING, State.CONNECTING, State.HANDSHAKING_UPSTREAM},
    "on_connected": {State.CONNECTING},
    "on_upstream_ready": {State.CONNECTING, State.HANDSHAKING_UPSTREAM},
    "on_relay_ended": {State.RELAYING, State.CLOSING},
    "on_failed": set(State) - {State.CLOSED},
    "on_deadline": set(State) - {State.CLOSED, State.ACCEPTED, State.ADMITTING},
    "on_cut": set(State) - {State.CLOSED},
}  # fmt: skip
"""The verbs in order, and the states in which a connection may be when one is called."""


@dataclass(frozen=True)
class Language:
    """How a page of one engine writes what is looked for."""

    page: Path
    verb: re.Pattern[str]
    function: re.Pattern[str]
    enters: re.Pattern[str]
    others: tuple[str, ...]
    """The engine's other pages, as patterns of paths below its directory."""

    def text(self) -> str:
        return self.page.read_text()

    def verbs(self) -> list[tuple[str, str]]:
        """Return each verb's name and body, in the page's order."""
        text = self.text()
        starts = [match.start() for match in self.function.finditer(text)] + [len(text)]
        found = []
        for match in self.verb.finditer(text):
            end = min(start for start in starts if start > match.start())
            found.append((match[1], text[match.start() : end]))
        return found

    def entered(self) -> dict[str, set[State]]:
        """Return the states that each verb enters."""
        return {
            name: {State[state] for state in self.enters.findall(body)}
            for name, body in self.verbs()
        }


ENGINES = {
    "python": Language(
        page=TRANSPORT / "python" / "connection.py",
        verb=re.compile(r"^    (?:async )?def (on_\w+)\(", re.MULTILINE),
        function=re.compile(r"^    (?:async )?def \w+\(", re.MULTILINE),
        enters=re.compile(r"\.enter_state\(State\.(\w+),"),
        others=("*.py",),
    ),
}


@pytest.fixture(params=sorted(ENGINES))
def language(request: pytest.FixtureRequest) -> Language:
    return ENGINES[request.param]


def others(language: Language) -> list[Path]:
    """Return the engine's pages but the one of the connection's life."""
    found = [path for each in language.others for path in language.page.parent.glob(each)]
    assert language.page in found
    return [path for path in found if path != language.page]


def test_the_page_has_the_verbs_in_their_order(language: Language) -> None:
    assert [name for name, _body in language.verbs()] == list(CALLED_IN)


def test_states_are_entered_by_verbs_only(language: Language) -> None:
    calls = len(language.enters.findall(language.text()))
    in_verbs = sum(len(language.enters.findall(body)) for _name, body in language.verbs())
    assert (calls, calls > 0) == (in_verbs, True)


def test_each_state_that_a_verb_enters_may_follow_one_in_which_it_is_called(
    language: Language,
) -> None:
    for verb, states in language.entered().items():
        for state in states:
            before = {each for each in CALLED_IN[verb] if state in MOVES[each]}
            assert before or state in CALLED_IN[verb], f"{verb} can't enter {state}"


def test_each_move_of_the_table_is_made_by_some_verb(language: Language) -> None:
    made = {
        (before, after)
        for verb, states in language.entered().items()
        for before in CALLED_IN[verb]
        for after in states
    }
    moves = {(before, after) for before, states in MOVES.items() for after in states}
    assert moves - made == set()


def test_no_other_page_of_the_python_engine_sets_a_state_or_a_deadline() -> None:
    sets = re.compile(r"\.state\s*=[^=]|enter_state|deadline\(|\btimeout(_at)?\(|\bwait_for\(")
    pages = others(ENGINES["python"])
    assert len(pages) > 8
    assert {path.name: sets.findall(path.read_text()) for path in pages} == {
        path.name: [] for path in pages
    }
    # the timers that there are: accepting again, and looking what the kernel has delivered
    timers = {path.name for path in pages if re.search(r"\bcall_(at|later)\(", path.read_text())}
    assert timers == {"listener.py", "relay.py"}


def test_a_relay_of_the_python_engine_knows_no_socket_no_session_and_no_poller() -> None:
    knows = re.compile(
        r"\b(socket|fileno|session|ssl|poller|epoll|mask|READ|WRITE|BROKEN|HUNG_UP|errno"
        r"|channel|Channel\w*|TlsChannel)\b"
    )
    for name in ("relay.py", "loss.py"):
        text = (TRANSPORT / "python" / name).read_text()
        code = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
        assert knows.findall(code) == [], name


async def test_the_python_engine_calls_each_verb_in_those_states_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: dict[str, set[State]] = {verb: set() for verb in CALLED_IN}
    connections: set[Connection] = set()

    def recording(verb: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(connection: Connection, *arguments: Any) -> Any:
            called[verb].add(connection.state)
            connections.add(connection)
            return function(connection, *arguments)

        return call

    for verb in CALLED_IN:
        monkeypatch.setattr(Connection, verb, recording(verb, getattr(Connection, verb)))
    engine = PythonEngine()
    await test_transport_tls.test_each_candidate_is_told_its_own_name(engine)
    await test_transport_tls.test_a_trusted_caller_is_admitted_under_its_identity(engine)
    await test_transport_dial.test_a_dial_without_an_answer_has_a_deadline(engine)
    await test_transport_relay.test_the_downstream_side_may_half_close_first(engine)
    await test_transport_relay.test_a_reset_of_one_side_becomes_a_reset_of_the_other(
        engine, "downstream"
    )
    await engine.stop()
    close_all()
    assert {connection.state for connection in connections} == {State.CLOSED}
    assert {verb for verb, states in called.items() if not states} == set()
    for verb, states in called.items():
        assert states <= CALLED_IN[verb], verb
