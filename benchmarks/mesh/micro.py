"""A uProxy for each workload, with the shared Envoys of deploy/envoy in the path or out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.mesh.workloads import APPLICATION, CALLERS, SERVICES, Workload, service
from uproxy.lab.mesh import Identities, TunnelsIn
from uproxy.lab.processes import Uproxy
from uproxy.lab.software.shared_envoy import SharedEnvoy

L7 = "spiffe://example.org/ns/mesh/sa/l7"
DOORS = 8000
"""The port of a caller's address for the first service; the others follow."""
HBONE = 15008

Config = dict[str, Any]

_QUIET: Config = {"log": {"access": "none"}, "tls": {"groups": ["X25519"]}}


class Caller(Uproxy):
    """The uProxy of a caller, with a door for each service that runs."""

    def __init__(
        self,
        folder: Path,
        identities: Identities,
        workload: Workload,
        envoys: list[SharedEnvoy],
        known: int,
    ) -> None:
        """`known`: how many services of the mesh are in its configuration."""
        self.workload = workload
        self._config: Config = {
            "identity": identities.ours(workload.spiffe_id),
            "outbound": [
                {"listen": f"{workload.host}:{DOORS + each.number}", "to": _name(each)}
                for each in SERVICES
            ],
            "destinations": {
                **{f"s{number}": _elsewhere(number) for number in range(len(SERVICES), known)},
                **{_name(each): _destination(each, bool(envoys)) for each in SERVICES},
            },
            **_QUIET,
        }
        super().__init__(self._with(envoys, ()), folder / f"uproxy-{workload.host}")

    def _with(self, envoys: list[SharedEnvoy], draining: tuple[SharedEnvoy, ...]) -> Config:
        if not envoys:
            return self._config
        addresses = [
            {"address": f"127.0.0.1:{each.port}", "draining": each in draining} for each in envoys
        ]
        return {**self._config, "l7_proxies": {"l7": {"addresses": addresses, "identities": [L7]}}}

    def drain(self, envoys: list[SharedEnvoy], draining: tuple[SharedEnvoy, ...]) -> None:
        """Mark shared Envoys as draining, and the others not."""
        self.write_config(self._with(envoys, draining))


class Called(TunnelsIn):
    """The uProxy of a service, which takes every service account, by itself or by the shared
    Envoys."""

    def __init__(
        self, folder: Path, identities: Identities, workload: Workload, *, trusts: bool
    ) -> None:
        self.workload = workload
        rule: Config = {
            "name": "mesh",
            "action": "allow",
            "from": {"identities": ["spiffe://example.org/ns/mesh/sa/*"]},
        }
        more: Config = {"authorization": [rule], **_QUIET}
        if trusts:
            rule["from"]["via"] = ["direct", "l7"]
            more["inbound_trust"] = {
                "l7": {"identities": [L7], "speaks_for": ["spiffe://example.org/ns/mesh/**"]}
            }
        super().__init__(
            folder, identities.ours(workload.spiffe_id), APPLICATION, engine="native",
            host=workload.host, port=HBONE, **more,
        )  # fmt: skip
        self.config["inbound"][0].pop("to")  # the application listens where the tunnel arrives
        self.write_config(self.config)


def _name(workload: Workload) -> str:
    return f"s{workload.number}"


def _destination(workload: Workload, through_l7: bool) -> Config:
    return {
        "addresses": [f"{workload.host}:{APPLICATION}"],
        "transport": "hbone",
        "identities": [workload.spiffe_id],
        **({"via": "l7"} if through_l7 else {}),
    }


def _elsewhere(number: int) -> Config:
    """A service that doesn't run."""
    return {
        "addresses": [f"{_address(number)}:{APPLICATION}"],
        "transport": "hbone",
        "identities": [service(number).spiffe_id],
    }


def _address(number: int) -> str:
    # those that don't run have addresses of their own, since a domain belongs to one host
    if number < len(SERVICES):
        return service(number).host
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def routes(services: int) -> str:
    """Return the routes of the shared Envoy: a policy for each service of a mesh, and for those of
    one address the first."""
    hosts = "".join(_host(number) for number in range(services))
    return f"""\
resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: l7
  vhost_header: x-uproxy-destination
  virtual_hosts:
{hosts}"""


def _host(number: int) -> str:
    return f"""\
  - name: s{number}
    domains: ["{_address(number)}:{APPLICATION}"]
    routes:
    - name: s{number}
      match: {{prefix: /}}
      route:
        cluster: destination
        timeout: 0s
        retry_policy: {{retry_on: connect-failure, num_retries: 2}}
"""


def callers(
    folder: Path, identities: Identities, envoys: list[SharedEnvoy], known: int = len(SERVICES)
) -> list[Caller]:
    """Return the uProxies of the first node; `known`: how many services each has in its
    configuration."""
    return [Caller(folder, identities, each, envoys, known) for each in CALLERS]


def called(folder: Path, identities: Identities, *, trusts: bool) -> list[Called]:
    """Return the uProxies of the second node."""
    return [Called(folder, identities, each, trusts=trusts) for each in SERVICES]
