"""The parts of PyYAML that uProxy uses, from text to events, without the parts it doesn't.

The package's own __init__ imports everything that makes objects from YAML and YAML from
objects: half a MiB in every process, for nobody.  So the submodules are imported while a
stand-in that was never run holds the package's place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _package_not_run() -> Iterator[None]:
    if "yaml" in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("yaml")
    if spec is None:
        raise ImportError("PyYAML isn't installed")
    sys.modules["yaml"] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        # whoever else wants the package gets the real one, with submodules of its own
        for name in [each for each in sys.modules if each.partition(".")[0] == "yaml"]:
            del sys.modules[name]


with _package_not_run():
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
    """As PyYAML's loaders, which go on to build objects."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


def parse(text: str) -> Iterator[Event]:
    """The events of a text, as they are asked for.

    Raises:
        MarkedYAMLError: it isn't YAML; it says where.
        ReaderError: it has a character that YAML doesn't allow.
    """
    events = _Events(text)
    while events.check_event():
        event: Event = events.get_event()  # type: ignore[no-untyped-call]  # the stubs' gap
        yield event
