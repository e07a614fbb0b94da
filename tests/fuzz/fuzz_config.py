"""Any bytes as a configuration, as an override and as a variable: settings or a ConfigError."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["uproxy", "yaml"]):
    from uproxy.config import changes, load, warnings
    from uproxy.config.places import locate
    from uproxy.errors import ConfigError

_BASE = "identity: {workload_api: unix:///run/agent.sock}\n"
_KEYS = (
    "identity", "inbound", "outbound", "destinations", "authorization", "tls", "timeouts",
    "limits", "admin", "log", "name",
)  # fmt: skip


def check(data: bytes) -> None:
    """Read `data` as a whole file, as every section, and as an override of one."""
    text = data.decode("utf-8", "surrogateescape")
    key = _KEYS[len(data) % len(_KEYS)]
    _check_load(text, ())
    _check_load(f"{_BASE}{key}:\n  {text}", ())
    _check_load(_BASE, (f"{key}={text}", text))


def _check_load(text: str, overrides: tuple[str, ...]) -> None:
    environ = {"NAME": text[:40], "UPROXY__TIMEOUTS__IDLE": "1h"}
    try:
        settings = load(text, environ=environ, overrides=overrides, folder="/etc/uproxy")
    except ConfigError as error:
        _check_report([str(mistake) for mistake in error.in_file("fuzz.yaml").mistakes])
        return
    found = locate(text, "fuzz.yaml", environ, overrides, warnings(settings))
    assert all(each.labelled("warning").isprintable() for each in found)
    assert not changes(settings, settings).keys


def _check_report(lines: list[str]) -> None:
    """A refusal says something, in lines that neither break a log nor its encoding."""
    assert lines
    for line in lines:
        assert line.isprintable(), line


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
