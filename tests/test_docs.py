"""What the documentation says is so: configurations load, commands and links exist, tables are
complete and current.  `python -m tests.helpers.docs` prints what is drawn from the program."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.helpers.connections import FakeConnection, arrival, ending, known
from tests.helpers.docs import (
    PAGES,
    ROOT,
    Block,
    blocks,
    lifecycle_picture,
    metric_families,
    outcome_cells,
    prose,
    table,
)
from uproxy import errors
from uproxy.accesslog import access_record
from uproxy.cli import COMMANDS
from uproxy.cli.dry_run import REFUSED
from uproxy.cli.status import NOT_READY
from uproxy.config import load
from uproxy.log.lines import Event, json_line
from uproxy.metrics.labels import FLOW_LABELS
from uproxy.model import Outcome
from uproxy.proxy.admin import causes, facts, overview, router
from uproxy.proxy.admin.messages import Surface
from uproxy.proxy.admin.row import Row

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"

ENVIRON = {
    "CREDENTIALS_DIRECTORY": "/run/credentials/uproxy@orders.service",
    "NODE_IP": "10.0.0.1",
    "POD_IP": "10.1.0.1",
    "SPIFFE_ENDPOINT_SOCKET": "unix:///run/spire/agent/public/api.sock",
}

BASE: dict[str, Any] = {
    "identity": {"workload_api": "unix:///run/spire/agent/public/api.sock"},
    "inbound": [
        {"name": "api", "listen": "0.0.0.0:8443", "transport": "mtls", "to": "127.0.0.1:8080"}
    ],
}
"""What a `yaml part` is laid over."""

YAML_BLOCKS = [block for page in PAGES for block in blocks(page) if "yaml" in block.info]

_COMMAND = re.compile(r"(?:^|[\s`(/])uproxy ([a-z]+)((?:[^`\n#|]|\\\|)*)", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def code(page_blocks: Iterator[Block], text: str) -> str:
    """What stands in code: a page's blocks for shells, and the spans of its prose."""
    shells = [block.text for block in page_blocks if block.info in ("sh", "")]
    return "\n".join((*shells, *_CODE.findall(text)))


def commands() -> list[tuple[str, str, str]]:
    """Every `uproxy COMMAND …` in code: the page, the command, what follows it."""
    return [
        (str(page.relative_to(ROOT)), *found)
        for page in PAGES
        for found in _COMMAND.findall(code(blocks(page), prose(page)))
    ]


def options(command: str) -> set[str]:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"uproxy.cli.{command}").add_arguments(parser)
    return {"--log-level", *re.findall(r"--[a-z-]+", parser.format_help())}


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=str)
def test_every_configuration_in_the_docs_loads(block: Block) -> None:
    match block.info:
        case "yaml":
            text = block.text
        case "yaml part":
            text = json.dumps({**BASE, **yaml.safe_load(block.text)})
        case "yaml fragment":  # somebody else's format
            assert yaml.safe_load(block.text)
            return
        case _:
            pytest.fail(f"{block}: {block.info!r} is none of yaml, yaml part, yaml fragment")
    settings = load(text, environ=ENVIRON, overrides=(), folder=str(ROOT))
    assert settings.inbound or settings.outbound


def test_there_are_configurations_in_the_docs() -> None:
    assert len([block for block in YAML_BLOCKS if block.info == "yaml"]) > 8


def test_every_command_in_the_docs_exists_with_its_options() -> None:
    wrong = [
        (page, command, rest)
        for page, command, rest in commands()
        if command not in COMMANDS
        or not set(re.findall(r"(?<!\S)\[?(--[a-z-]+)", rest)) <= options(command)
    ]
    assert wrong == []


def test_every_command_is_in_the_reference() -> None:
    said = [found for page, *found in commands() if page == "docs/reference/cli.md"]
    assert {command for command, _ in said} == set(COMMANDS)


def test_every_option_is_in_the_reference() -> None:
    page = (REFERENCE / "cli.md").read_text()
    missing = [
        option
        for command in COMMANDS
        for option in options(command) - {"--help"}
        if option not in page
    ]
    assert missing == []


def test_every_exit_code_is_in_the_reference() -> None:
    codes = {
        str(error.exit_code)
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, errors.UproxyError)
    }
    assert {row[0] for row in table(REFERENCE / "cli.md", "code")} == codes | {
        "0",
        str(NOT_READY),
        str(REFUSED),
        "130",
    }


def test_every_make_target_in_the_docs_exists() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert named
    assert named <= set(phony[1].split())


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in PAGES
        for link in _LINK.findall(prose(page))
        if not re.match(r"[a-z]+:", link)
        and not (page.parent / link.partition("#")[0]).resolve().exists()
    ]
    assert broken == []


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = DOCS / "README.md"
    listed = {(DOCS / link).resolve() for link in _LINK.findall(contents.read_text())}
    pages = {page for page in PAGES if page.is_relative_to(DOCS)} - {contents}
    assert pages <= listed


def test_every_outcome_is_in_its_table_with_its_flag_and_states() -> None:
    rows = table(REFERENCE / "outcomes.md", "outcome")
    assert [row[:3] for row in rows] == list(outcome_cells())
    assert all(row[3] for row in rows)


def test_every_outcome_is_in_the_page_on_refusals() -> None:
    page = (DOCS / "howto" / "debug-a-refusal.md").read_text()
    ordinary = {Outcome.CLOSED, Outcome.NO_DESTINATION}
    assert [each for each in Outcome if each not in ordinary and f"`{each}`" not in page] == []


def test_the_picture_of_the_lifecycle_is_current() -> None:
    pictures = [block for block in blocks(REFERENCE / "outcomes.md") if block.info == "mermaid"]
    assert [picture.text for picture in pictures] == [lifecycle_picture()]


def test_every_metric_is_in_its_table_with_its_type_and_labels() -> None:
    flow = ", ".join(f"`{label}`" for label in FLOW_LABELS)
    said = {
        name.strip("`"): (kind, labels.replace("*flow*", flow))
        for name, kind, labels, _ in table(REFERENCE / "metrics.md", "metric")
    }
    shown = {
        name: (family.kind, ", ".join(f"`{label}`" for label in family.labels) or "-")
        for name, family in metric_families().items()
    }
    assert said == shown


def test_every_flow_label_is_explained() -> None:
    rows = table(REFERENCE / "metrics.md", "flow label")
    assert re.findall(r"`(\w+)`", " ".join(row[0] for row in rows)) == list(FLOW_LABELS)


def test_every_metric_in_a_query_of_the_docs_exists() -> None:
    named = {
        name
        for page in PAGES
        for name in re.findall(r"\b(?:istio_tcp|uproxy|process)_[a-z_]{4,}\b", page.read_text())
    }
    known = set(metric_families())
    ours = {f"uproxy_{room.name}" for room in (ROOT / "uproxy").iterdir()}
    assert {
        each for each in named - known - ours if not any(k.startswith(each) for k in known)
    } == set()


def test_every_field_of_the_access_log_is_in_its_table_and_its_example() -> None:
    connection = FakeConnection(arrival(None))
    record = access_record(known(), connection, ending(Outcome.CLOSED))
    event = Event(0.0, "info", "access", "connection complete", (*record.fields, ("name", "x")))
    keys = list(json.loads(json_line(event)))
    page = REFERENCE / "access-log.md"
    cells = " ".join(row[0] for row in table(page, "field"))
    assert re.findall(r"`([\w.]+)`", cells) == keys
    examples = [json.loads(block.text) for block in blocks(page) if block.info == "json"]
    assert [list(example) for example in examples] == [keys]


def test_every_admin_path_is_in_its_table_with_its_method() -> None:
    rows = table(REFERENCE / "admin.md", "request")
    said = {tuple(row[0].strip("`").partition("?")[0].split()) for row in rows}
    reads = {("GET", path) for path in router.READ}
    assert said == reads | {("POST", path) for path in router.CHANGE}


def test_every_admin_path_is_said_to_be_on_its_listeners() -> None:
    names = {Surface.ADMIN: "listen", Surface.METRICS: "metrics", Surface.READY: "ready"}
    for request, listeners, _ in table(REFERENCE / "admin.md", "request"):
        path = request.strip("`").partition("?")[0].split()[1]
        on = {name for surface, name in names.items() if path in router.PATHS[surface]}
        assert set(re.findall(r"`(\w+)`", listeners)) == on, path


def test_every_key_of_the_admin_servers_json_is_named() -> None:
    page = (REFERENCE / "admin.md").read_text()
    rows = [
        row
        for module in (causes, facts, overview)
        for _, row in inspect.getmembers(module, inspect.isclass)
        if issubclass(row, Row) and row is not Row
    ]
    keys = {f"{row.__name__}.{name}" for row in rows for name in row.__annotations__}
    assert {key for key in keys if f"`{key.partition('.')[2]}`" not in page} == set()


def test_what_the_docs_say_of_ignored_variables_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from uproxy.cli import IGNORED_ENVIRONMENT, main

    for page in ("cli.md", "security.md"):
        assert all(name in (REFERENCE / page).read_text() for name in IGNORED_ENVIRONMENT)
    monkeypatch.setenv("SSLKEYLOGFILE", "/tmp/keys")
    assert main(["version"]) == 0
    assert "SSLKEYLOGFILE" not in os.environ


def test_the_design_has_every_floor_from_the_top_down() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [floors] = (
        each["layers"]
        for each in project["tool"]["importlinter"]["contracts"]
        if each["type"] == "layers"
    )
    rooms = [room for layer in floors for room in re.split(r" [|:] ", layer)]
    design = (DOCS / "design.md").read_text()
    described = re.findall(r"`(\w+)[`/]", design.split("## Floors\n")[1].split("\n## ")[0])
    assert set(rooms) <= set(described)
    places = [described.index(room) for layer in floors for room in re.split(r" [|:] ", layer)[:1]]
    assert places == sorted(places)
