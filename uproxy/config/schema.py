"""The JSON Schema of the configuration, drawn from the table of fields.

It says what each field may hold; what several fields must obey together only `load` knows.
"""

from __future__ import annotations

from uproxy.config.fields import SETTINGS
from uproxy.config.kinds import Json


def json_schema() -> Json:
    """The schema as plain JSON values, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "uProxy configuration",
        **SETTINGS.schema(),
    }
