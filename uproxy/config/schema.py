"""Generates the JSON Schema of the configuration from the table of fields.

It describes each setting by itself; rules that concern several settings are only checked by
`load`.
"""

from __future__ import annotations

from uproxy.config.fields import SETTINGS
from uproxy.config.kinds import Json


def json_schema() -> Json:
    """Return the schema (draft 2020-12) as plain JSON values."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "uProxy configuration",
        **SETTINGS.schema(),
    }
