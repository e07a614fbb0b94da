"""The page of a connection's life: the same in each engine, and what the table of moves allows.

Read as text, because the compiled engine's page is Cython.  A verb is `on_…`; the states that it
enters are the arguments of the calls of `enter_state`, by itself or by what it calls in the page.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import (
    test_transport_dial,
    test_transport_l7_proxies,
    test_transport_relay,
    test_transport_tls,
    test_transport_tunnels,
)
from tests.helpers.streams import close_all
from uproxy.lifecycle import MOVES, State
from uproxy.transport.python import PythonEngine
from uproxy.transport.python.connection import Connection

TRANSPORT = Path(__file__).parents[1] / "uproxy" / "transport"

CALLED_IN: dict[str, set[State]] = {
    "on_accepted": {State.ACCEPTED},
    "on_client_hello": {State.HANDSHAKING_DOWNSTREAM},
    "on_handshaken": {State.HANDSHAKING_DOWNSTREAM},
    "on_carrying": {State.HANDSHAKING_DOWNSTREAM},
    "on_target_known": {
        State.ACCEPTED, State.HANDSHAKING_DOWNSTREAM, State.CONNECTING, State.HANDSHAKING_UPSTREAM,
        State.OPENING_STREAM, State.ADMITTING,
    },
    "on_routed": {
        State.ADMITTING, State.CONNECTING, State.HANDSHAKING_UPSTREAM, State.OPENING_STREAM,
    },
    "on_connected": {State.CONNECTING},
    "on_tunnel_ready": {State.CONNECTING, State.HANDSHAKING_UPSTREAM},
    "on_upstream_ready": {State.CONNECTING, State.HANDSHAKING_UPSTREAM, State.OPENING_STREAM},
    "on_stranded": {State.RELAYING},
    "on_relay_ended": {State.CARRYING, State.RELAYING, State.CLOSING},
    "on_failed": set(State) - {State.CLOSED},
    "on_deadline": set(State) - {State.CLOSED, State.ACCEPTED, State.CARRYING, State.ADMITTING},
    "on_cut": set(State) - {State.CLOSED},
}  # fmt: skip
"""The verbs in order, and the states in which a connection may be when one is called."""


@dataclass(frozen=True)
class Language:
    """How an engine's page writes what is looked for."""

    page: Path
    function: re.Pattern[str]
    """The begin of a function, with its name."""
    enters: re.Pattern[str]
    """The name of a state that is entered."""
    setter: re.Pattern[str]
    """What sets a state or a deadline, in any page."""

    def functions(self) -> dict[str, str]:
        """Return each function's body by its name, in the page's order."""
        text = self.page.read_text()
        found = list(self.function.finditer(text))
        ends = [match.start() for match in found[1:]] + [len(text)]
        return {match[1]: text[match.start() : end] for match, end in zip(found, ends, strict=True)}

    def verbs(self) -> list[str]:
        return [name for name in self.functions() if name.startswith("on_")]

    def done_by(self, verb: str) -> set[str]:
        """Return the functions that a verb calls, directly or not, but for other verbs; itself
        too."""
        functions, found, rest = self.functions(), {verb}, [verb]
        while rest:
            body = functions[rest.pop()].partition("\n")[2]
            called = {name for name in functions if re.search(rf"\b{name}\(", body)}
            new = {name for name in called - found if not name.startswith("on_")}
            found |= new
            rest += new
        return found

    def entered(self, names: Iterable[str]) -> set[State]:
        """Return the states that functions enter."""
        functions = self.functions()
        return {State[state] for name in names for state in self.enters.findall(functions[name])}

    def moves(self, verb: str) -> set[tuple[State, State]]:
        """Return the moves that a verb may make: to each state that it enters, from each in which
        it is called, or which it has entered before."""
        entered = self.entered(self.done_by(verb))
        return {(before, after) for before in CALLED_IN[verb] | entered for after in entered}

    def other_pages(self) -> list[Path]:
        found = sorted(self.page.parent.glob(f"*{self.page.suffix}"))
        assert self.page in found
        return [path for path in found if path != self.page]


ENGINES = {
    "python": Language(
        page=TRANSPORT / "python" / "connection.py",
        function=re.compile(r"^    (?:async )?def (\w+)\(", re.MULTILINE),
        enters=re.compile(r"\.enter_state\(State\.(\w+),"),
        setter=re.compile(r"\.state\s*=[^=]|enter_state|deadline\(|\btimeout\(|\bwait_for\("),
    ),
    "native": Language(
        page=TRANSPORT / "native" / "connection.pxd",
        function=re.compile(r"^cdef [\w ]*?(\w+)\(", re.MULTILINE),
        enters=re.compile(r"(?:\benter_state\(\w+, |\bstate(?:, \w+)* = )S_(\w+)"),
        setter=re.compile(r"\.state\s*=[^=]|\benter_state|\bset_state\(|\bset_deadline\("),
    ),
}


@pytest.fixture(params=sorted(ENGINES))
def language(request: pytest.FixtureRequest) -> Language:
    return ENGINES[request.param]


def test_the_page_has_the_verbs_in_their_order(language: Language) -> None:
    assert language.verbs() == list(CALLED_IN)


def test_states_are_entered_by_verbs_only(language: Language) -> None:
    """By themselves, or by functions that they call."""
    enter = {name for name, body in language.functions().items() if language.enters.search(body)}
    assert enter
    assert enter <= {name for verb in language.verbs() for name in language.done_by(verb)}


def test_each_state_that_a_verb_enters_follows_one_in_which_it_may_be(language: Language) -> None:
    for verb in language.verbs():
        allowed = {after for before, after in language.moves(verb) if after in MOVES[before]}
        assert language.entered(language.done_by(verb)) <= allowed | CALLED_IN[verb], verb


def test_each_move_of_the_table_is_made_by_some_verb(language: Language) -> None:
    made = {move for verb in language.verbs() for move in language.moves(verb)}
    moves = {(before, after) for before, states in MOVES.items() for after in states}
    assert moves - made == set()


def test_no_other_page_sets_a_state_or_a_deadline(language: Language) -> None:
    pages = language.other_pages()
    assert len(pages) > 8
    set_by = {path.name: language.setter.findall(path.read_text()) for path in pages}
    # of what the page calls; and a tunnel's life, which isn't that of one connection
    definitions = {"deadlines.pxd", "state.pxd", "steps.py", "pool.py", "tunnel.py"}
    assert {name for name, found in set_by.items() if found} <= definitions


def test_other_timers_of_the_python_engine_are_no_deadlines() -> None:
    """They are to accept again, to look again at what the kernel has delivered, and of tunnels."""
    pages = ENGINES["python"].other_pages()
    timers = {path.name for path in pages if re.search(r"\bcall_(at|later)\(", path.read_text())}
    tunnels = {"carried.py", "frame_channel.py", "pool.py", "stream.py", "tunnel.py"}
    assert timers == {"listener.py", "relay.py", "steps.py"} | tunnels


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
    await test_transport_tunnels.test_the_caller_may_half_close_first(engine)
    await test_transport_tunnels.test_a_far_end_of_another_trust_domain_receives_no_byte(engine)
    await test_transport_l7_proxies.test_proxies_that_are_always_lost_are_given_up(engine)
    await engine.stop()
    close_all()
    assert {connection.state for connection in connections} == {State.CLOSED}
    assert {verb for verb, states in called.items() if not states} == set()
    for verb, states in called.items():
        assert states <= CALLED_IN[verb], verb
