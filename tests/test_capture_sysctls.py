"""The kernel's settings are put back, and nothing else, whatever a record says."""

from __future__ import annotations

from pathlib import Path

import pytest

from uproxy.capture import sysctls

NAMES = list(sysctls.WANTED)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder instead of /proc/sys/net, as capture leaves it."""
    monkeypatch.setattr(sysctls, "_FOLDER", tmp_path)
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
    sysctls.write(sysctls.WANTED)
    return tmp_path


def test_each_has_its_value_again(settings: Path) -> None:
    sysctls.restore(dict.fromkeys(NAMES, "0"))
    assert sysctls.read() == dict.fromkeys(NAMES, "0")


def test_what_somebody_else_has_changed_stays(settings: Path) -> None:
    (settings / NAMES[0]).write_text("7")
    sysctls.restore(dict.fromkeys(NAMES, "0"))
    assert sysctls.read() == {**dict.fromkeys(NAMES, "0"), NAMES[0]: "7"}


@pytest.mark.parametrize("is_absolute", [True, False])
def test_what_capture_never_changes_is_left_alone(settings: Path, *, is_absolute: bool) -> None:
    other = settings / "ipv4" / "ip_forward"
    other.write_text("0")
    sysctls.restore({str(other) if is_absolute else "ipv4/ip_forward": "1"})
    assert other.read_text() == "0"
