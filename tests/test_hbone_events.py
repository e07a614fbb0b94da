"""Events keep their order, and DATA of one stream without anything between is one."""

from __future__ import annotations

from uproxy.hbone.codes import ErrorCode
from uproxy.hbone.events import DataReceived, EndReceived, ResetReceived, Told


def test_data_of_one_stream_is_one_event() -> None:
    told = Told()
    for stream, data in ((1, b"a"), (1, b"b"), (3, b"c"), (1, b"d")):
        told.add_data(stream, data)
    told.add(EndReceived(1))
    told.add_data(3, b"e")
    assert told.take() == [
        DataReceived(1, b"ab"),
        DataReceived(3, b"c"),
        DataReceived(1, b"d"),
        EndReceived(1),
        DataReceived(3, b"e"),
    ]
    assert told.take() == []


def test_data_around_another_event_stays_around_it() -> None:
    told = Told()
    told.add_data(1, b"a")
    told.add(EndReceived(3))
    told.add_data(1, b"b")
    assert told.take() == [DataReceived(1, b"a"), EndReceived(3), DataReceived(1, b"b")]


def test_a_reset_is_orderly_only_without_an_error_and_behind_the_end() -> None:
    assert ResetReceived(1, ErrorCode.NO_ERROR, after_end=True).is_orderly
    assert not ResetReceived(1, ErrorCode.NO_ERROR).is_orderly
    assert not ResetReceived(1, ErrorCode.CANCEL, after_end=True).is_orderly
    assert not ResetReceived(1, ErrorCode.NO_ERROR, "a rule", after_end=True).is_orderly
