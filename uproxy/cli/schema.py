"""`uproxy schema`: prints the JSON Schema of the configuration, for editors and pipelines."""

from __future__ import annotations

import argparse
import json

from uproxy.config import json_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `schema` has no arguments."""


def run(args: argparse.Namespace) -> int:  # noqa: ARG001  every command has this shape
    """Print the schema."""
    print(json.dumps(json_schema(), indent=2))
    return 0
