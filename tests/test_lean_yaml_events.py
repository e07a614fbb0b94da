"""uproxy.lean.yaml_events: PyYAML's events, without the rest of PyYAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from uproxy.lean import yaml_events

TEXTS = [
    "", "a: 1\n", "[1, {b: 'c'}]", "- &x a\n- *x\n", "a: |\n  b\n  c\n", "--- 1\n--- 2\n", "a: [",
    "a: b: c", "\x00", "? a\n: !!str b\n",
]  # fmt: skip


def outcome(parse: object, *args: object, **options: object) -> str:
    """The events, or the error, as text."""
    assert callable(parse)
    try:
        return "\n".join(map(repr, parse(*args, **options)))
    except (yaml.YAMLError, yaml_events.MarkedYAMLError, yaml_events.ReaderError) as error:
        return f"{type(error).__name__} {error}"


@pytest.mark.parametrize("text", TEXTS)
def test_the_events_are_pyyamls_own(text: str) -> None:
    assert outcome(yaml_events.parse, text) == outcome(yaml.parse, text, Loader=yaml.BaseLoader)


@given(st.text(alphabet="ab:-[]{},?&*!|>'\"%@` \n\t#\x00\u00e9"))
def test_the_events_of_any_text_are_pyyamls_own(text: str) -> None:
    assert outcome(yaml_events.parse, text) == outcome(yaml.parse, text, Loader=yaml.BaseLoader)


def test_the_rest_of_pyyaml_is_not_loaded_and_can_be_had_afterwards() -> None:
    program = (
        "import sys, uproxy.config\n"
        "print('yaml' in sys.modules, 'yaml.constructor' in sys.modules)\n"
        "import yaml\n"
        "print(yaml.safe_load('a: [1]'))\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["False False", "{'a': [1]}"]
