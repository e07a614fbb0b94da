"""The JSON Schema, judged by a validator nobody here wrote."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers.config_documents import FILES, loaded, mistakes
from tests.test_config_loading import WHOLE
from uproxy.config import json_schema
from uproxy.config.fields import SETTINGS
from uproxy.config.kinds import ListOf, MapOf, Nullable, WordOr
from uproxy.config.records import Field, Record

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def _document(text: str) -> Any:
    return yaml.safe_load(text)


def test_the_schema_is_a_schema_of_its_draft() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("text", [WHOLE, FILES, FILES + "admin: null\nlog: null\n"])
def test_good_documents_are_valid(text: str) -> None:
    loaded(text)
    VALIDATOR.validate(_document(text))


def test_variables_are_valid_anywhere_a_scalar_is() -> None:
    text = FILES + (
        "limits: {connections: '${MAX}'}\ntls: {min_version: '${V}'}\n"
        "admin: {listen: '${IP}:80'}\ntimeouts: {idle: '${IDLE}'}\n"
        "authorization: [{action: allow, from: '${WHO}'}]\n"
    )
    environ = {"MAX": "7", "V": "1.3", "IP": "127.0.0.1", "IDLE": "1h", "WHO": "any"}
    loaded(text, environ=environ)
    VALIDATOR.validate(_document(text))


@pytest.mark.parametrize(
    "text",
    [
        "nname: a",
        "name: 5",
        "name: true",
        "limits: {connections: 0}",
        "limits: {connections: many}",
        "limits: {connections: 1.5}",
        "timeouts: {idle: 5}",
        "timeouts: {idle: 5 minutes}",
        "timeouts: {idlle: 5s}",
        "tls: {groups: []}",
        "tls: {groups: [X25519, X25519]}",
        "tls: {groups: [X]}",
        "tls: {min_version: '1.1'}",
        "on_policy_change: maybe",
        "inbound: {}",
        "inbound: [{listen: 0.0.0.0, transport: mtls, to: unix:///a}]",
        "inbound: [{listen: 0.0.0.0:1, transport: hbone, ports: [0]}]",
        "inbound: [{listen: 0.0.0.0:1, transport: hbone, ports: some}]",
        "hbone: {stream_window: 65536}",
        "hbone: {max_streams: 0}",
        "outbound: [{listen: unix:///a, to: d, mode: '0900'}]",
        "outbound: [{listen: unix:///a, to: d, expose: 'true'}]",
        "outbound: [{captured: true}]",
        "destinations: {d: {addresses: ['a:1'], transport: mtls, identities: [a]}}",
        "authorization: [{action: maybe}]",
        "authorization: [{action: allow, from: all}]",
        "authorization: [{action: allow, from: {identities: []}}]",
        "authorization: [{action: allow, to: {ports: [70000]}}]",
        "workers: 0",
        "handover: null",
        "engine: cython",
        "admin: {listen: 5}",
        "log: {level: loud}",
    ],
)
def test_bad_documents_are_invalid_for_the_loader_and_for_the_schema(text: str) -> None:
    assert mistakes(FILES + text)
    assert not VALIDATOR.is_valid(_document(FILES + text))


def test_every_default_of_the_schema_is_the_default_of_the_settings() -> None:
    base = loaded(FILES)
    for path, default in _defaults(SETTINGS, ()):
        text = _nested(path, default)
        assert loaded(FILES, overrides=[text]) == base, text


def _defaults(record: Record, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], object]]:
    found: list[tuple[tuple[str, ...], object]] = []
    for field in record.fields:
        here = (*path, field.name)
        kind = field.kind.item if isinstance(field.kind, Nullable) else field.kind
        if isinstance(kind, Record):
            found += _defaults(kind, here)
        elif field.default is not None:
            found.append((here, field.default))
    return found


def _nested(path: tuple[str, ...], default: object) -> str:
    written = f"[{', '.join(default)}]" if isinstance(default, list) else str(default)
    return f"{'.'.join(path)}={written}"


def _fields(record: Record) -> list[Field]:
    found = list(record.fields)
    for field in record.fields:
        kind = field.kind
        while isinstance(kind, Nullable | WordOr | ListOf | MapOf):
            kind = kind.item
        found += _fields(kind) if isinstance(kind, Record) else []
    return found


def test_every_field_has_a_description() -> None:
    assert all(field.doc.endswith(".") for field in _fields(SETTINGS))
