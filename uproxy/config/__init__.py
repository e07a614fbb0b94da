"""The configuration: parsed from text into immutable settings, or into all mistakes.  Pure.

`load` returns `Settings`; `warnings` lists settings that are valid but probably not intended;
`changes` compares two settings for a reload; `json_schema` and `reference_markdown` describe
the file.
"""

from uproxy.config.advice import warnings
from uproxy.config.loading import load
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
    "reference_markdown",
    "warnings",
]
