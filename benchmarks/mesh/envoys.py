"""Envoys as L7 proxies at or near the workloads: what one has in its configuration for those that
it serves.

An Envoy serves any number of workloads.  For each it listens where the workload's application
connects to, routes by the name of the service over mutual TLS, and takes mutual TLS for the
workload's own application.  A cluster has one client certificate, so an Envoy with several service
accounts has each service's cluster once for each of them.  Routes come from a file for each
service account, so that policy changes without new listeners.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.mesh.workloads import APPLICATION, Workload, accounts, service
from uproxy.lab.mesh import Identities
from uproxy.lab.software.envoy import Envoy, EnvoyProcess

Json = dict[str, Any]

OUT, IN = 8000, 8443
"""The ports of a workload's address at which its proxy takes its application's connections, and
other workloads'."""

_API = "type.googleapis.com/envoy."
_HTTP = f"{_API}extensions.filters.http"
_TLS = f"{_API}extensions.transport_sockets.tls.v3"


_WATCHDOG = {"miss_timeout": "0.5s", "megamiss_timeout": "1s", "kill_timeout": "5s"}
"""As deploy/envoy has it: a thread that is stuck ends the process."""

NO_YAML = "resources: [\n"
"""A file with a mistake."""


def move_into_place(file: Path, text: str) -> None:
    """Replace a file that an Envoy watches."""
    fresh = file.with_suffix(".fresh")
    fresh.write_text(text)
    fresh.replace(file)


class MeshEnvoy(Envoy):
    """The Envoy of some workloads of one node, with `services` services in its configuration."""

    def __init__(
        self,
        folder: Path,
        identities: Identities,
        workloads: tuple[Workload, ...],
        services: int,
    ) -> None:
        self.workloads = workloads
        self._folder = folder / f"routes-{workloads[0].host}"
        self._folder.mkdir()
        self._services = services
        for account in accounts(workloads):
            self.route(account)
        super().__init__(workloads[0].host, folder, OUT, self._bootstrap(identities))
        with_two_threads(self)

    def route(self, account: str, script: str | None = None) -> None:
        """Write the routes of a service account's callers; `script` is Lua that sees the requests
        to the first service."""
        document = _routes(account, self._services, script)
        move_into_place(self._folder / f"{account}.json", json.dumps({"resources": [document]}))

    def spoil(self) -> None:
        """Replace the routes of its first workload's account by a file with a mistake."""
        move_into_place(self._folder / f"{self.workloads[0].account}.json", NO_YAML)

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return Path(self.argv[self.argv.index("-c") + 1])

    def _bootstrap(self, identities: Identities) -> Json:
        own = accounts(self.workloads)
        files = {name: identities.theirs(each[0].spiffe_id) for name, each in own.items()}
        secrets = [
            {"name": name, "tls_certificate": {
                "certificate_chain": {"filename": str(each.svid)},
                "private_key": {"filename": str(each.key)},
            }}
            for name, each in files.items()
        ]  # fmt: skip
        bundle = str(next(iter(files.values())).bundle)
        secrets.append(
            {"name": "ROOTCA", "validation_context": {"trusted_ca": {"filename": bundle}}}
        )
        listeners: list[Json] = []
        clusters: list[Json] = []
        for each in self.workloads:
            listeners += [self._outbound(each), _inbound(each)]
            clusters.append(_cluster(f"app-{each.host}", each.host, APPLICATION))
        for name in own:
            clusters += [_service(name, number) for number in range(self._services)]
        return {
            "node": {"id": self.workloads[0].host, "cluster": "mesh"},
            "watchdogs": {"worker_watchdog": _WATCHDOG},
            "static_resources": {"listeners": listeners, "clusters": clusters, "secrets": secrets},
        }

    def _outbound(self, workload: Workload) -> Json:
        path = self._folder / f"{workload.account}.json"
        source = {"path": str(path), "watched_directory": {"path": str(self._folder)}}
        rds = {
            "route_config_name": workload.account,
            "config_source": {"resource_api_version": "V3", "path_config_source": source},
        }
        return _listener(f"out-{workload.host}", workload.host, OUT, {"rds": rds}, None)


def with_two_threads(envoy: EnvoyProcess) -> None:
    """Give an Envoy as many threads as a uProxy has on two processors."""
    envoy.argv[envoy.argv.index("--concurrency") + 1] = "2"


def with_module(config: str, workload: Workload, module: Path) -> str:
    """Return an Envoy's configuration with a Wasm module for the requests to a workload's
    application; one that crashes is loaded again."""
    document = json.loads(config)
    listeners = document["static_resources"]["listeners"]
    [own] = [each for each in listeners if each["name"] == f"in-{workload.host}"]
    filters = own["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    code = {"local": {"filename": str(module)}}
    plugin = {
        "name": "faults",
        "failure_policy": "FAIL_RELOAD",
        "vm_config": {"runtime": "envoy.wasm.runtime.v8", "code": code},
    }
    settings = {"@type": f"{_HTTP}.wasm.v3.Wasm", "config": plugin}
    filters.insert(0, {"name": "envoy.filters.http.wasm", "typed_config": settings})
    return json.dumps(document, indent=1)


def _routes(account: str, services: int, script: str | None) -> Json:
    hosts = [_virtual_host(f"s{number}", f"{account}-s{number}") for number in range(services)]
    if script is not None:
        hosts[0]["typed_per_filter_config"] = {
            "envoy.filters.http.lua": {
                "@type": f"{_HTTP}.lua.v3.LuaPerRoute",
                "source_code": {"inline_string": script},
            }
        }
    return {
        "@type": f"{_API}config.route.v3.RouteConfiguration",
        "name": account,
        "virtual_hosts": hosts,
    }


def _virtual_host(name: str, cluster: str) -> Json:
    retries = {"retry_on": "connect-failure,refused-stream", "num_retries": 2}
    return {
        "name": name,
        "domains": [name],
        "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": cluster, "retry_policy": retries}}
        ],
    }


def _inbound(workload: Workload) -> Json:
    anybody = [{"san_type": "URI", "matcher": {"prefix": "spiffe://example.org/"}}]
    socket = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TLS}.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": _common(workload.account, anybody),
        },
    }
    host = {
        "name": "app",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": f"app-{workload.host}"}}],
    }
    routes = {"route_config": {"virtual_hosts": [host]}}
    return _listener(f"in-{workload.host}", workload.host, IN, routes, socket)


def _listener(name: str, host: str, port: int, routes: Json, socket: Json | None) -> Json:
    manager = {
        "@type": f"{_API}extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "http",
        "http_filters": [
            {"name": "envoy.filters.http.lua", "typed_config": {"@type": f"{_HTTP}.lua.v3.Lua"}},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_HTTP}.router.v3.Router"},
            },
        ],
        **routes,
    }
    chain: Json = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    if socket is not None:
        chain["transport_socket"] = socket
    return {"name": name, "address": _address(host, port), "filter_chains": [chain]}


def _service(account: str, number: int) -> Json:
    to = service(number)
    expected = [{"san_type": "URI", "matcher": {"exact": to.spiffe_id}}]
    socket = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TLS}.UpstreamTlsContext",
            "common_tls_context": _common(account, expected),
        },
    }
    name = f"{account}-s{number}"
    return {**_cluster(name, to.host, IN), "transport_socket": socket}


def _common(account: str, expected: list[Json]) -> Json:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3",
                       "tls_maximum_protocol_version": "TLSv1_3", "ecdh_curves": ["X25519"]},
        "tls_certificate_sds_secret_configs": [{"name": account}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": expected},
            "validation_context_sds_secret_config": {"name": "ROOTCA"},
        },
    }  # fmt: skip


def _cluster(name: str, host: str, port: int) -> Json:
    endpoint = {"endpoint": {"address": _address(host, port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(host: str, port: int) -> Mapping[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def sidecars(folder: Path, identities: Identities, node: tuple[Workload, ...], services: int
             ) -> list[MeshEnvoy]:  # fmt: skip
    """Return an Envoy for each workload."""
    return [MeshEnvoy(folder, identities, (each,), services) for each in node]


def for_accounts(folder: Path, identities: Identities, node: tuple[Workload, ...], services: int
                 ) -> list[MeshEnvoy]:  # fmt: skip
    """Return an Envoy for each service account."""
    groups = accounts(node).values()
    return [MeshEnvoy(folder, identities, each, services) for each in groups]


def for_node(folder: Path, identities: Identities, node: tuple[Workload, ...], services: int
             ) -> list[MeshEnvoy]:  # fmt: skip
    """Return one Envoy."""
    return [MeshEnvoy(folder, identities, node, services)]
