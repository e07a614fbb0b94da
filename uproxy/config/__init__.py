"""The configuration: parsed from text into immutable settings, or into all mistakes.  Pure.

`load` returns `Settings`, `load_admin_listen` one of their addresses; `warnings` lists settings
that are valid but probably not intended; `changes` compares two settings for a reload;
`json_schema` and `reference_markdown` describe the file.
"""

from uproxy.config.advice import warnings
from uproxy.config.loading import load, load_admin_listen
from uproxy.config.reference import reference_markdown
from uproxy.config.reload import Changes, changes
from uproxy.config.schema import json_schema
from uproxy.config.settings import Settings

__all__ = [
    "Changes",
    "Settings",
    "changes",
    "json_schema",
    "load",
    "load_admin_listen",
    "reference_markdown",
    "warnings",
]
