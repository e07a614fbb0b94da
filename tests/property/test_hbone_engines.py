"""Both engines' sessions mean the same by the same bytes, however these are cut."""

from __future__ import annotations

import gc
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.helpers import hbone_sessions_native
from tests.helpers.hbone_sessions import Peer, client_of
from tests.helpers.hbone_sessions import data as data_frame
from tests.helpers.hbone_talk import End, Talk, both, in_order, joined
from uproxy.hbone.events import Event, WindowOpened
from uproxy.hbone.session import Session
from uproxy.hbone.windows import Growth
from uproxy.model import TunnelSettings


def talk(data: st.DataObject, *, server: bool) -> list[bytes]:
    """Frames of a peer."""
    made = Talk(lambda most: data.draw(st.integers(0, most)))
    count = data.draw(st.integers(0, 14))
    return [made.greeting(server=server), *(made.frame() for _ in range(count))]


@pytest.mark.parametrize("server", [True, False])
@given(st.data())
def test_both_engines_hear_and_say_the_same(server: bool, data: st.DataObject) -> None:
    python, native = both(server=server, opened=0 if server else 3)
    for said in talk(data, server=not server):
        assert native.hear(said) == python.hear(said)
        assert native.said == python.said
        for of in ("streams", "held", "is_overfull", "allowed"):
            assert getattr(native.subject, of) == getattr(python.subject, of), of


@pytest.mark.parametrize("server", [True, False])
@given(st.data())
def test_the_cuts_between_bytes_mean_nothing(server: bool, data: st.DataObject) -> None:
    said = b"".join(talk(data, server=not server))
    whole, cut = (
        End(hbone_sessions_native.session(server=server), follows=False) for _ in range(2)
    )
    for end in (whole, cut):
        for _ in range(0 if server else 3):
            end.subject.open("192.0.2.1:8080")
    size = data.draw(st.sampled_from([1, 2, 9, 10, 100, 10_000]))
    expected = whole.hear(said)
    heard: list[Event] = []
    for at in range(0, len(said), size):
        heard += cut.hear(said[at : at + size])
    assert without_windows(heard) == without_windows(expected)


def test_the_windows_of_several_tunnels_grow_alike() -> None:
    """And leave some to each that follows."""
    gc.collect()  # the compiled sessions of other tests
    growth = Growth()
    kept: list[Any] = []
    grown = []
    for _ in range(6):
        python = Session(server=True, settings=TunnelSettings(), now=0.0, growth=growth)
        kept += [python, hbone_sessions_native.session()]
        of_python, of_native = (windows_of(client_of(each)) for each in kept[-2:])
        assert of_native == of_python
        grown.append(max(of_python) - (256 << 10))
    assert grown == [4 << 20, 4 << 20, 4 << 20, 2 << 20, 1 << 20, 1 << 19]


def windows_of(client: Peer) -> list[int]:
    """Let a stream be read quickly; return how much may be sent on it, each time half of its first
    window has been read."""
    client.connect()
    windows, window = [], 256 << 10
    for _ in range(80):
        client.say(*(data_frame(1, bytes(16_384)) for _ in range(8)))
        client.subject.consumed(1, 1 << 20, 0.0)
        said = client.hear()
        window += sum(int.from_bytes(each.payload) for each in said if each.stream) - (128 << 10)
        windows.append(window)
    return windows


def without_windows(events: list[Event]) -> list[Event]:
    """What was heard but for windows that have opened, which is told of each piece."""
    return in_order(joined(each for each in events if not isinstance(each, WindowOpened)))
