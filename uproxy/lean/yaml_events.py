"""The parts of PyYAML that uProxy uses, from text to events.

The package's own __init__ imports everything that makes objects from YAML and YAML from objects.
"""

from __future__ import annotations

from collections.abc import Iterator

from uproxy.lean import packages

with packages.package_not_run("yaml"):
    from yaml.error import MarkedYAMLError
    from yaml.events import (
        AliasEvent,
        CollectionStartEvent,
        DocumentStartEvent,
        Event,
        MappingEndEvent,
        NodeEvent,
        ScalarEvent,
        SequenceEndEvent,
        SequenceStartEvent,
    )
    from yaml.parser import Parser
    from yaml.reader import Reader, ReaderError
    from yaml.scanner import Scanner

__all__ = [
    "AliasEvent",
    "CollectionStartEvent",
    "DocumentStartEvent",
    "Event",
    "MappingEndEvent",
    "MarkedYAMLError",
    "NodeEvent",
    "ReaderError",
    "ScalarEvent",
    "SequenceEndEvent",
    "SequenceStartEvent",
    "parse",
]


class _Events(Reader, Scanner, Parser):
    """PyYAML's reader, scanner and parser, without what builds objects."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


def parse(text: str) -> Iterator[Event]:
    """Yield the events of a text, parsing as they are taken.

    Raises:
        MarkedYAMLError: it is not YAML; the error has the position.
        ReaderError: it has a character that YAML doesn't allow.
    """
    events = _Events(text)
    while events.check_event():
        event: Event = events.get_event()  # type: ignore[no-untyped-call]  # the stubs' gap
        yield event
