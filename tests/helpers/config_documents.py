"""Renders settings as configuration text, and loads text in few words.

The renderer only uses the field names of the settings, not the loader's table, so that a round
trip tests the table.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from uproxy.config import Settings, load
from uproxy.errors import ConfigError
from uproxy.model import Host, Mistake, SystemdAddress, TcpAddress, UnixAddress

_DURATIONS = {
    "revocation_grace", "interval", "idle", "handshake", "connect", "half_close", "drain_delay",
    "drain", "keepalive",
}  # fmt: skip

FILES = "identity: {files: {svid: svid.pem, key: key.pem, bundles: {example.org: bundle.pem}}}\n"
"""The shortest valid identity."""


def loaded(
    text: str,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    folder: str = "/etc/uproxy",
) -> Settings:
    """Load text, by default with an empty environment."""
    return load(text, environ=environ or {}, overrides=overrides, folder=folder)


def mistakes(
    text: str, *, environ: Mapping[str, str] | None = None, overrides: Sequence[str] = ()
) -> tuple[Mistake, ...]:
    """Return the mistakes of a text; fail if it has none."""
    try:
        settings = loaded(text, environ=environ, overrides=overrides)
    except ConfigError as error:
        return error.mistakes
    raise AssertionError(f"accepted: {settings}")


def only_mistake(
    text: str, *, environ: Mapping[str, str] | None = None, overrides: Sequence[str] = ()
) -> Mistake:
    """Return the mistake of a text that has exactly one."""
    found = mistakes(text, environ=environ, overrides=overrides)
    assert len(found) == 1, [str(each) for each in found]
    return found[0]


def plain(settings: Settings) -> dict[str, Any]:
    """Return the settings as a document of plain values, including all defaults."""
    document: dict[str, Any] = _plain("", settings)
    for door in document.get("inbound", ()):
        if door["captured"]:
            del door["transport"]  # it follows from the ports
    for section in ("destinations", "l7_proxies", "inbound_trust"):
        for entry in document.get(section, {}).values():
            del entry["name"]  # it is the key
    for rule in document.get("authorization", ()):
        if rule["from"].pop("any"):
            rule["from"] = "any"
    return document


def as_json(settings: Settings) -> str:
    """Return a JSON document, indented with tabs as some tools do."""
    return json.dumps(plain(settings), indent="\t")


def as_yaml(settings: Settings) -> str:
    """Return a YAML document in block style."""
    return "\n".join(_block(plain(settings), "")) + "\n"


def _plain(name: str, value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(
        value, TcpAddress | UnixAddress | SystemdAddress | Host
    ):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {key.rstrip("_"): _plain(key, each) for key, each in pairs if _written(key, each)}
    if isinstance(value, Mapping):
        # variables are not replaced in keys, so a dollar in one is itself
        return {str(key): _plain("", each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain("", each) for each in value]
    return _scalar(name, value)


def _scalar(name: str, value: Any) -> Any:
    if name in _DURATIONS:
        return f"{round(value * 1000)}ms" if value else 0
    if name in ("stream_window", "connection_window"):
        return f"{value // 1024}KiB"
    if name == "mode" and isinstance(value, int):
        return f"{value:04o}"
    if name == "workload_api" and isinstance(value, TcpAddress):
        return f"tcp://{value}"
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, TcpAddress | UnixAddress | SystemdAddress | Host):
        return str(value).replace("$", "$$")
    if isinstance(value, IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        return str(value).replace("$", "$$")
    return value.replace("$", "$$") if isinstance(value, str) else value


def _written(key: str, value: Any) -> bool:
    """Return whether a value is written: null switches an admin listener off and is omitted
    elsewhere; an empty list would be a mistake."""
    return key in ("listen", "metrics", "ready") or value not in (None, ())


def _block(value: Any, indent: str) -> list[str]:
    lines: list[str] = []
    for key, each in value.items():
        head = f"{indent}{json.dumps(key)}:"
        if isinstance(each, dict) and each:
            lines += [head, *_block(each, indent + "  ")]
        elif isinstance(each, list) and each and isinstance(each[0], dict):
            lines.append(head)
            for item in each:
                first, *rest = _block(item, indent + "    ")
                lines += [f"{indent}  - {first.lstrip()}", *rest]
        else:
            lines.append(f"{head} {json.dumps(each)}")
    return lines
