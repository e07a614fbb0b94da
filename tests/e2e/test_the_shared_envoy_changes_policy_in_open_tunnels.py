"""The shared Envoy loads each of deploy/envoy's configurations while connections stay open."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.helpers.dialogue import s_client, shown_serial
from tests.helpers.http_app import Client
from tests.helpers.shared import Shared
from uproxy.lab.mesh import WEB
from uproxy.lab.software.shared_envoy import CAPABILITIES, SHIPPED
from uproxy.lab.waiting import wait_until
from uproxy.spiffe.encoding import serial_text

WITHOUT_A_SERVICE = {"ext-authz-grpc", "ext-authz-http", "wasm", "wasm-apart"}
"""Whose service or module isn't there: orders' requests are refused."""


def test_each_configuration_is_loaded_and_no_connection_lost(shared: Shared, frontend: int) -> None:
    with Client(frontend) as client:
        assert client.fetch().status == 200
        before = shared.envoy.statistics("http.tunnels.downstream_cx_total")
        for capability in CAPABILITIES:
            if capability not in WITHOUT_A_SERVICE:
                shared.envoy.use(capability)
                assert client.fetch().status == 200, capability
        for capability in sorted(WITHOUT_A_SERVICE - {"wasm"}):
            shared.envoy.use(capability)
            assert client.fetch().status == 403, capability
        shared.envoy.use(None)
        assert client.fetch().status == 200
        assert shared.envoy.statistics("http.tunnels.downstream_cx_total") == before


def test_each_configuration_says_what_it_shows_and_is_in_the_table() -> None:
    files = [*SHIPPED.rglob("*.yaml")]
    assert [file for file in files if not file.read_text().startswith("# ")] == []
    table = re.findall(r"^\| (`[^|]+) \|", (SHIPPED / "README.md").read_text(), re.M)
    named = {name for cell in table for name in re.findall("`([a-z-]+)`", cell)}
    assert named == set(CAPABILITIES)


def test_a_broken_file_changes_nothing(shared: Shared, frontend: int) -> None:
    shared.envoy.use("lua")
    with Client(frontend) as client:
        broken = (SHIPPED / "policy" / "routes.yaml").read_text().replace("prefix: /", "prefiks: /")
        with pytest.raises(AssertionError, match="prefiks"):
            shared.envoy.put("routes.yaml", broken)
        assert client.fetch().headers["x-lua"] == "seen"


def test_files_that_kubernetes_replaces_are_read_again(shared: Shared) -> None:
    """A ConfigMap with the policy, a Secret with the certificate."""
    envoy = shared.another_envoy()
    policy, identity = envoy.home / "policy", envoy.home / "identity"
    for folder in (policy, identity):
        mount(folder, {path.name: path.read_bytes() for path in folder.iterdir()})
    with envoy, shared.caller(envoys=[envoy]) as caller, Client(caller.port) as client:
        assert "x-lua" not in client.fetch().headers
        lua = (SHIPPED / "capabilities" / "lua" / "routes.yaml").read_text()
        mount(policy, {"routes.yaml": lua.replace("10.0.0.7:8080", shared.addresses[0]).encode()})
        wait_until(lambda: "x-lua" in client.fetch().headers, "the policy to be read")
        renewed = shared.world.ca.issue("/ns/mesh/sa/l7")
        mount(identity, {"svid.pem": renewed.pem, "svid.key": renewed.key_pem})
        serial = serial_text(renewed.certificate)
        wait_until(lambda: shown(envoy.port, shared) == serial, "the certificate to be shown")
        assert client.fetch().status == 200


def mount(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files as kubelet does: each is a link into a folder that the link `..data` names,
    and that one is replaced."""
    data = folder / "..data"
    version = folder / f"..{len(list(folder.glob('..*')))}"
    version.mkdir()
    for name, content in files.items():
        (version / name).write_bytes(content)
    for name in (path.name for path in folder.iterdir() if path.is_file()):
        if name not in files:
            (version / name).write_bytes((folder / name).read_bytes())
    fresh = folder / "..data_tmp"
    fresh.symlink_to(version.name)
    fresh.replace(data)
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).unlink()
            (folder / name).symlink_to(f"..data/{name}")


def shown(port: int, shared: Shared) -> str:
    """The serial number of the certificate that a loopback port shows to the frontend."""
    with s_client(port, shared.world.theirs(WEB), "-alpn", "h2") as client:
        client.receive("-----END CERTIFICATE-----\n")
        return shown_serial(client)
